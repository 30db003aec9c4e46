"""Reading the journal: what is in flight, what is live, and what was live from when to when."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from headgate.phases import ENDED, Phase
from headgate.records import Counts, Look, Record, Revision
from registry.journal import Entry, Kind

if TYPE_CHECKING:
    from registry.journal import Journal


class InFlight(Record):
    """A release that has neither promoted nor undone."""

    release_id: str
    phase: Phase
    since: datetime
    actor: str


class Reign(Record):
    """A version's time as champion; `until` is None for the one that is live."""

    revision: Revision
    since: datetime
    until: datetime | None
    release_id: str
    actor: str
    reason: str


SHIFT_BEGAN = "shift began"
"""The note with the stable version's counters that a shift's judge starts from."""

OUTCOME = "outcome"
"""The decision that ends a release; its evidence is the `ReleaseResult`."""

TAKEN_OVER, RUN_CLOSED = "lease taken over", "run closed"
"""The notes that a process held the endpoint `for` a release and did not let go of it, and that Prefect was told `of`
that release's runs."""

RETIRING, RETIRED = "retiring", "retired"
"""The notes that a revision's removal begins, and that nothing is left of it; both have its `name`."""

STUCK, FOUND_CHANGED = "needs a person", "found changed"
"""The notes that an endpoint could not be put in order, and that it was not as it was left."""

PROMOTE, ROLLBACK, WENT_BACK = "promote", "rollback", "went back"
"""The decisions to promote what is held, and to go back to the revision that `to` names; the note that this is done."""

NOT_ROLLED_BACK = "not rolled back"
"""The note that the monitor has found what the release file would have it roll back for, and why it did not."""

QUALITY, CONFIRMED = "quality", "confirmed"
"""The notes with what labels say of the live version (a `QualityReport`), and that they show it to be no worse."""

APPROVAL_REQUESTED, APPROVAL = "approval requested", "approval"
"""The note that someone is asked, and the decision with the answer; both have the content's `key`."""


class Shift(Record):
    """The shift of a release, as it was written down.

    Attributes:
        spec: the release file.
        before: the stable version's counters when the shift began.
        bounds: of the latency buckets in all counts, in seconds.
        looks: in the order of their time.
    """

    spec: dict[str, Any]
    before: Counts
    bounds: tuple[float, ...]
    looks: tuple[Look, ...]


def in_flight(journal: Journal, endpoint: str) -> InFlight | None:
    """The release that has not ended, if there is one."""
    last = journal.read(endpoint, kinds=(Kind.PHASE,), newest=1)
    if not last or Phase(last[0].what) in ENDED:
        return None
    return InFlight(release_id=last[0].release_id, phase=Phase(last[0].what), since=last[0].at, actor=last[0].actor)


def all_in_flight(journal: Journal) -> dict[str, InFlight]:
    """Every endpoint's release that has not ended; one reading, however many endpoints there are."""
    return {
        row.endpoint: InFlight(release_id=row.release_id, phase=Phase(row.what), since=row.at, actor=row.actor)
        for row in journal.newest_of_each(Kind.PHASE)
        if Phase(row.what) not in ENDED
    }


def is_promotion_decided(journal: Journal, endpoint: str, release_id: str) -> bool:
    """Whether someone has promoted a held release, whatever became of the process that was to do it."""
    rows = journal.read(endpoint, kinds=(Kind.PHASE, Kind.DECISION), release_id=release_id)
    held = max((row.seq for row in rows if row.what == Phase.HELD), default=0)
    return any(row.what == PROMOTE and row.seq > held > 0 for row in rows)


def unfinished_rollback(journal: Journal, endpoint: str) -> Entry | None:
    """The decision to go back to a version that was not carried out to its end, and that nothing was done after."""
    rows = journal.read(endpoint, kinds=(Kind.DECISION, Kind.LIVE, Kind.PHASE, Kind.NOTE))
    decided = next((row for row in reversed(rows) if row.what == ROLLBACK and "to" in row.evidence), None)
    if decided is None:
        return None
    since, to = [row for row in rows if row.seq > decided.seq], decided.evidence["to"]
    # Before it was written down what is left, the row that the version is live was the last one.
    last = WENT_BACK if "left" in decided.evidence else to
    is_done = any(row.what == last and row.release_id == decided.release_id for row in since)
    is_past = any(row.kind is Kind.PHASE or (row.kind is Kind.LIVE and row.what != to) for row in since)
    return None if is_done or is_past else decided


def unconcluded(journal: Journal, endpoint: str) -> str:
    """The newest release of an endpoint, where it has ended and its result was not written down; else nothing."""
    last = journal.read(endpoint, kinds=(Kind.PHASE,), newest=1)
    if not last or Phase(last[0].what) not in ENDED:
        return ""
    rows = journal.read(endpoint, kinds=(Kind.DECISION,), release_id=last[0].release_id, after=last[0].seq)
    return "" if any(row.what == OUTCOME for row in rows) else last[0].release_id


def phase_of(journal: Journal, endpoint: str, release_id: str) -> Phase | None:
    """The last phase that a release entered."""
    last = journal.read(endpoint, kinds=(Kind.PHASE,), release_id=release_id, newest=1)
    return Phase(last[0].what) if last else None


