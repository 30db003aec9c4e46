"""Evidently's page of a window, for people: on a sample of the rows, with the thresholds of the check.

Evidently writes names and values into a script of the page as they are, and values are what clients sent. So all of
them are escaped before it gets them, and the page runs the scripts that Evidently has and no other.
"""

from __future__ import annotations

import base64
import hashlib
import re
import warnings
from html import escape
from typing import TYPE_CHECKING

import pandas as pd

from headgate.errors import MonitorError
from monitoring.drift.columns import sample_of
from monitoring.drift.profile import Numbers

_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)
_HEAD = "<head>"

if TYPE_CHECKING:
    from pathlib import Path

    from monitoring.drift.check import DriftCheck
    from monitoring.drift.columns import Columns
    from monitoring.drift.reference import Reference


def write_evidently(current: Columns, reference: Reference, check: DriftCheck, file: Path) -> None:
    """Write the page.

    Raises:
        MonitorError: Evidently cannot make it; the check stands.
    """
    if not check.columns:
        raise MonitorError("there is no column with values to show beside the reference")
    # Four seconds to import, so only a monitor run pays for it.
    from evidently import DataDefinition, Dataset, Report  # noqa: PLC0415
    from evidently.metrics import ValueDrift  # noqa: PLC0415

    numerical = [name for name in check.checked if isinstance(reference.profiles[name], Numbers)]
    columns = list(check.checked)
    samples = sample_of(current, columns), reference.sample.select(columns)
    sides = [_readable(side.to_pandas(), numerical) for side in samples]
    categorical = [name for name in check.checked if name not in numerical]
    definition = DataDefinition(
        numerical_columns=list(map(_harmless, numerical)), categorical_columns=list(map(_harmless, categorical))
    )
    metrics = [
        ValueDrift(
            column=_harmless(column.column), method=column.method, threshold=max(column.threshold, column.chance)
        )
        for column in check.columns
    ]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            now, before = (Dataset.from_pandas(side, definition) for side in sides)
            page = Report(metrics, include_tests=True).run(now, before).get_html_str(as_iframe=False)
    except (ValueError, TypeError, KeyError, ZeroDivisionError) as error:
        raise MonitorError(f"Evidently cannot show the window beside the reference: {error}") from error
    file.write_text(page.replace(_HEAD, _HEAD + _policy(page), 1), encoding="utf-8")


def _policy(page: str) -> str:
    """What a browser is to run of the page: its scripts as they are, none in attributes, and nothing is loaded."""
    scripts = " ".join(f"'sha256-{_digest(script)}'" for script in _SCRIPT.findall(page))
    allowed = (
        f"default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; img-src data: blob:; font-src data:"
    )
    return f"<meta http-equiv=\"Content-Security-Policy\" content=\"{allowed}; base-uri 'none'; form-action 'none'\">"


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _harmless(text: object) -> str:
    return escape(str(text), quote=False)


def _readable(frame: pd.DataFrame, numerical: list[str]) -> pd.DataFrame:
    for name in frame.columns:
        if name in numerical:
            frame[name] = pd.to_numeric(frame[name], errors="coerce")
        else:
            frame[name] = frame[name].astype(str).map(_harmless)
    return frame.rename(columns=_harmless)
