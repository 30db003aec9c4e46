"""Which release file each watched endpoint has: rows of its history, which every machine with the journal can read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headgate.spec import ReleaseSpec
from registry.journal import Entry, Kind

if TYPE_CHECKING:
    from registry.journal import Journal

WATCH, UNWATCH = "watch", "unwatch"
"""The decisions that say which file an endpoint is watched with, and that it is not watched any more."""


def watch(journal: Journal, spec: ReleaseSpec, actor: str) -> None:
    """Watch an endpoint with this file from now on."""
    _decide(journal, spec.endpoint, WATCH, actor, {"spec": spec.model_dump(mode="json")})


def unwatch(journal: Journal, endpoint: str, actor: str) -> None:
    """Watch an endpoint no more."""
    _decide(journal, endpoint, UNWATCH, actor, {})


def watched(journal: Journal) -> dict[str, ReleaseSpec]:
    """By endpoint, the files of all that are watched."""
    files = {}
    for endpoint in journal.endpoints():
        rows = [row for name in (WATCH, UNWATCH) for row in journal.read(endpoint, release_id=name, newest=1)]
        newest = max(rows, key=lambda row: row.seq, default=None)
        if newest is not None and newest.what == WATCH:
            files[endpoint] = ReleaseSpec.model_validate(newest.evidence["spec"])
    return files


def _decide(journal: Journal, endpoint: str, what: str, actor: str, evidence: dict[str, object]) -> None:
    journal.append(
        Entry(endpoint=endpoint, release_id=what, kind=Kind.DECISION, what=what, actor=actor, evidence=evidence)
    )
