"""A rule on counts that were recorded: of a past release's looks, or of a CSV or Parquet file."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from headgate.counts import LATENCY
from headgate.errors import MonitorError
from monitoring.judge.batch import ADVANCE, RUNNING
from monitoring.judge.judge import PHASES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from headgate.counts import Counts
    from headgate.verdicts import Look
    from monitoring.replay.rules import Rule

Array = np.ndarray[Any, Any]

COLUMNS = ("seconds", "stable_requests", "stable_failures", "canary_requests", "canary_failures")
"""What a file of counts has: seconds since the shift began, and cumulative counters."""


@dataclass(frozen=True)
class Trace:
    """Recorded counters; each array has a row a look.

    Attributes:
        seconds: since the shift began.
        stable: by metric, cumulative counts of shape (looks, cells).
        canary: the same.
        history: what was known of the stable version before, as `JudgeBatch.warm_up` takes it.
    """

    seconds: Array
    stable: dict[str, Array]
    canary: dict[str, Array]
    history: dict[str, Array] = field(default_factory=dict)

    @classmethod
    def of_looks(cls, looks: Sequence[Look], before: Counts) -> Trace:
        """The looks of a release, and the stable version's counters before it."""
        if not looks:
            raise MonitorError("this release has no looks: no live traffic was shifted", fix="choose another release")
        stable, canary = ([getattr(look, arm) for look in looks] for arm in ("stable", "canary"))
        history = {name: cells[None] for name, cells in _cells([before]).items() if cells.any()}
        return cls(np.array([look.seconds for look in looks]), _cells(stable), _cells(canary), history)


def _cells(counts: Sequence[Counts]) -> dict[str, Array]:
    hits = {
        "errors": [max(count.failures - count.client_errors, 0) for count in counts],
        "client_errors": [count.client_errors for count in counts],
        "failures": [count.failures for count in counts],
    }
    requests = [count.requests for count in counts]
    cells = {name: np.array([requests, failed], float).T for name, failed in hits.items()}
    if all(buckets := [count.buckets(LATENCY) for count in counts]):
        cells[LATENCY] = np.array(buckets, float)
    return cells


@dataclass(frozen=True)
class Verdict:
    """What a rule would have done.

    Attributes:
        phase: rollback | promote | inconclusive | running, where the record ended first.
        seconds: when, or infinity.
        bad: failed canary requests until then, or until the end of the record.
    """

    rule: str
    phase: str
    seconds: float
    bad: float


def read_counts(path: Path) -> Trace:
    """Read a CSV or Parquet file with the columns of COLUMNS.

    Raises:
        MonitorError: it cannot be read, or a column is missing, is no number, or falls.
    """
    import pandas as pd  # noqa: PLC0415 - 0.3 s to import

    from monitoring.parquet import ParquetFile, UnreadableError, reading  # noqa: PLC0415 - as long

    try:
        with reading():
            frame = ParquetFile(path).read(path).to_pandas() if path.suffix == ".parquet" else pd.read_csv(path)
    except UnreadableError as error:
        raise MonitorError(f"{path} cannot be read: {error}", fix="give a CSV file, or a .parquet file") from error
    missing = [name for name in COLUMNS if name not in frame.columns]
    if missing:
        raise MonitorError(f"{path} has no column {', '.join(missing)}", fix=f"it needs: {', '.join(COLUMNS)}")
    if frame.empty:
        raise MonitorError(f"{path} has no rows", fix="one row a look, in the order of time")
    for name in COLUMNS:
        numbers = pd.to_numeric(frame[name], errors="coerce")
        if not np.isfinite(numbers).all():
            row = int(np.flatnonzero(~np.isfinite(numbers))[0])
            raise MonitorError(f"{path}: {name} in row {row + 1} is {frame[name].iloc[row]!r}, which is no number")
        if (numbers < 0).any() or (name == "seconds" and (numbers.diff() < 0).any()):
            raise MonitorError(f"{path}: {name} is below zero or falls", fix="cumulative counters, in order of time")
        frame[name] = numbers
    arms = (frame[[f"{arm}_requests", f"{arm}_failures"]].to_numpy(float) for arm in ("stable", "canary"))
    stable, canary = ({"errors": cells, "failures": cells} for cells in arms)
    return Trace(frame["seconds"].to_numpy(float), stable, canary)


def replay(rule: Rule, trace: Trace) -> Verdict:
    """What a rule would have done with these counts."""
    running, phase = rule.start(1, trace.history), RUNNING
    for row, at in enumerate(trace.seconds):
        arms = ({name: cells[row : row + 1] for name, cells in arm.items()} for arm in (trace.stable, trace.canary))
        phase = int(running.observe(float(at), *arms)[0])
        if phase not in {RUNNING, ADVANCE}:
            return Verdict(rule.name, PHASES[phase], float(at), float(trace.canary["failures"][row, 1]))
    return Verdict(rule.name, PHASES[RUNNING], math.inf, float(trace.canary["failures"][-1, 1]))
