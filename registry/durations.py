"""How long an endpoint's releases took, by the times of their rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headgate.phases import Phase
from headgate.records import Record
from registry.history import APPROVAL, APPROVAL_REQUESTED
from registry.journal import Entry, Kind

if TYPE_CHECKING:
    from registry.journal import Journal


class Took(Record):
    """A release that was promoted.

    Attributes:
        release_id: which.
        seconds: from its start to its promotion, without the waits for approvals.
        shifted: whether it was compared with a version before it on live traffic.
    """

    release_id: str
    seconds: float
    shifted: bool


def durations(journal: Journal, endpoint: str) -> list[Took]:
    """Every promoted release of an endpoint, oldest first."""
    by_release: dict[str, list[Entry]] = {}
    for row in journal.read(endpoint, kinds=(Kind.PHASE, Kind.NOTE, Kind.DECISION)):
        by_release.setdefault(row.release_id, []).append(row)
    return [took for name, rows in by_release.items() if (took := _took(name, rows)) is not None]


def _took(name: str, rows: list[Entry]) -> Took | None:
    reached = {row.what: row.at for row in rows if row.kind is Kind.PHASE}
    if Phase.STARTED not in reached or Phase.PROMOTED not in reached:
        return None
    asked = {row.evidence["key"]: row.at for row in rows if row.what == APPROVAL_REQUESTED}
    answered = {row.evidence["key"]: row.at for row in rows if row.what == APPROVAL}
    waited = sum((at - asked[key]).total_seconds() for key, at in answered.items() if key in asked)
    seconds = (reached[Phase.PROMOTED] - reached[Phase.STARTED]).total_seconds()
    return Took(release_id=name, seconds=max(0.0, seconds - waited), shifted=Phase.SHIFTING in reached)
