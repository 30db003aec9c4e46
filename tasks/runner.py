"""Where the tasks of a flow over many endpoints run: in this process, in others of this machine, on Dask or on Ray."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from prefect.task_runners import ProcessPoolTaskRunner, ThreadPoolTaskRunner
from prefect.utilities.importtools import from_qualified_name

from headgate.errors import BadInputError
from headgate.installation import install_command

if TYPE_CHECKING:
    from prefect.task_runners import TaskRunner

SETTING = "HEADGATE_TASK_RUNNER"
_AT_ONCE = 4
_ELSEWHERE = {"dask": "prefect_dask.DaskTaskRunner", "ray": "prefect_ray.RayTaskRunner"}


def task_runner() -> TaskRunner[Any]:
    """What HEADGATE_TASK_RUNNER names: threads, processes, `dask`, `ray`, or one of the last two and an address.

    Raises:
        BadInputError: it names none, or one that is not installed.
    """
    kind, _, address = os.environ.get(SETTING, "threads").partition(" ")
    if kind == "threads":
        return ThreadPoolTaskRunner(max_workers=_AT_ONCE)
    if kind == "processes":
        return ProcessPoolTaskRunner(max_workers=os.cpu_count())
    if kind in _ELSEWHERE:
        try:
            runner: TaskRunner[Any] = from_qualified_name(_ELSEWHERE[kind])(address=address or None)
        except ImportError as error:
            raise BadInputError(
                f"{SETTING} is {kind}, and {error.name} is not installed", fix=install_command(kind, missing=error.name)
            ) from error
        return runner
    raise BadInputError(
        f"{SETTING} is {kind}, and has to be threads, processes, dask or ray",
        fix=f"such as {SETTING}='dask tcp://scheduler:8786'",
    )
