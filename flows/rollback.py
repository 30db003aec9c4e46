"""Take an endpoint back to the version before, or end the release that is in flight."""

from __future__ import annotations

import time

from prefect import flow

from deploy_targets import open_target
from headgate.actor import whoami
from headgate.errors import NothingToRollBackError
from headgate.home import Home
from headgate.phases import Outcome
from headgate.records import ReleaseResult
from headgate.spec import ReleaseSpec
from registry import Kind, history
from registry.journal import open_journal
from tasks.ending import end_release
from tasks.job import Job, ReleaseJob, new_id
from tasks.rollback import bring_up, find_earlier, retire_failed, switch_back
from tasks.step import run


@flow(name="rollback", flow_run_name="rollback {endpoint}")
async def rollback(endpoint: str, reason: str, version: int | None = None, actor: str = "") -> ReleaseResult:
    """Roll an endpoint back.

    A release that is in flight is taken back, by the process that holds it where that lives. Where there is none, the
    champion before this one gets all traffic again.

    Args:
        endpoint: what clients call.
        reason: why; it is written into the history.
        version: go back to this one instead.
        actor: who asked; by default the user who runs this.

    Raises:
        NothingToRollBackError: no earlier version is known.
    """
    home = Home.from_env().ensure()
    with open_journal(home.journal_url) as journal:
        started = history.in_flight(journal, endpoint)
        spec = history.spec_of(journal, endpoint)
        if spec is None:
            raise NothingToRollBackError(f"nothing was ever released to {endpoint}", fix="see headgate status")
        described = ReleaseSpec.model_validate(spec)
        by = actor or whoami()
        if started is not None:
            ended = end_release(ReleaseJob(home, journal, described, started.release_id, by), reason)
            # It may have been promoted before it saw the wish; then there is something to go back from.
            wanted = ended.champion if version is None else version
            if ended.outcome is not Outcome.PROMOTED and wanted == ended.champion:
                return ended
        job_id = new_id(endpoint, "rollback")
        return _go_back(Job(home, journal, open_target(described.target), endpoint, job_id, by), reason, version)


def _go_back(job: Job, reason: str, version: int | None) -> ReleaseResult:
    began = time.monotonic()
    with job.hold():
        earlier = find_earlier(job, version)
        present = job.champion
        job.write(Kind.DECISION, "rollback", reason, {"to": earlier.name})
        run(bring_up, job, earlier)
        run(switch_back, job, earlier, reason)
        if present is not None and present.name != earlier.name:
            run(retire_failed, job, present)
        state = job.target.observe(job.endpoint)
    return ReleaseResult(
        release_id=job.release_id, endpoint=job.endpoint, outcome=Outcome.ROLLED_BACK, reason=reason,
        version=present.version.version if present else None, champion=earlier.version.version,
        url=state.url if state else "", seconds=time.monotonic() - began,
    )  # fmt: skip
