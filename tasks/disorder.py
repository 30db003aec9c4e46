"""What `reconcile` looks for: whatever disagrees with the history, and what it does about each.

To look changes nothing, so a dry run is only to look. What was made by hand is written into the history before it is
overwritten.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from headgate import clock
from headgate.errors import EndpointBusyError, HeadgateError, RegistryError, RolledBackError
from headgate.records import Record, ReleaseResult, Traffic
from registry import Kind, history
from registry.lease import Holder, holder, lease_seconds
from tasks.approval import open_requests, run_is_over
from tasks.ending import settle_release, settle_result, settle_rollback, why_abandoned
from tasks.report import bring_reports, late_reports
from tasks.rollback import bring_up
from tasks.runs import close_runs, stuck_runs
from tasks.step import run
from tasks.undo import expired, give_all_traffic, retire_expired

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from headgate.records import EndpointState, Revision
    from registry import Journal
    from registry.history import InFlight
    from tasks.job import ReleaseJob

_ASK_SECONDS = 0.5


class Disorder(Record):
    """Something that was found.

    Attributes:
        endpoint: where; empty for this machine as a whole.
        problem: what disagrees with what.
        remedy: what is done about it; empty where that is for a person to decide.
        result: how a release ended by it.
    """

    endpoint: str
    problem: str
    remedy: str = ""
    result: ReleaseResult | None = None


@dataclass(frozen=True)
class Case:
    """A disorder, and how it is settled; None where a person has to."""

    found: Disorder
    settle: Callable[[], ReleaseResult | None] | None = None


def release_to_settle(journal: Journal, endpoint: str) -> str:
    """Return the id of the release or rollback that is not finished; `reconcile` where all are."""
    flight = history.in_flight(journal, endpoint)
    decided = history.unfinished_rollback(journal, endpoint)
    unfinished = [flight.release_id if flight else "", decided.release_id if decided else ""]
    return next(name for name in (*unfinished, history.unconcluded(journal, endpoint), "reconcile") if name)


def cases_of(job: ReleaseJob, *, named: bool) -> Iterator[Case]:
    """Everything about one endpoint that is not as the history says; one that somebody is at work on is in order.

    A release that began or ended since the job was made is left to the guard, and to the next look.

    Args:
        job: of the release to settle.
        named: somebody asked for this endpoint, and wants it served where it is gone altogether.
    """
    if release_to_settle(job.journal, job.endpoint) != job.release_id:
        return
    flight = history.in_flight(job.journal, job.endpoint)
    if flight is not None:
        yield from _abandoned_release(job, flight)
        return
    if (held := holder(job.journal, job.endpoint)) is not None and not held.flow_run:
        return
    decided = history.unfinished_rollback(job.journal, job.endpoint)
    if decided is not None:
        problem = f"the rollback to {decided.evidence['to']} ({decided.reason}) was begun and not finished"
        found = Disorder(endpoint=job.endpoint, problem=problem, remedy="it is carried out")
        yield Case(found, lambda: _nothing(settle_rollback, job, decided))
        return
    if unconcluded := history.unconcluded(job.journal, job.endpoint):
        found = Disorder(
            endpoint=job.endpoint, problem=f"release {unconcluded} has ended, and how was not written down",
            remedy="it is",
        )  # fmt: skip
        yield Case(found, lambda: settle_result(job))
    champion = job.champion
    if champion is not None:
        yield from _live_elsewhere(job, champion, named=named)
        yield from _aliases_late(job, champion)
    if names := expired(job, job.spec.rollback.keep_warm):
        found = Disorder(
            endpoint=job.endpoint, problem=f"{', '.join(names)}: neither live nor kept warm", remedy="retired"
        )
        yield Case(found, lambda: _held(job, lambda: run(retire_expired, job, job.spec.rollback.keep_warm)))
    if stuck := stuck_runs(job):
        found = Disorder(
            endpoint=job.endpoint, problem=f"Prefect takes {len(stuck)} run(s) for running whose process died",
            remedy="it is told",
        )  # fmt: skip
        yield Case(found, lambda: _nothing(close_runs, job))
    if late := late_reports(job):
        found = Disorder(
            endpoint=job.endpoint, problem=f"MLflow was not told of {', '.join(late)}", remedy="it is brought there"
        )
        yield Case(found, lambda: _nothing(bring_reports, job))


def _abandoned_release(job: ReleaseJob, flight: InFlight) -> Iterator[Case]:
    held = _dead_or_alive(job.journal, job.endpoint)
    current = history.in_flight(job.journal, job.endpoint)
    if current is None or current.release_id != flight.release_id or (held is not None and not held.flow_run):
        return
    asked = [request for request in open_requests(job.journal) if request.release_id == flight.release_id]
    error = why_abandoned(job.journal, current, job.endpoint)
    if error is None and asked and run_is_over(asked[-1].flow_run):
        error = RolledBackError(f"its run was ended while it waited for approval before {asked[-1].before}")
    if error is None:
        return
    remedy = "a worker goes on with it" if job.spec.when_abandoned == "resume" else "it is taken back"
    found = Disorder(
        endpoint=job.endpoint, problem=f"release {flight.release_id} is {current.phase}: {error.message}", remedy=remedy
    )
    yield Case(found, lambda: settle_release(job, current, error))


def _live_elsewhere(job: ReleaseJob, champion: Revision, *, named: bool) -> Iterator[Case]:
    """Traffic or revisions that were changed by hand, or by what nobody wrote down."""
    state = job.target.observe(job.endpoint)
    if state is None and not named:
        # Whoever removed all of it may have meant to.
        problem = f"the endpoint is gone; headgate reconcile {job.endpoint} serves {champion.name} again"
        yield Case(Disorder(endpoint=job.endpoint, problem=problem))
        return
    problem = _misplaced(state, champion)
    if problem:
        found = Disorder(endpoint=job.endpoint, problem=problem, remedy=f"all traffic to {champion.name}")

        def settle() -> None:
            # A release may have come and gone since, and clients have its version.
            if job.champion != champion or _misplaced(job.target.observe(job.endpoint), champion) != problem:
                return
            job.write(Kind.NOTE, history.FOUND_CHANGED, problem)
            run(bring_up, job, champion)
            give_all_traffic(job, champion)

        yield Case(found, lambda: _held(job, settle))


def _misplaced(state: EndpointState | None, champion: Revision) -> str:
    """What is wrong with where traffic is; empty where nothing is."""
    if state is None or champion.name not in state.revisions:
        return f"the champion {champion.name} is gone"
    if state.traffic != Traffic.all_to(champion.name):
        return f"traffic is {_words(state)}, and the champion is {champion.name}"
    return ""


def _aliases_late(job: ReleaseJob, champion: Revision) -> Iterator[Case]:
    try:
        aliases = job.versions.aliases()
    except RegistryError as error:
        yield Case(Disorder(endpoint=job.endpoint, problem=f"aliases were not compared: {error.message}"))
        return
    wanted = {"champion": champion.version.version}
    if aliases != wanted:
        shown = ", ".join(f"{role} is v{version}" for role, version in sorted(aliases.items())) or "there are none"
        problem = f"aliases in MLflow: {shown}; v{wanted['champion']} is live and nothing is being released"

        def settle() -> None:
            if job.champion != champion or job.versions.aliases() != aliases:
                return
            job.write(Kind.NOTE, history.FOUND_CHANGED, problem)
            job.versions.set_champion(wanted["champion"])
            job.versions.clear_challenger()

        found = Disorder(endpoint=job.endpoint, problem=problem, remedy="they are set")
        yield Case(found, lambda: _held(job, settle))


def _words(state: EndpointState) -> str:
    if state.traffic is None:
        return "nowhere"
    most_first = sorted(state.traffic.weights.items(), key=lambda item: (-item[1], item[0]))
    shares = ", ".join(f"{share / 100:g}% on {name}" for name, share in most_first)
    return shares + (f", mirrored to {state.traffic.mirror.revision}" if state.traffic.mirror else "")


def _held(job: ReleaseJob, settle: Callable[[], None]) -> ReleaseResult | None:
    # Who holds it sees to it, and the next look finds what is left.
    with contextlib.suppress(EndpointBusyError), job.hold():
        settle()
    return None


def _nothing(settle: Callable[..., object], *arguments: object) -> None:
    settle(*arguments)


def _dead_or_alive(journal: Journal, endpoint: str) -> Holder | None:
    """Who holds the endpoint, once it is clear whether that process lives: a lease that is renewed has a living one."""
    first = holder(journal, endpoint)
    deadline = clock.monotonic() + lease_seconds()
    while first is not None and not first.flow_run and clock.monotonic() < deadline:
        clock.sleep(_ASK_SECONDS)
        now = holder(journal, endpoint)
        if now is None or now.fence != first.fence or now.expires > first.expires:
            return now
    return holder(journal, endpoint)


def settle_all(cases: Iterator[Case], *, dry_run: bool) -> tuple[list[Disorder], list[str]]:
    """Settle what was found, one after the other.

    Args:
        cases: found while they are settled.
        dry_run: only list them.

    Returns:
        What was found, and why something could not be settled.
    """
    found: list[Disorder] = []
    problems: list[str] = []
    for case in cases:
        result = None
        if case.settle is not None and not dry_run:
            try:
                result = case.settle()
            except HeadgateError as error:
                problems.append(f"{case.found.endpoint}: {error.message}")
        found.append(case.found.model_copy(update={"result": result}))
    return found, problems
