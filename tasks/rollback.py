"""Going back to the version before: warm, or brought up again from its image. Nothing is rebuilt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headgate.errors import NothingToRollBackError, RegistryError, TargetError
from headgate.records import Revision, Traffic
from registry import Kind, Versions, history
from tasks.job import Job, tracking_uri
from tasks.package import with_image
from tasks.step import run, step
from tasks.undo import ALIASES_LATE, give_all_traffic, retire

if TYPE_CHECKING:
    from headgate.records import EndpointState
    from registry import Entry
    from registry.history import Reign


def find_earlier(job: Job, version: int | None) -> Revision:
    """The revision to go back to: the champion before this one, or the newest one of a version.

    Raises:
        NothingToRollBackError: there is none.
    """
    reigns = history.reigns(job.journal, job.endpoint)
    if version is not None:
        found: Reign | None = next(
            (reign for reign in reversed(reigns) if reign.revision.version.version == version), None
        )
        if found is None:
            lived = sorted({reign.revision.version.version for reign in reigns})
            raise NothingToRollBackError(
                f"version {version} of {job.endpoint} was never live; these were: {lived}",
                fix="name one of them",
            )
    else:
        found = history.predecessor(job.journal, job.endpoint)
        if found is None:
            raise NothingToRollBackError(
                f"{job.endpoint} has no earlier version to go back to", fix="see headgate history"
            )
    return found.revision


def go_back(job: Job, decided: Entry, earlier: Revision) -> None:
    """Give an earlier revision all traffic again; where it was cut short, what is missing is done.

    Args:
        job: the rollback.
        decided: the row that says so; its evidence names the revision to go back `to`, and the one that is `left`.
        earlier: the revision to go back to.
    """
    run(bring_up, job, earlier)
    run(switch_back, job, earlier, decided.reason)
    left = decided.evidence.get("left")
    if left and left != earlier.name:
        run(retire_failed, job, left)
    job.write(Kind.NOTE, history.WENT_BACK, earlier.name)


@step
def bring_up(job: Job, revision: Revision) -> None:
    """Make the earlier revision ready, where it is not warm any more."""
    state = job.target.observe(job.endpoint)
    known = state.revisions.get(revision.name) if state else None
    if known is None or not known.ready:
        job.write(Kind.NOTE, "bringing up", f"{revision.name} is no longer warm")
        job.deploy(with_image(job, revision))


@step
def switch_back(job: Job, revision: Revision, reason: str) -> None:
    """Give the earlier revision all traffic and make its version champion again."""
    state: EndpointState | None = job.target.observe(job.endpoint)
    if state is None or state.traffic != Traffic.all_to(revision.name):
        give_all_traffic(job, revision)
    champion = job.champion
    if champion is None or champion.name != revision.name:
        job.write(Kind.LIVE, revision.name, reason, {"revision": revision.model_dump(mode="json")})
    try:
        versions = Versions(tracking_uri(job.home), revision.version.name, job.endpoint)
        versions.set_champion(revision.version.version)
    except RegistryError as error:
        job.write(Kind.NOTE, ALIASES_LATE, error.message)


@step
def retire_failed(job: Job, name: str) -> None:
    """Remove the revision that was rolled back from."""
    try:
        retire(job, name, "was rolled back from")
    except TargetError as error:
        # Clients are back on the earlier version; the next release or check tries again.
        job.write(Kind.NOTE, "retired late", f"{name} is still there: {error.message}")
