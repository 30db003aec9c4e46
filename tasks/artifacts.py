"""What a flow run leaves in the Prefect UI: tables, progress, links. Without a flow run, nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from tasks.step import in_flow_run

if TYPE_CHECKING:
    from headgate.plan import Plan
    from headgate.records import HealthReport, ShadowReport


def show_plan(plan: Plan) -> None:
    """The plan as a table."""
    if in_flow_run():
        create_table_artifact(
            [step.model_dump() for step in plan.steps], key=f"{plan.endpoint}-plan",
            description=f"Champion: {plan.champion}. " + " ".join(plan.notes), _sync=True,
        )  # fmt: skip


def show_shadow(endpoint: str, report: ShadowReport) -> None:
    """The paired comparison, with examples of what differed."""
    if not in_flow_run():
        return
    figures = report.model_dump(exclude={"examples"})
    lines = ["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in figures.items())]
    for example in report.examples:
        lines += ["", f"`{example.request_id}` champion `{example.champion}` challenger `{example.challenger}`"]
    create_markdown_artifact("\n".join(lines), key=f"{endpoint}-shadow", _sync=True)


class Progress:
    """The traffic that a challenger has, as a progress bar."""

    def __init__(self, endpoint: str) -> None:
        self._id: UUID | None = None
        if in_flow_run():
            created = create_progress_artifact(0.0, key=f"{endpoint}-traffic", _sync=True)  # type: ignore[call-overload]
            self._id = created

    def update(self, percent: float) -> None:
        """Move the bar."""
        if self._id is not None:
            update_progress_artifact(self._id, progress=percent, _sync=True)  # type: ignore[call-arg]


def show_report(endpoint: str, link: str) -> None:
    """A link to the release's report."""
    if in_flow_run():
        create_link_artifact(link, key=f"{endpoint}-report", link_text="Release report", _sync=True)


def show_health(report: HealthReport) -> None:
    """A drift check as a table."""
    if in_flow_run():
        create_table_artifact(
            [{"figure": key, "value": str(value)} for key, value in report.model_dump(mode="json").items()],
            key=f"{report.endpoint}-drift", description=report.reason, _sync=True,
        )  # fmt: skip
