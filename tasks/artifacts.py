"""What a flow run leaves in the Prefect UI: tables, progress, links. Without a flow run, nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from tasks.markdown import as_code
from tasks.step import in_flow_run, log

if TYPE_CHECKING:
    from collections.abc import Callable

    from headgate.health import EndpointCheck, HealthReport
    from headgate.plan import Plan
    from headgate.verdicts import ShadowReport


def _leave(create: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - whatever Prefect returns
    """Leave an artifact, now; without `_sync` Prefect would hand a coroutine to a step of an async flow.

    A server that is away has none; what the step does counts all the same.
    """
    if not in_flow_run():
        return None
    try:
        return create(*args, _sync=True, **kwargs)
    except httpx.HTTPError as error:
        log(f"Prefect's server did not take an artifact: {type(error).__name__}")
        return None


def show_plan(plan: Plan) -> None:
    """The plan as a table."""
    rows = [step.model_dump() for step in plan.steps]
    notes = f"Champion: {plan.champion}. " + " ".join(plan.notes)
    _leave(create_table_artifact, rows, key=f"{plan.endpoint}-plan", description=notes)


def show_shadow(endpoint: str, report: ShadowReport) -> None:
    """The paired comparison, with examples of what differed."""
    figures = report.model_dump(exclude={"examples"})
    lines = ["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in figures.items())]
    for example in report.examples:
        shown = map(as_code, (example.request_id, example.champion, example.challenger))
        lines += ["", "{} champion {} challenger {}".format(*shown)]
    _leave(create_markdown_artifact, "\n".join(lines), key=f"{endpoint}-shadow")


class Progress:
    """The traffic that a challenger has, as a progress bar."""

    def __init__(self, endpoint: str) -> None:
        self._id = _leave(create_progress_artifact, 0.0, key=f"{endpoint}-traffic")

    def update(self, percent: float) -> None:
        """Move the bar."""
        if self._id is not None:
            _leave(update_progress_artifact, self._id, progress=percent)


def show_report(endpoint: str, link: str) -> None:
    """A link to the release's report."""
    _leave(create_link_artifact, link, key=f"{endpoint}-report", link_text="Release report")


def show_checks(made: list[EndpointCheck]) -> None:
    """Where many endpoints were checked, those that are not in order."""
    rows = [one.model_dump() for one in made if one.state != "in order"]
    says = f"{len(made)} endpoints checked, {len(made) - len(rows)} in order"
    _leave(create_table_artifact, rows, key="monitor-all", description=says)


def show_health(report: HealthReport) -> None:
    """A check as a table: its figures, then each column, then what is wrong with values."""
    nested = {"columns", "problems", "passed_over"}
    figures = report.model_dump(mode="json", exclude=nested)
    rows = [{"figure": key, "value": str(value)} for key, value in figures.items()]
    for column in sorted(report.columns, key=lambda column: -column.score):
        says = f"{column.method} {column.score:.3g}, threshold {column.threshold:g}, by chance {column.chance:.3g}"
        rows.append({"figure": column.column, "value": f"{'drifted: ' if column.drifted else ''}{says}"})
    rows += [{"figure": problem.column, "value": problem.message} for problem in report.problems]
    rows += [{"figure": name, "value": why} for name, why in report.passed_over.items()]
    _leave(create_table_artifact, rows, key=f"{report.endpoint}-drift", description=report.reason)
