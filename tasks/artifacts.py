"""What a flow run leaves in the Prefect UI: tables, progress, links. Without a flow run, nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from tasks.step import in_flow_run

if TYPE_CHECKING:
    from collections.abc import Callable

    from headgate.plan import Plan
    from headgate.records import HealthReport, ShadowReport


def _leave(create: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - whatever Prefect returns
    """Leave an artifact, now; without `_sync` Prefect would hand a coroutine to a step of an async flow."""
    return create(*args, _sync=True, **kwargs) if in_flow_run() else None


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
        lines += ["", f"`{example.request_id}` champion `{example.champion}` challenger `{example.challenger}`"]
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


def show_health(report: HealthReport) -> None:
    """A drift check as a table."""
    rows = [{"figure": key, "value": str(value)} for key, value in report.model_dump(mode="json").items()]
    _leave(create_table_artifact, rows, key=f"{report.endpoint}-drift", description=report.reason)