def reigns(journal: Journal, endpoint: str) -> list[Reign]:
    """Who was champion, from when to when, who or what changed it, and why; oldest first."""
    rows = journal.read(endpoint, kinds=(Kind.LIVE,))
    ends = [*(row.at for row in rows[1:]), None]
    return [
        Reign(
            revision=Revision.model_validate(row.evidence["revision"]),
            since=row.at, until=until, release_id=row.release_id, actor=row.actor, reason=row.reason,
        )
        for row, until in zip(rows, ends, strict=False)
    ]  # fmt: skip


def champion(journal: Journal, endpoint: str) -> Reign | None:
    """The version that is live, as the journal knows it."""
    known = reigns(journal, endpoint)
    return known[-1] if known else None


def predecessor(journal: Journal, endpoint: str) -> Reign | None:
    """What a rollback goes back to: the newest reign of a revision that was not itself rolled back from.

    Rolling back twice goes back two versions, not to and fro: each rollback's own reign is skipped together
    with the one that it ended. A version that was released again is no rollback: what it replaced is before it.
    """
    stack: list[Reign] = []
    for reign in reigns(journal, endpoint):
        names = [earlier.revision.name for earlier in stack]
        if is_rollback(reign.release_id) and reign.revision.name in names:
            stack = stack[: len(names) - 1 - names[::-1].index(reign.revision.name)]
        stack.append(reign)
    return stack[-2] if len(stack) > 1 else None


def is_rollback(release_id: str) -> bool:
    """Whether rows of that id tell of a rollback, and not of a release."""
    return release_id.startswith(f"{ROLLBACK}-")


def spec_of(journal: Journal, endpoint: str) -> dict[str, Any] | None:
    """The release file of the newest release, as it was written down when that began."""
    started = journal.read(endpoint, kinds=(Kind.PHASE,), what=Phase.STARTED, newest=1)
    return dict(started[-1].evidence["spec"]) if started else None


def open_approvals(journal: Journal, endpoint: str) -> list[dict[str, Any]]:
    """What the release in flight waits for: the evidence of each request that nobody has answered."""
    flight = in_flight(journal, endpoint)
    if flight is None or flight.phase is Phase.UNDOING:
        return []
    rows = journal.read(endpoint, kinds=(Kind.NOTE, Kind.DECISION), release_id=flight.release_id)
    answered = {row.evidence["key"] for row in rows if row.what == APPROVAL}
    # Asked again by another run of the release, the last one counts.
    asked = {row.evidence["key"]: row.evidence for row in rows if row.what == APPROVAL_REQUESTED}
    return [request for key, request in asked.items() if key not in answered]


def runs_to_close(journal: Journal, endpoint: str) -> dict[str, list[str]]:
    """The flow runs of releases whose process died and that Prefect may still take for running, by release."""
    rows = journal.read(endpoint, kinds=(Kind.NOTE,))
    closed = {row.evidence["of"] for row in rows if row.what == RUN_CLOSED}
    died: dict[str, list[str]] = {}
    for row in rows:
        if row.what == TAKEN_OVER and "for" in row.evidence:
            # One that died before it wrote anything down is known by its lease alone.
            died.setdefault(row.evidence["for"], []).extend([row.evidence["run"]] if "run" in row.evidence else [])
    for name in died.keys() - closed:
        told = journal.read(endpoint, release_id=name)
        died[name] += [str(row.evidence["flow_run"]) for row in told if row.evidence.get("flow_run")]
    return {name: sorted(set(runs)) for name, runs in sorted(died.items()) if name not in closed}


def half_retired(journal: Journal, endpoint: str) -> list[str]:
    """Revisions whose removal was begun, and not finished, and that were not made again since."""
    found: dict[str, None] = {}
    for row in journal.read(endpoint, kinds=(Kind.NOTE, Kind.LIVE)):
        if row.what == RETIRING:
            found[row.evidence["name"]] = None
        elif row.what == RETIRED:
            found.pop(row.evidence.get("name", ""), None)
        elif "revision" in row.evidence:
            found.pop(row.evidence["revision"]["name"], None)
    return list(found)


def is_paused(journal: Journal, endpoint: str, release_id: str) -> bool:
    """Whether someone wants a release to stay where it is."""
    rows = journal.read(endpoint, kinds=(Kind.DECISION,), release_id=release_id)
    asked = [row.what for row in rows if row.what in {"pause", "resume"}]
    return bool(asked) and asked[-1] == "pause"


def shift_of(journal: Journal, release_id: str, endpoint: str = "") -> Shift | None:
    """The looks of a release; None where it shifted no live traffic, or is not known.

    Args:
        journal: where to look.
        release_id: which.
        endpoint: the release's; all are searched where it is not given.
    """
    for name in [endpoint] if endpoint else journal.endpoints():
        rows = journal.read(name, release_id=release_id)
        began = next((row for row in rows if row.what == SHIFT_BEGAN), None)
        if began is not None:
            spec = next(row.evidence["spec"] for row in rows if row.what == Phase.STARTED)
            looks = [Look.model_validate(row.evidence) for row in rows if row.kind is Kind.LOOK]
            return Shift(
                spec=spec, before=began.evidence["stable"], bounds=began.evidence["bounds"], looks=tuple(looks)
            )
    return None


def narrative(entries: list[Entry]) -> list[Entry]:
    """The rows that a person wants to read: everything but the looks."""
    return [entry for entry in entries if entry.kind is not Kind.LOOK]
