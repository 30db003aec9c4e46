"""Check every endpoint that is watched: one flow run, however many there are."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from prefect import flow, task, unmapped

from flows.monitor import check
from headgate.errors import HeadgateError, MonitorError
from headgate.health import EndpointCheck
from headgate.home import Home
from registry.journal import open_journal
from registry.watches import watched
from tasks import artifacts
from tasks.runner import task_runner
from tasks.step import as_one_step

if TYPE_CHECKING:
    from headgate.spec import ReleaseSpec

_TOGETHER = 16
"""Endpoints a task: as many cost Prefect no more than one does, and are few enough to be shared out evenly."""


@flow(name="monitor-all", flow_run_name="monitor-all", task_runner=task_runner())
def monitor_all(actor: str = "") -> list[EndpointCheck]:
    """Check the endpoints that `headgate watch` was given and whose files have a monitor.

    Pages are written of those where something was found. A check that cannot be made does not keep others from theirs.

    Args:
        actor: in whose name rollbacks are made; empty for the check itself.

    Returns:
        What became of each, in the order of their names.

    Raises:
        MonitorError: not a single check could be made.
    """
    with open_journal(Home.from_env().ensure().journal_url) as journal:
        specs = [spec for _, spec in sorted(watched(journal).items()) if spec.monitor is not None]
    groups = [specs[start : start + _TOGETHER] for start in range(0, len(specs), _TOGETHER)]
    made = [one for future in check_some.map(groups, actor=unmapped(actor)) for one in future.result()]
    artifacts.show_checks(made)
    failed = [one for one in made if one.state == "not checked"]
    if failed and len(failed) == len(made):
        raise MonitorError(f"none of {len(made)} endpoints could be checked; {failed[0].endpoint}: {failed[0].reason}")
    return made


@task
def check_some(specs: list[ReleaseSpec], actor: str) -> list[EndpointCheck]:
    """Check some endpoints, one after the other."""
    with as_one_step():
        return [asyncio.run(_check(spec, actor)) for spec in specs]


async def _check(spec: ReleaseSpec, actor: str) -> EndpointCheck:
    try:
        report = await check(spec, actor, alone=False)
    except HeadgateError as error:
        return EndpointCheck(endpoint=spec.endpoint, state="not checked", reason=error.message)
    return EndpointCheck(endpoint=spec.endpoint, state=report.state, reason=report.reason)
