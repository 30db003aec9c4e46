"""What happens to an endpoint, as Prefect events that others can build automations on.

docs/events.md lists them; a row of the journal has the same event wherever and however often it is announced.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from prefect.events import emit_event

from headgate.events import DRIFT_DETECTED, resource_of
from headgate.phases import Phase
from headgate.verdicts import Verdict
from registry import Kind
from registry.history import (
    APPROVAL,
    APPROVAL_REQUESTED,
    CONFIRMED,
    NOT_ROLLED_BACK,
    OUTCOME,
    QUALITY,
    QUIET,
    is_rollback,
)
from registry.orders import PAUSE, RESUME
from tasks.step import in_flow_run

if TYPE_CHECKING:
    from registry import Entry

SCHEMA = 1
"""Of all payloads; a field is added without raising it, and never changed or removed."""

_OURS = uuid.UUID("6f1c5d0e-33b7-4b0f-9d5e-0d1a6a2f4c11")
_DECISIONS = {
    "shadow": "headgate.release.compared",
    "judge": "headgate.release.verdict",
    APPROVAL: "headgate.release.approval-answered",
    PAUSE: "headgate.release.paused",
    RESUME: "headgate.release.resumed",
    "rollback": "headgate.rollback.started",
}
_NOTES = {
    APPROVAL_REQUESTED: "headgate.release.approval-requested", NOT_ROLLED_BACK: "headgate.rollback.declined",
    QUALITY: "headgate.quality.checked", CONFIRMED: "headgate.version.confirmed",
    QUIET: "headgate.endpoint.quiet",
}  # fmt: skip
_COPIED = (
    "share", "e_value", "version", "digest", "before", "expires_at", "drifted_columns", "causes", "triggered",
    "outcome", "cause", "verdict",
)  # fmt: skip


def announce(entry: Entry) -> None:
    """Emit a row's events, where Prefect is watching; a row that concerns nobody else has none."""
    if not in_flow_run():
        return
    for name in names_of(entry):
        emit_event(
            name, resource_of(entry.endpoint), occurred=entry.at, related=_related(entry), payload=payload_of(entry),
            id=uuid.uuid5(_OURS, f"{entry.endpoint}/{entry.seq}/{name}"),
        )  # fmt: skip


def names_of(entry: Entry) -> list[str]:
    """The events that a row of the journal is."""
    match entry.kind:
        case Kind.PHASE:
            names = ["headgate.release.started" if entry.what == Phase.STARTED else "headgate.release.phase"]
        case Kind.LIVE:
            went_back = ["headgate.rollback.completed"] if is_rollback(entry.release_id) else []
            names = ["headgate.version.live", *went_back]
        case Kind.LOOK:
            names = ["headgate.release.step"] if entry.what == Verdict.ADVANCE else []
        case Kind.WAIT | Kind.STATE:
            names = []
        case Kind.CHECK:
            names = [DRIFT_DETECTED if entry.evidence.get("triggered") else "headgate.drift.checked"]
        case Kind.NOTE:
            names = [_NOTES[entry.what]] if entry.what in _NOTES else []
        case Kind.DECISION if entry.what == OUTCOME:
            names = [f"headgate.release.{entry.evidence['result']['outcome'].replace(' ', '-')}"]
        case Kind.DECISION:
            names = [_DECISIONS[entry.what]] if entry.what in _DECISIONS else []
    return names


def payload_of(entry: Entry) -> dict[str, Any]:
    """What an event says."""
    result = entry.evidence.get("result", {})
    known = {**entry.evidence, **result}
    revision = known.get("revision")
    if isinstance(revision, dict):
        known["version"] = revision["version"]["version"]
    elif isinstance(known.get("version"), dict):
        known["version"] = known["version"]["version"]
    return {
        "schema": SCHEMA, "endpoint": entry.endpoint, "release_id": entry.release_id, "what": str(entry.what),
        "reason": entry.reason, "actor": entry.actor,
        **{name: known[name] for name in _COPIED if name in known},
    }  # fmt: skip


def _related(entry: Entry) -> list[dict[str, str]]:
    return [
        {
            "prefect.resource.id": f"headgate.release.{entry.release_id}", "prefect.resource.role": "release",
            "prefect.resource.name": entry.release_id,
        }
    ]  # fmt: skip
