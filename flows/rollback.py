"""Take an endpoint back to the version before, or end the release that is in flight."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from prefect import flow

from deploy_targets import open_target
from headgate.errors import NothingToRollBackError, RolledBackError, TimedOutError
from headgate.home import Home
from headgate.phases import Outcome
from headgate.records import ReleaseResult
from headgate.spec import ReleaseSpec
from registry import Entry, Kind, history
from registry.journal import open_journal
from registry.lease import holder
from tasks.job import ABORT, Job, ReleaseJob, new_id, whoami
from tasks.report import OUTCOME, conclude
from tasks.rollback import bring_up, find_earlier, retire_failed, switch_back
from tasks.step import run
from tasks.undo import undo

if TYPE_CHECKING:
    from registry.history import InFlight

_ABORT_SECONDS = 120.0
_POLL_SECONDS = 0.1


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
            ended = _end_release(ReleaseJob(home, journal, described, started.release_id, by), started, reason)
            # It may have been promoted before it saw the wish; then there is something to go back from.
            wanted = ended.champion if version is None else version
            if ended.outcome is not Outcome.PROMOTED and wanted == ended.champion:
                return ended
        job_id = new_id(endpoint, "rollback")
        return _go_back(Job(home, journal, open_target(described.target), endpoint, job_id, by), reason, version)


def _end_release(job: ReleaseJob, started: InFlight, reason: str) -> ReleaseResult:
    began = time.monotonic()
    asked = None
    while time.monotonic() - began < _ABORT_SECONDS:
        held = holder(job.journal, job.endpoint)
        if held is None:
            ended = _ended(job, asked)
            return ended or _undo_abandoned(job, reason, began)
        if asked is None:
            asked = job.write(Kind.DECISION, ABORT, reason)
        time.sleep(_POLL_SECONDS)
    raise TimedOutError(
        f"release {started.release_id} of {job.endpoint} was not taken back within {_ABORT_SECONDS:g} s",
        fix="see headgate status; it obeys at its next step; else end its process, and roll back again",
    )


def _ended(job: ReleaseJob, asked: Entry | None) -> ReleaseResult | None:
    """How its own process ended the release, once it was asked to."""
    for row in job.journal.read(job.endpoint, release_id=job.release_id, after=asked.seq) if asked else []:
        if row.what == OUTCOME:
            return ReleaseResult.model_validate(row.evidence["result"])
    return None


def _undo_abandoned(job: ReleaseJob, reason: str, began: float) -> ReleaseResult:
    """Undo a release that no process holds."""
    with job.hold():
        error = RolledBackError(f"{job.actor} took it back: {reason}")
        run(undo, job, error.message)
        return run(conclude, job, error, began)


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
