"""Taking a candidate back, and removing what is no longer needed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from headgate.errors import RegistryError, TargetError
from headgate.phases import Outcome, Phase
from headgate.records import Revision, Traffic
from registry import Kind, history
from tasks.job import Job, ReleaseJob
from tasks.package import with_image
from tasks.step import step

if TYPE_CHECKING:
    from collections.abc import Callable

_CHAMPION_RETURNS_SECONDS = 60

ALIASES_LATE = "aliases late"
"""The note that MLflow did not take what it should show; `reconcile` sees to it."""


@step
def undo(job: ReleaseJob, reason: str, outcome: Outcome) -> None:
    """Put all traffic back on the champion and leave nothing of the candidate behind.

    Every phase's remains are looked for, whatever the journal says was reached: a process may have died after it made
    something and before it said so. What is not there any more needs nothing, so undoing may be cut short and repeated.
    """
    job.enter(Phase.UNDOING, reason, {"outcome": outcome})
    champion = job.champion
    for phase, take_back in _COMPENSATIONS.items():
        if done := take_back(job, champion):
            job.write(Kind.NOTE, "taken back", done, {"of": phase})
    job.enter(Phase.UNDONE, "the champion has all traffic" if champion else "nothing is live")


def _take_back_traffic(job: ReleaseJob, champion: Revision | None) -> str:
    """Weights and copies, of whatever the candidate had."""
    state = job.target.observe(job.endpoint)
    if champion is not None:
        if state is not None and state.traffic == Traffic.all_to(champion.name):
            return ""
        give_all_traffic(job, champion)
        return f"traffic: all of it is on {champion.name}"
    if state is None or state.traffic is None:
        return ""
    # Of a first version that was to be promoted; there is nothing else that could answer.
    job.delete()
    return "the endpoint: nothing was live before"


def _take_back_revisions(job: ReleaseJob, champion: Revision | None) -> str:
    if job.spec.rollback.keep_failed:
        return ""
    state = job.target.observe(job.endpoint)
    names = _candidates(job, champion)
    for name in names:
        job.retire(name)
    if champion is None:
        # Also where nothing is seen: its removal may have been cut short.
        job.delete()
    found = [name for name in names if state is not None and name in state.revisions]
    return f"revision {', '.join(found)}" if found else ""


def _take_back_aliases(job: ReleaseJob, champion: Revision | None) -> str:
    if not job.phase_was(Phase.PACKAGED):
        return ""
    try:
        job.versions.clear_challenger()
        if champion is not None:
            # It may be late from an earlier release that MLflow was away for.
            job.versions.set_champion(champion.version.version)
    except RegistryError as error:
        job.write(Kind.NOTE, ALIASES_LATE, error.message)
        return ""
    return "aliases: there is no challenger" + (f", champion is v{champion.version.version}" if champion else "")


_COMPENSATIONS: dict[Phase, Callable[[ReleaseJob, Revision | None], str]] = {
    Phase.SHIFTING: _take_back_traffic,
    Phase.DEPLOYED: _take_back_revisions,
    Phase.REGISTERED: _take_back_aliases,
}
"""What takes each phase back, the last phase first; each says what it did, and nothing where nothing was there."""


@retry(
    # A champion whose process has just died is started again by its platform.
    retry=retry_if_exception_type(TargetError), stop=stop_after_delay(_CHAMPION_RETURNS_SECONDS),
    wait=wait_fixed(0.5), reraise=True,
)  # fmt: skip
def give_all_traffic(job: Job, revision: Revision) -> None:
    """Route everything to a revision, and wait for it where it is being restarted."""
    state = job.target.observe(job.endpoint)
    if state is None or revision.name not in state.revisions:
        job.deploy(with_image(job, revision))
        # Not before: it may be tried for long, where its platform is gone.
        job.write(Kind.NOTE, "champion restored", f"{revision.name} was gone")
    if state is None or state.traffic != Traffic.all_to(revision.name):
        job.route(Traffic.all_to(revision.name))


def retire(job: Job, name: str, why: str) -> None:
    """Remove a revision; the history knows of one whose removal is cut short, also where no platform shows it."""
    job.write(Kind.NOTE, history.RETIRING, f"{name} {why}", {"name": name})
    job.retire(name)
    job.write(Kind.NOTE, history.RETIRED, name, {"name": name})


@step
def retire_expired(job: Job, keep_warm: float) -> None:
    """Remove revisions that neither have traffic nor are kept warm."""
    for name in expired(job, keep_warm):
        try:
            retire(job, name, "is no longer kept warm")
        except TargetError as error:
            # What is live is not in question; the next release or check tries again.
            job.write(Kind.NOTE, "retired late", f"{name} is still there: {error.message}")


def expired(job: Job, keep_warm: float) -> list[str]:
    """Revisions that neither have traffic nor are kept warm, or are half removed; looking takes no lease."""
    state = job.target.observe(job.endpoint)
    if state is None or state.traffic is None:
        return []
    found = [name for name in history.half_retired(job.journal, job.endpoint) if not state.traffic.uses(name)]
    ended = {reign.revision.name: reign.until for reign in history.reigns(job.journal, job.endpoint)}
    previous = history.predecessor(job.journal, job.endpoint)
    now = datetime.now(UTC)
    for name in state.revisions:
        if state.traffic.uses(name) or name in found:
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
