"""Headgate's automations on a Prefect server: what its events lead to. Made by name, changed where they differ."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from prefect.client.schemas.objects import StateType
from prefect.events import AutomationCore, EventTrigger, Posture, ResourceSpecification
from prefect.events.actions import ChangeFlowRunState, RunDeployment, SendNotification
from prefect.exceptions import ObjectNotFound

from headgate.errors import BadInputError
from headgate.events import ACTION, ALERT_FIRING, DRIFT_DETECTED, VERSION_WANTED
from headgate.units import format_duration
from tasks.deployments import open_client

if TYPE_CHECKING:
    from collections.abc import Iterable
    from uuid import UUID

    from prefect.client.orchestration import SyncPrefectClient
    from prefect.events.actions import ActionTypes

PREFIX = "headgate: "
_FLOWS = ["release", "rollback", "promote", "abort"]
_ALL_FLOWS = [*_FLOWS, "monitor", "monitor-all", "reconcile"]
_SILENT = timedelta(minutes=7)
"""A run says every three minutes that it is there (Prefect's `flows.heartbeat_frequency`)."""
_TAKEN = {"Pending", "Submitting", "InfrastructurePending"}
_NOT_BEGUN = timedelta(minutes=15)
"""A worker begins what it took within this time, also where it pulls an image first."""
_FAILED = ("headgate.release.failed", "headgate.release.rolled-back", "headgate.release.rejected")
_ENDED_BADLY = ("Crashed", "Failed", "Cancelled")
_COMPARED = {"description", "trigger", "actions"}


def apply_automations(deployment: str = "local", notify: str = "") -> list[tuple[str, str]]:
    """Make the automations, or change those that differ; one that was switched off stays off.

    Args:
        deployment: the name of the flows' deployments.
        notify: the Prefect notification block that is told of failures, as TYPE/NAME; none by default.

    Returns:
        Each one's name, and whether it was made, changed or left as it was.

    Raises:
        BadInputError: a deployment or the block is not there.
    """
    with open_client() as client:
        return [(wanted.name, _apply(client, wanted)) for wanted in _wanted(client, deployment, notify)]


def list_automations() -> list[tuple[str, bool, str]]:
    """Headgate's automations on the server: name, whether it is on, description."""
    with open_client() as client:
        known = [one for one in client.read_automations() if one.name.startswith(PREFIX)]
    return sorted((one.name, one.enabled, one.description) for one in known)


def _apply(client: SyncPrefectClient, wanted: AutomationCore) -> str:
    known = client.read_automations_by_name(wanted.name)
    if not known:
        client.create_automation(wanted)
        return "made"
    wanted.enabled = known[0].enabled
    if _same(known[0], wanted):
        return "unchanged"
    client.update_automation(known[0].id, wanted)
    return "changed"


def _same(one: AutomationCore, other: AutomationCore) -> bool:
    # Not as JSON: there the set of a trigger's events is a list, in an order that varies.
    return one.model_dump(include=_COMPARED) == other.model_dump(include=_COMPARED)


def _wanted(client: SyncPrefectClient, deployment: str, notify: str) -> list[AutomationCore]:
    release, rollback, reconcile = (
        _id(client, f"{name}/{deployment}") for name in ("release", "rollback", "reconcile")
    )
    who = "automation ({{ event.event }})"
    automations = [
        _automation(
            "drift or alert → rollback", "rolls an endpoint back when something outside of a release asks for it",
            _when((DRIFT_DETECTED, ALERT_FIRING), {ACTION: "rollback"}),
            _run(
                rollback, endpoint="{{ event.payload.endpoint }}", reason="{{ event.payload.reason }}", actor=who,
                of="{{ event.payload.of | default('') }}",
            ),
        ),
        _automation(
            "wanted version → release", "releases what MLflow's registry asks for, by the watched release file",
            _when((VERSION_WANTED,), {ACTION: "release"}),
            _run(
                release, spec="watched:{{ event.payload.endpoint }}", artifact="{{ event.payload.artifact }}", actor=who
            ),
        ),
        _automation(
            "crashed release → reconcile", "puts an endpoint back whose release ended without doing so itself",
            EventTrigger(
                expect={f"prefect.flow-run.{state}" for state in _ENDED_BADLY}, posture=Posture.Reactive, threshold=1,
                match_related=ResourceSpecification(
                    {"prefect.resource.role": "flow", "prefect.resource.name": _FLOWS}
                ),
                within=timedelta(0),
            ),
            _run(reconcile, actor="automation ({{ flow_run.name }} is {{ flow_run.state.name }})"),
        ),
        _lost("silent run → crashed", "ends a run whose process died with its worker", {"heartbeat"}, _SILENT),
        _lost("lost run → crashed", "ends a run whose worker died before it began it", _TAKEN, _NOT_BEGUN),
    ]  # fmt: skip
    if notify:
        say = SendNotification(
            block_document_id=_block(client, notify), subject="headgate: {{ event.payload.endpoint }}",
            body="{{ event.event }}: {{ event.payload.reason }} (release {{ event.payload.release_id }})",
        )  # fmt: skip
        automations.append(_automation("failed release → notify", "tells people of releases that ended badly",
                                       _when(_FAILED, {}), say))  # fmt: skip
    return automations


def _automation(name: str, description: str, trigger: EventTrigger, action: ActionTypes) -> AutomationCore:
    return AutomationCore(
        name=f"{PREFIX}{name}", description=description, enabled=True, trigger=trigger, actions=[action]
    )  # fmt: skip


def _when(events: Iterable[str], labels: dict[str, str]) -> EventTrigger:
    """As soon as one of these events is about an endpoint with these labels."""
    match = ResourceSpecification({"prefect.resource.id": "headgate.endpoint.*", **labels})
    return EventTrigger(
        expect=set(events), match=match, posture=Posture.Reactive, threshold=1, within=timedelta(0),
        # One run an endpoint, not one for all of them.
        for_each={"prefect.resource.id"},
    )  # fmt: skip


def _lost(name: str, description: str, last: set[str], within: timedelta) -> AutomationCore:
    """Nobody tells Prefect of a run whose worker died with it: one of `last` is what it hears, and then nothing."""
    trigger = EventTrigger(
        after={f"prefect.flow-run.{event}" for event in last}, expect={"prefect.flow-run.*"}, threshold=1,
        posture=Posture.Proactive, within=within, for_each={"prefect.resource.id"},
        match_related=ResourceSpecification({"prefect.resource.role": "flow", "prefect.resource.name": _ALL_FLOWS}),
    )  # fmt: skip
    said = f"nothing was heard of it for {format_duration(within.total_seconds())}"
    return _automation(name, description, trigger, ChangeFlowRunState(state=StateType.CRASHED, message=said))


def _run(deployment: UUID, **parameters: str) -> RunDeployment:
    filled: dict[str, Any] = {
        name: {"__prefect_kind": "jinja", "template": text} if "{{" in text else text
        for name, text in parameters.items()
    }
    return RunDeployment(source="selected", deployment_id=deployment, parameters=filled)


def _id(client: SyncPrefectClient, name: str) -> UUID:
    try:
        return client.read_deployment_by_name(name).id
    except ObjectNotFound as error:
        raise BadInputError(f"the Prefect server has no deployment {name}", fix="headgate up") from error


def _block(client: SyncPrefectClient, name: str) -> UUID:
    kind, _, document = name.partition("/")
    try:
        return client.read_block_document_by_name(document, kind).id
    except ObjectNotFound as error:
        raise BadInputError(
            f"the Prefect server has no block {name}", fix="make it in the UI, and name it as TYPE/NAME"
        ) from error
