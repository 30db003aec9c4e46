"""Which release file each watched endpoint has: rows of its history, which every machine with the journal can read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from headgate.spec import ReleaseSpec
from registry.journal import Entry, Kind

if TYPE_CHECKING:
    from datetime import datetime

    from registry.journal import Journal

WATCH, UNWATCH = "watch", "unwatch"
"""The decisions that say which file an endpoint is watched with, and that it is not watched any more."""


@dataclass(frozen=True)
class Watch:
    """How an endpoint is watched.

    Attributes:
        spec: its release file.
        since: when `headgate watch` was last run for it.
        scheduled: whether it has a schedule of its own; without one, `monitor --all` checks it.
        unwatched: when it was last unwatched before; None where it never was.
    """

    spec: ReleaseSpec
    since: datetime
    scheduled: bool
    unwatched: datetime | None


def watch(journal: Journal, spec: ReleaseSpec, actor: str, *, scheduled: bool = True) -> None:
    """Watch an endpoint with this file from now on."""
    _decide(journal, spec.endpoint, WATCH, actor, {"spec": spec.model_dump(mode="json"), "scheduled": scheduled})


def unwatch(journal: Journal, endpoint: str, actor: str) -> None:
    """Watch an endpoint no more."""
    _decide(journal, endpoint, UNWATCH, actor, {})


def watched(journal: Journal) -> dict[str, ReleaseSpec]:
    """By endpoint, the files of all that are watched."""
    return {endpoint: known.spec for endpoint, known in watches(journal).items()}


def watches(journal: Journal) -> dict[str, Watch]:
    """Return how each watched endpoint is watched, by endpoint."""
    ended = {row.endpoint: row for row in journal.newest_of_each(Kind.DECISION, UNWATCH)}
    found = {}
    for row in journal.newest_of_each(Kind.DECISION, WATCH):
        end = ended.get(row.endpoint)
        if end is None or end.seq < row.seq:
            # Rows of earlier versions do not say whether there is a schedule; there was one.
            scheduled = bool(row.evidence.get("scheduled", True))
            spec = ReleaseSpec.model_validate(row.evidence["spec"])
            found[row.endpoint] = Watch(spec, row.at, scheduled, end.at if end else None)
    return found


def _decide(journal: Journal, endpoint: str, what: str, actor: str, evidence: dict[str, object]) -> None:
    journal.append(
        Entry(endpoint=endpoint, release_id=what, kind=Kind.DECISION, what=what, actor=actor, evidence=evidence)
    )
