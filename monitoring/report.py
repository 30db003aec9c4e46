"""The release report: one self-contained HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, select_autoescape

from headgate.health import HealthReport
from headgate.records import Event, Look, Record, ReleaseResult, ShadowReport
from monitoring.plots import rollout_plot

if TYPE_CHECKING:
    from collections.abc import Sequence


class Evidence(Record):
    """What is known of a release."""

    result: ReleaseResult
    title: str
    looks: tuple[Look, ...] = ()
    shadow: ShadowReport | None = None
    health: HealthReport | None = None
    events: tuple[Event, ...] = ()


def write_report(evidence: Evidence, file: Path) -> None:
    """Write the page; it loads nothing from anywhere."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=select_autoescape(["html"])
    )
    plot = _svg(evidence.looks, evidence.title)
    page = environment.get_template("report.html").render(evidence=evidence, plot=plot)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(page, encoding="utf-8")


def _svg(looks: Sequence[Look], title: str) -> str:
    if not looks:
        return ""
    text = rollout_plot(looks, title).decode()
    return text[text.index("<svg") :]
