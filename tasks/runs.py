"""Flow runs whose process died: Prefect takes those that no worker started for running, for ever."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from prefect.exceptions import ObjectNotFound
from prefect.states import Crashed

from headgate.errors import TargetUnavailableError
from registry import Kind, history
from tasks.deployments import open_client

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

    from tasks.job import Job


def stuck_runs(job: Job) -> list[str]:
    """The flow runs of the endpoint that Prefect takes for running; none where it does not answer."""
    waiting = history.runs_to_close(job.journal, job.endpoint)
    if not any(waiting.values()):
        return []
    try:
        with open_client() as client:
            return [run for runs in waiting.values() for run in runs if _is_running(client, run)]
    except TargetUnavailableError:
        return []


def close_runs(job: Job) -> None:
    """Tell Prefect that they are not.

    Raises:
        TargetUnavailableError: the server does not answer.
    """
    for release_id, runs in history.runs_to_close(job.journal, job.endpoint).items():
        with open_client() as client:
            open_ones = [run for run in runs if _is_running(client, run)]
            for run in open_ones:
                client.set_flow_run_state(UUID(run), Crashed(message="its process died"), force=True)
        job.write(Kind.NOTE, history.RUN_CLOSED, f"{release_id}: {len(open_ones)} run(s)", {"of": release_id})


def _is_running(client: SyncPrefectClient, run: str) -> bool:
    try:
        state = client.read_flow_run(UUID(run)).state
    except ObjectNotFound:
        return False
    return state is not None and state.is_running()
