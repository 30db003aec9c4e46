"""Reading the journal: what is in flight, what is live, and what was live from when to when."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from headgate.counts import Counts
from headgate.phases import ENDED, Phase
from headgate.records import Record, Revision
from headgate.verdicts import Look
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

QUIET = "too few requests to check"
"""The note that so many checks in a row had too few rows that people should know."""

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
        dispersions: how much the stable version's counts vary, by metric, as the judge wrote it.
        looks: in the order of their time.
        state: the judge's before the first of `looks`; None where these are all looks of the shift.
    """

    spec: dict[str, Any]
    before: Counts
    bounds: tuple[float, ...]
    dispersions: dict[str, Any]
    looks: tuple[Look, ...]
    state: dict[str, Any] | None = None


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
    # One that was released again as it is, with other limits of the gateway, goes on.
    begins = [n for n, row in enumerate(rows) if n == 0 or row.what != rows[n - 1].what]
    ends = [*begins[1:], len(rows)][: len(begins)]
    return [
        Reign(
            revision=Revision.model_validate(rows[end - 1].evidence["revision"]),
            since=rows[begin].at, until=rows[end].at if end < len(rows) else None,
            release_id=rows[begin].release_id, actor=rows[begin].actor, reason=rows[begin].reason,
        )
        for begin, end in zip(begins, ends, strict=True)
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


def shift_of(journal: Journal, release_id: str, endpoint: str = "", *, state_format: int | None = None) -> Shift | None:
    """The looks of a release; None where it shifted no live traffic, or is not known.

    Args:
        journal: where to look.
        release_id: which.
        endpoint: the release's; all are searched where it is not given.
        state_format: begin with the judge's last state of this format, where there is one, and the looks after it.
    """
    for name in [endpoint] if endpoint else journal.endpoints():
        read = partial(journal.read, name, release_id=release_id)
        for began in read(kinds=(Kind.NOTE,), what=SHIFT_BEGAN)[:1]:
            (started, *_) = read(kinds=(Kind.PHASE,), what=Phase.STARTED)
            states = read(kinds=(Kind.STATE,), newest=1) if state_format is not None else []
            states = [row for row in states if row.evidence["format"] == state_format]
            looks = read(kinds=(Kind.LOOK,), after=states[0].seq if states else 0)
            return Shift(
                spec=started.evidence["spec"], before=began.evidence["stable"], bounds=began.evidence["bounds"],
                dispersions=began.evidence.get("dispersions", {}),
                looks=tuple(Look.model_validate(row.evidence) for row in looks),
                state=states[0].evidence if states else None,
            )  # fmt: skip
    return None


def narrative(entries: list[Entry]) -> list[Entry]:
    """The rows that a person wants to read: everything but what is written while a step waits."""
    return [entry for entry in entries if entry.kind not in {Kind.LOOK, Kind.STATE, Kind.WAIT}]
