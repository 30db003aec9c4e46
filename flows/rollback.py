"""Take an endpoint back to the version before, or end the release that is in flight."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefect import flow
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from headgate import clock
from headgate.actor import whoami
from headgate.errors import EndpointBusyError
from headgate.home import Home
from headgate.phases import Outcome
from headgate.records import ReleaseResult
from headgate.spec import ReleaseSpec
from registry import Kind, history
from registry.endpoints import require_release_file
from registry.journal import open_journal
from tasks.ending import end_release
from tasks.job import ReleaseJob, new_id
from tasks.rollback import find_earlier, go_back
from tasks.step import flow_run_id

if TYPE_CHECKING:
    from registry.history import Reign

_BUSY_SECONDS = 60.0


@flow(name="rollback", flow_run_name="rollback {endpoint}")
async def rollback(
    endpoint: str, reason: str, version: int | None = None, actor: str = "", of: str = ""
) -> ReleaseResult:
    """Roll an endpoint back.

    A release that is in flight is taken back, by the process that holds it where that lives. Where there is none, the
    champion before this one gets all traffic again. Where `of` is neither in flight nor live any more, nothing is done:
    of two alerts about one version the second shall not take back the version that the first one brought back.

    Args:
        endpoint: the name that clients call.
        reason: why; it is written into the history.
        version: go back to this version's number; none for the version before.
        actor: who asked; empty for the user whose process runs this.
        of: only while this release is in flight or this revision is live; empty for whichever is.

    Raises:
        BadInputError: nothing was ever released to the endpoint.
        NothingToRollBackError: no earlier version is known.
    """
    home = Home.from_env().ensure()
    with open_journal(home.journal_url) as journal:
        described = ReleaseSpec.model_validate(require_release_file(journal, endpoint))
        started = history.in_flight(journal, endpoint)
        by = actor or whoami()
        champion = history.champion(journal, endpoint)
        meant = {started.release_id if started else "", champion.revision.name if champion else ""}
        if of and of not in meant:
            return _too_late(endpoint, of, champion)
        is_live = champion is not None and of == champion.revision.name
        if started is not None:
            ended = end_release(ReleaseJob(home, journal, described, started.release_id, by), reason)
            # It may have been promoted before it saw the wish; then there is something to go back from.
            wanted = ended.champion if version is None else version
            if ended.outcome is not Outcome.PROMOTED and wanted == ended.champion and not is_live:
                return ended
        job_id = new_id(endpoint, "rollback")
        job = ReleaseJob(home, journal, described, job_id, by)
        result = _go_back(job, reason, version, of if is_live else "")
        job.finish_telling()
        return result


@retry(
    # Housekeeping, or another change, that is over in a moment.
    retry=retry_if_exception_type(EndpointBusyError), stop=stop_after_delay(_BUSY_SECONDS), wait=wait_fixed(0.5),
    reraise=True,
)  # fmt: skip
def _go_back(job: ReleaseJob, reason: str, version: int | None, of: str) -> ReleaseResult:
    began = clock.monotonic()
    with job.hold():
        present = history.champion(job.journal, job.endpoint)
        if of and present is not None and present.revision.name != of:
            return _too_late(job.endpoint, of, present)
        earlier = find_earlier(job, version)
        left = present.revision.name if present else ""
        decided = job.write(
            Kind.DECISION, history.ROLLBACK, reason, {"to": earlier.name, "left": left, "flow_run": flow_run_id()}
        )
        go_back(job, decided, earlier)
        state = job.target.observe(job.endpoint)
    return ReleaseResult(
        release_id=job.release_id, endpoint=job.endpoint, outcome=Outcome.ROLLED_BACK, reason=reason,
        version=present.revision.version.version if present else None, champion=earlier.version.version,
        url=state.url if state else "", seconds=clock.monotonic() - began,
    )  # fmt: skip


def _too_late(endpoint: str, of: str, champion: Reign | None) -> ReleaseResult:
    return ReleaseResult(
        release_id="", endpoint=endpoint, outcome=Outcome.ROLLED_BACK,
        reason=f"nothing was done: {of} is neither live nor in flight any more",
        champion=champion.revision.version.version if champion else None,
    )  # fmt: skip
