"""Flow runs on the Prefect server, by what has started them."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from prefect.client.schemas.schedules import IntervalSchedule

from tasks.deployments import open_client

if TYPE_CHECKING:
    from collections.abc import Iterator


def _runs(world: Any, flow: str) -> list[dict[str, Any]]:
    ask = {"flows": {"name": {"any_": [flow]}}, "sort": "EXPECTED_START_TIME_DESC", "limit": 100}
    found: list[dict[str, Any]] = world.stack.prefect.post("/flow_runs/filter", json=ask).json()
    return found


def by_automation(world: Any, flow: str, **parameters: str) -> list[dict[str, Any]]:
    """The runs of a flow that an automation made with these parameters and that have completed."""
    return [
        run for run in _runs(world, flow)
        if run["state"]["name"] == "Completed" and (run["created_by"] or {}).get("type") == "AUTOMATION"
        and parameters.items() <= run["parameters"].items()
    ]  # fmt: skip


def by_schedule(world: Any, flow: str) -> list[dict[str, Any]]:
    """The runs of a flow that a schedule made and that have completed or failed."""
    return [
        run for run in _runs(world, flow)
        if run["state"]["type"] in {"COMPLETED", "FAILED"} and (run["created_by"] or {}).get("type") == "SCHEDULE"
    ]  # fmt: skip


@contextmanager
def every_ten_seconds(name: str, endpoint: str | None = None) -> Iterator[None]:
    """Have a deployment's own schedule, or that of a watched endpoint, come due more often meanwhile."""
    with open_client() as client:
        deployment = client.read_deployment_by_name(name)
        known = client.read_deployment_schedules(deployment.id)
        (schedule,) = known if endpoint is None else [one for one in known if one.slug == endpoint]
        assert schedule.active
        # Prefect's server forgets what an update does not name.
        same = {"active": True, "parameters": schedule.parameters, "slug": schedule.slug}
        often = IntervalSchedule(interval=timedelta(seconds=10))
        client.update_deployment_schedule(deployment.id, schedule.id, schedule=often, **same)
        try:
            yield
        finally:
            client.update_deployment_schedule(deployment.id, schedule.id, schedule=schedule.schedule, **same)
