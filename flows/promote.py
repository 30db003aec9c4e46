"""Promote a release that is held: someone decides what the judge could not."""

from __future__ import annotations

from prefect import flow

from headgate import clock
from headgate.actor import whoami
from headgate.errors import BadInputError
from headgate.home import Home
from headgate.phases import Phase
from headgate.records import ReleaseResult
from headgate.spec import ReleaseSpec
from registry import Kind, history
from registry.endpoints import require_endpoint
from registry.journal import open_journal
from tasks.ending import challenger_of
from tasks.job import ReleaseJob
from tasks.report import conclude
from tasks.shift import promote as give_all_traffic
from tasks.step import flow_run_id, run
from tasks.undo import retire_expired


@flow(name="promote", flow_run_name="promote {endpoint}")
async def promote(endpoint: str, reason: str, actor: str = "") -> ReleaseResult:
    """Give the held challenger of an endpoint all traffic.

    Args:
        endpoint: the name that clients call.
        reason: why; it is written into the history.
        actor: who decided; empty for the user whose process runs this.

    Raises:
        BadInputError: there is no such endpoint, or no release of it is held.
    """
    began = clock.monotonic()
    home = Home.from_env().ensure()
    with open_journal(home.journal_url) as journal:
        require_endpoint(journal, endpoint)
        held = history.in_flight(journal, endpoint)
        spec = history.spec_of(journal, endpoint)
        if held is None or spec is None or held.phase is not Phase.HELD:
            raise BadInputError(
                f"no release of {endpoint} is held" + (f"; {held.release_id} is {held.phase}" if held else ""),
                fix="see headgate status",
            )
        job = ReleaseJob(home, journal, ReleaseSpec.model_validate(spec), held.release_id, actor or whoami())
        with job.hold():
            job.write(Kind.DECISION, history.PROMOTE, reason, {"flow_run": flow_run_id()})
            run(give_all_traffic, job, challenger_of(job), f"{job.actor}: {reason}")
            run(retire_expired, job, job.spec.rollback.keep_warm)
            return run(conclude, job, None, began)
