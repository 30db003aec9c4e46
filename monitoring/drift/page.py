"""Evidently's page of a window, for people: on a sample of the rows, with the thresholds of the check."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import pandas as pd

from headgate.errors import MonitorError
from monitoring.drift.columns import sample_of
from monitoring.drift.profile import Numbers

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
    definition = DataDefinition(numerical_columns=numerical, categorical_columns=categorical)
    metrics = [
        ValueDrift(column=column.column, method=column.method, threshold=max(column.threshold, column.chance))
        for column in check.columns
    ]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            now, before = (Dataset.from_pandas(side, definition) for side in sides)
            Report(metrics, include_tests=True).run(now, before).save_html(str(file))
    except (ValueError, TypeError, KeyError, ZeroDivisionError) as error:
        raise MonitorError(f"Evidently cannot show the window beside the reference: {error}") from error


def _readable(frame: pd.DataFrame, numerical: list[str]) -> pd.DataFrame:
    for name in frame.columns:
        if name in numerical:
            frame[name] = pd.to_numeric(frame[name], errors="coerce")
        else:
            frame[name] = frame[name].astype(str)
    return frame
