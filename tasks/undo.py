"""Taking a candidate back, and removing what is no longer needed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from headgate.errors import RegistryError, TargetError
from headgate.phases import Phase
from headgate.records import Revision, Traffic
from registry import Kind, history
from tasks.job import Job, ReleaseJob
from tasks.step import step

_CHAMPION_RETURNS_SECONDS = 60


@step
def undo(job: ReleaseJob, reason: str) -> None:
    """Put all traffic back on the champion and leave nothing of the candidate behind."""
    job.enter(Phase.UNDOING, reason)
    champion = job.champion
    candidates = _candidates(job, champion)
    if champion is not None:
        give_all_traffic(job, champion)
    elif candidates and not job.spec.rollback.keep_failed:
        job.target.delete(job.endpoint)
    if not job.spec.rollback.keep_failed:
        for name in candidates:
            job.target.retire(job.endpoint, name)
    try:
        if job.phase_was(Phase.REGISTERED):
            job.versions.clear_challenger()
            if champion is not None:
                # It may be late from an earlier release that MLflow was away for.
                job.versions.set_champion(champion.version.version)
    except RegistryError as error:
        job.write(Kind.NOTE, "aliases late", error.message)
    job.enter(Phase.UNDONE, "the champion has all traffic" if champion else "nothing is live")


@retry(
    # A champion whose process has just died is started again by its platform.
    retry=retry_if_exception_type(TargetError), stop=stop_after_delay(_CHAMPION_RETURNS_SECONDS),
    wait=wait_fixed(0.5), reraise=True,
)  # fmt: skip
def give_all_traffic(job: Job, revision: Revision) -> None:
    """Route everything to a revision, and wait for it where it is being restarted."""
    state = job.target.observe(job.endpoint)
    if state is None or state.traffic != Traffic.all_to(revision.name):
        job.route(Traffic.all_to(revision.name))


@step
def retire_expired(job: Job, keep_warm: float) -> None:
    """Remove revisions that neither have traffic nor are kept warm."""
    for name in expired(job, keep_warm):
        try:
            job.target.retire(job.endpoint, name)
            job.write(Kind.NOTE, "retired", f"{name} is no longer kept warm")
        except TargetError as error:
            # What is live is not in question; the next release or check tries again.
            job.write(Kind.NOTE, "retired late", f"{name} is still there: {error.message}")


def expired(job: Job, keep_warm: float) -> list[str]:
    """Revisions that neither have traffic nor are kept warm; looking takes no lease."""
    state = job.target.observe(job.endpoint)
    if state is None or state.traffic is None:
        return []
    found = []
    ended = {reign.revision.name: reign.until for reign in history.reigns(job.journal, job.endpoint)}
    previous = history.predecessor(job.journal, job.endpoint)
    now = datetime.now(UTC)
    for name in state.revisions:
        if state.traffic.uses(name):
            continue
        until = ended.get(name)
        is_warm = (
            previous is not None
            and previous.revision.name == name
            and until is not None
            and until + timedelta(seconds=keep_warm) > now
        )
        if not is_warm:
            found.append(name)
    return found


def _candidates(job: ReleaseJob, champion: Revision | None) -> list[str]:
    """The revisions that this release deployed, or had begun to deploy when it died."""
    rows = job.journal.read(job.endpoint, kinds=(Kind.PHASE, Kind.NOTE), release_id=job.release_id)
    deployed = {row.evidence["revision"]["name"] for row in rows if "revision" in row.evidence}
    return sorted(name for name in deployed if champion is None or name != champion.name)
