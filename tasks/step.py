"""How a step is run: as a Prefect task inside a flow run, as a plain function elsewhere.

A rollback must work while the Prefect server is down; then the flow's body runs with no Prefect around it,
and so do its steps.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext, TaskRunContext
from prefect.logging import get_run_logger

from headgate.errors import RegistryUnavailableError, TargetUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prefect.client.schemas.objects import State, TaskRun
    from prefect.tasks import Task

_P = ParamSpec("_P")
_R = TypeVar("_R")

_as_one: ContextVar[bool] = ContextVar("as_one_step", default=False)
_TRANSIENT = (TargetUnavailableError, RegistryUnavailableError)


async def _is_transient(_task: Task[Any, Any], _run: TaskRun, state: State[Any]) -> bool:
    """Retry what may pass by itself, and nothing else: a model that cannot load will not load again."""
    return isinstance(await state.aresult(raise_on_failure=False), _TRANSIENT)


def step(function: Callable[_P, _R]) -> Task[_P, _R]:
    """A step of a flow. Steps observe before they act, so they are safe to run again and never cached."""
    as_task = task(retries=2, retry_delay_seconds=[1, 4], retry_condition_fn=_is_transient, cache_policy=NO_CACHE)
    return as_task(function)


def run(step_task: Task[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
    """Run a step with Prefect where a flow run is going on, and without it where not."""
    if in_flow_run():
        return step_task(*args, **kwargs)
    return step_task.fn(*args, **kwargs)


@contextmanager
def as_one_step() -> Iterator[None]:
    """Let what runs inside be one step, whose own steps Prefect is not told of: of many endpoints each has several."""
    token = _as_one.set(True)
    try:
        yield
    finally:
        _as_one.reset(token)


def in_flow_run() -> bool:
    """Whether Prefect is watching."""
    return not _as_one.get() and (FlowRunContext.get() is not None or TaskRunContext.get() is not None)


def can_suspend() -> bool:
    """Whether this is a run of a deployment, which can end and be started again by a worker."""
    context = FlowRunContext.get()
    return context is not None and context.flow_run is not None and context.flow_run.deployment_id is not None


def flow_run_id() -> str:
    """The id of the flow run that is going on; empty without one."""
    context = FlowRunContext.get()
    return str(context.flow_run.id) if context is not None and context.flow_run is not None else ""


def log(message: str) -> None:
    """Tell the flow run's log, or Python's where there is none."""
    logger = get_run_logger() if in_flow_run() else logging.getLogger("headgate")
    logger.info(message)
