"""The page of a monitor's check: the verdict, the columns that lie furthest from the reference, bad values, labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from monitoring.pages.plots import columns_plot, wrong_answers_plot
from monitoring.pages.render import write

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from headgate.health import ColumnDrift, HealthReport
    from monitoring.drift.profile import Profile

_DRAWN = 12
"""Columns with a histogram; each costs some ten kilobytes, and a person looks at the first few."""


class Checked(NamedTuple):
    """What is known of a check.

    Attributes:
        report: what it found.
        reference: the profiles of the columns that were compared.
        window: those of the live rows.
        earlier: the checks before it, newest first.
        evidently: the name of Evidently's page beside this one; empty where there is none.
    """

    report: HealthReport
    reference: Mapping[str, Profile]
    window: Mapping[str, Profile]
    earlier: Sequence[HealthReport] = ()
    evidently: str = ""


def write_check(checked: Checked, file: Path) -> list[Path]:
    """Write the page and, where columns were compared, their histograms as a PNG beside it.

    Returns:
        The files.
    """
    report, written = checked.report, [file]
    ranked = sorted(report.columns, key=_how_far, reverse=True)
    drawn = [(column, checked.reference[column.column], checked.window[column.column]) for column in ranked[:_DRAWN]]
    plots = {"columns": columns_plot(drawn, _title(report)) if drawn else b""}
    if report.quality is not None:
        plots["labels"] = wrong_answers_plot(report.quality)
    write("window.html", file, plots, checked=checked, report=report, title=_title(report), ranked=ranked,
          drawn=len(drawn))  # fmt: skip
    if drawn:
        picture = file.with_suffix(".png")
        picture.write_bytes(columns_plot(drawn, _title(report), kind="png"))
        written.append(picture)
    return written


def _how_far(column: ColumnDrift) -> float:
    limit = max(column.threshold, column.chance)
    return column.score / limit if limit else column.score


def _title(report: HealthReport) -> str:
    return f"{report.endpoint} v{report.version}: {report.state}"
