"""Flow runs whose process died: Prefect takes those that no worker started for running, for ever."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import Crashed

from headgate.errors import TargetUnavailableError
from registry import Kind, history
from registry.lease import holder
from registry.queue import waiting
from tasks.deployments import open_client
from tasks.watched import endpoint_of

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

    from tasks.job import Job


_BEGINS = timedelta(minutes=2)
"""A release takes its lease, or its place in the line, within this time of its flow run's start; it takes seconds."""


def stuck_runs(job: Job) -> list[str]:
    """The flow runs of the endpoint that Prefect takes for running; none where it is not there to ask."""
    to_close = history.runs_to_close(job.journal, job.endpoint)
    try:
        with open_client() as client:
            known = [run for runs in to_close.values() for run in runs if _is_running(client, run)]
            return known + _never_began(job, client)
    except TargetUnavailableError:
        return []


def close_runs(job: Job) -> None:
    """Tell Prefect that they are not.

    Raises:
        TargetUnavailableError: the server does not answer, or there is none.
    """
    with open_client() as client:
        for release_id, runs in history.runs_to_close(job.journal, job.endpoint).items():
            open_ones = [run for run in runs if _is_running(client, run)]
            _tell(client, open_ones)
            job.write(Kind.NOTE, history.RUN_CLOSED, f"{release_id}: {len(open_ones)} run(s)", {"of": release_id})
        _tell(client, _never_began(job, client))


def _tell(client: SyncPrefectClient, runs: list[str]) -> None:
    for run in runs:
        client.set_flow_run_state(UUID(run), Crashed(message="its process died"), force=True)


def _never_began(job: Job, client: SyncPrefectClient) -> list[str]:
    """Releases whose process died before it had the lease: the journal knows nothing of them, and Prefect is asked."""
    if waiting(job.journal, job.endpoint):
        return []
    held = holder(job.journal, job.endpoint)
    told = {str(row.evidence["flow_run"]) for row in job.journal.read(job.endpoint) if row.evidence.get("flow_run")}
    found = client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=["release"])),
        flow_run_filter=FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING])),
            start_time=FlowRunFilterStartTime(before_=datetime.now(UTC) - _BEGINS),
        ),
    )
    ours = [str(run.id) for run in found if endpoint_of(run.parameters.get("spec")) == job.endpoint]
    return [run for run in ours if run not in told and (held is None or held.in_run != run)]


def _is_running(client: SyncPrefectClient, run: str) -> bool:
    try:
        state = client.read_flow_run(UUID(run)).state
    except ObjectNotFound:
        return False
    return state is not None and state.is_running()
