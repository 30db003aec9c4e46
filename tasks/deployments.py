"""The deployed flows: scheduled for each watched endpoint, and run by name."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolUpdate
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterCreatedBy,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.settings import PREFECT_API_URL

from headgate import clock
from headgate.errors import BadInputError, TargetUnavailableError
from headgate.sign_in import refuses
from tasks.watched import PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime
    from pathlib import Path
    from uuid import UUID

    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import State
    from prefect.client.schemas.responses import DeploymentResponse

    from headgate.spec import ReleaseSpec

LOCAL = "local"
"""The name of the deployments for the local stack's worker; HEADGATE_DEPLOYMENT names others."""

_FIRST_RUN_SECONDS = 75.0
"""Prefect's scheduler visits new schedules every 5 s, and all of them every 60 s."""
_POLL_SECONDS = 0.5


def schedule_monitor(spec: ReleaseSpec, deployment: str = LOCAL) -> bool:
    """Check an endpoint by the schedule of its release file: one schedule an endpoint, made or changed.

    Returns:
        Whether there is anything to check.
    """
    if spec.monitor is None:
        unschedule_monitor(spec.endpoint, deployment)
        return False
    schedule = CronSchedule(cron=spec.monitor.schedule, timezone=spec.monitor.timezone)
    parameters = {"spec": f"{PREFIX}{spec.endpoint}"}
    with open_client() as client:
        monitor = _deployment(client, f"monitor/{deployment}")
        known = _schedule_of(client, monitor.id, spec.endpoint)
        if known is not None:
            client.update_deployment_schedule(
                monitor.id, known, active=True, schedule=schedule, parameters=parameters, slug=spec.endpoint
            )
        else:
            fresh = DeploymentScheduleCreate(schedule=schedule, parameters=parameters, slug=spec.endpoint)
            client.create_deployment_schedules(monitor.id, [fresh])
    return True


def unschedule_monitor(endpoint: str, deployment: str = LOCAL) -> bool:
    """Check an endpoint no more; whether it was checked."""
    with open_client() as client:
        monitor = _deployment(client, f"monitor/{deployment}")
        known = _schedule_of(client, monitor.id, endpoint)
        if known is not None:
            client.delete_deployment_schedule(monitor.id, known)
    return known is not None


def first_check(endpoint: str, deployment: str = LOCAL) -> datetime | None:
    """Wait until the server has made a run of an endpoint's schedule.

    Returns:
        When the run is due; None where there is none within 75 s.
    """
    with open_client() as client:
        monitor = _deployment(client, f"monitor/{deployment}")
        schedule = _schedule_of(client, monitor.id, endpoint)
        deadline = clock.monotonic() + _FIRST_RUN_SECONDS
        while schedule is not None and clock.monotonic() < deadline:
            if due := _due(client, schedule):
                return min(due)
            clock.sleep(_POLL_SECONDS)
    return None


def _due(client: SyncPrefectClient, schedule: UUID) -> list[datetime]:
    """When the runs that a schedule has made are due."""
    coming = client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            created_by=FlowRunFilterCreatedBy(id_=[schedule], type_=["SCHEDULE"]),
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
        )
    )
    return [run.expected_start_time for run in coming if run.expected_start_time is not None]


def is_pool(name: str, kind: str, template: Path | None) -> bool:
    """Whether there is a work pool, with a job template as it is wanted; all else of it is left as people have set it.

    Raises:
        BadInputError: it is of another kind.
    """
    with open_client() as client:
        try:
            there = client.read_work_pool(name)
        except ObjectNotFound:
            return False
        if there.type != kind:
            raise BadInputError(
                f"the work pool {name} is of type {there.type}, and cannot become {kind}",
                fix=f"name another one by --pool, or remove it: prefect work-pool delete {name}",
            )
        if template is not None:
            wanted = json.loads(template.read_text(encoding="utf-8"))
            client.update_work_pool(name, WorkPoolUpdate(base_job_template=wanted))
    return True


def submit(name: str, parameters: Mapping[str, Any]) -> UUID:
    """Have a worker run a deployment.

    Args:
        name: such as release/local.
        parameters: the flow's.

    Returns:
        The flow run's id.
    """
    with open_client() as client:
        deployment = _deployment(client, name)
        return client.create_flow_run_from_deployment(deployment.id, parameters=dict(parameters)).id


def state_of(run: UUID) -> State[Any] | None:
    """The state of a flow run."""
    with open_client() as client:
        return client.read_flow_run(run).state


@contextmanager
def open_client() -> Iterator[SyncPrefectClient]:
    """A client of the Prefect server that is configured, whose errors are ours.

    Raises:
        TargetUnavailableError: the server does not answer, or there is none.
    """
    # Prefect itself would start a server of its own for this, which knows of nothing.
    if not PREFECT_API_URL.value():
        raise TargetUnavailableError("no Prefect server is known", fix="headgate up, or set PREFECT_API_URL")
    try:
        with get_client(sync_client=True) as client:
            yield client
    except (PrefectException, httpx.HTTPError) as error:
        if isinstance(error, httpx.HTTPStatusError) and refuses(error.response):
            raise TargetUnavailableError(
                f"the Prefect server at {PREFECT_API_URL.value()} does not accept the sign-in",
                fix="headgate doctor says what to set",
            ) from error
        raise TargetUnavailableError(f"the Prefect server does not do what it is asked: {error}") from error


def _deployment(client: SyncPrefectClient, name: str) -> DeploymentResponse:
    try:
        return client.read_deployment_by_name(name)
    except ObjectNotFound as error:
        raise BadInputError(
            f"the Prefect server has no deployment {name}", fix="headgate up, or headgate connect"
        ) from error


def _schedule_of(client: SyncPrefectClient, deployment: UUID, endpoint: str) -> UUID | None:
    found = client.read_deployment_schedules(deployment)
    return next((schedule.id for schedule in found if schedule.slug == endpoint), None)
