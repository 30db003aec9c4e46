"""The Prefect events that Headgate's own automations wait for; docs/events.md lists all that it emits."""

from __future__ import annotations

DRIFT_DETECTED = "headgate.drift.detected"
"""An endpoint's requests have drifted; with the label ACTION: rollback, it is to be rolled back."""

ALERT_FIRING = "headgate.alert.firing"
"""Alertmanager says that an endpoint is in trouble, and it is to be rolled back."""

VERSION_WANTED = "headgate.version.wanted"
"""MLflow's registry says that a version is to be released."""

ACTION = "headgate.action"
"""The label of an endpoint that says what is to be done about the event; absent where it is done already."""


def resource_of(endpoint: str, **labels: str) -> dict[str, str]:
    """An endpoint, which all events are about.

    Args:
        endpoint: its name.
        **labels: more of it; `action` becomes the label `headgate.action`.
    """
    more = {f"headgate.{name}": value for name, value in labels.items()}
    return {"prefect.resource.id": f"headgate.endpoint.{endpoint}", "prefect.resource.name": endpoint, **more}
