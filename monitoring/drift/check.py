"""The check of a window: which columns moved, which values are bad, and what could not be compared."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from headgate.errors import MonitorError
from headgate.health import ColumnDrift, ColumnProblem
from headgate.units import format_percent, rough_percent
from monitoring.drift.distance import distance
from monitoring.drift.profile import Categories, Profile, profile_like
from monitoring.drift.quality import problems_of, repeated_ids, unreadable_requests
from monitoring.parquet import UnreadableError, reading

if TYPE_CHECKING:
    from headgate.monitor import Drift, Monitor, Trigger
    from monitoring.drift.columns import Columns
    from monitoring.drift.reference import Reference


class DriftCheck(NamedTuple):
    """What a check found; `share` is drifted columns over checked columns, `window` their profiles in the window."""

    rows: int
    columns: tuple[ColumnDrift, ...]
    problems: tuple[ColumnProblem, ...]
    passed_over: dict[str, str]
    share: float
    has_drifted: bool
    reason: str
    window: dict[str, Profile]

    @property
    def drifted(self) -> tuple[str, ...]:
        """The columns that moved."""
        return tuple(column.column for column in self.columns if column.drifted)

    @property
    def checked(self) -> tuple[str, ...]:
        """The columns that were compared."""
        return tuple(column.column for column in self.columns)

    @property
    def causes(self) -> tuple[str, ...]:
        """What makes the window a violation, as `rollback.on` names it."""
        found = {"drift": self.has_drifted, "data_quality": bool(self.problems)}
        return tuple(name for name, holds in found.items() if holds)


def check_drift(
    current: Columns, reference: Reference, monitor: Monitor, repeated: int = 0, unreadable: int = 0
) -> DriftCheck:  # fmt: skip
    """Compare the columns that both have.

    Args:
        current: live rows, one column a feature.
        reference: the training sample.
        monitor: the limits.
        repeated: rows that are there for the second time.
        unreadable: requests that have no row, as their bodies cannot be read.

    Raises:
        MonitorError: there are too few rows, or no column to compare.
    """
    rows = current.num_rows
    if rows + unreadable < monitor.min_rows:
        raise MonitorError(
            f"the window has {rows} rows, and monitor.min_rows is {monitor.min_rows}",
            fix="wait for more traffic, widen monitor.window, or lower monitor.min_rows",
        )
    columns, problems, passed_over, window = _look_at_columns(current, reference, monitor)
    problems += repeated_ids(repeated, rows, monitor.data_quality)
    problems += unreadable_requests(unreadable, rows, monitor.data_quality)
    if not columns and not problems:
        raise MonitorError(_nothing(reference, passed_over), fix="log a reference.parquet with the model's inputs")
    drifted = sum(column.drifted for column in columns)
    share, limit = drifted / len(columns) if columns else 0.0, monitor.drift.share
    reason = f"{drifted} of {len(columns)} columns drifted ({rough_percent(share)}, limit {format_percent(limit)})"
    if problems:
        reason += f"; {problems[0].column}: {problems[0].message}"
        reason += f", and {len(problems) - 1} more" if len(problems) > 1 else ""
    is_drift = share >= limit and bool(drifted)
    return DriftCheck(rows, tuple(columns), tuple(problems), passed_over, share, is_drift, reason, window)


def is_triggered(violations: list[bool], trigger: Trigger) -> bool:
    """Whether N of the last M checks were violations, the latest among them; newest last."""
    return bool(violations) and violations[-1] and sum(violations[-trigger.of :]) >= trigger.violations


def _look_at_columns(
    current: Columns, reference: Reference, monitor: Monitor
) -> tuple[list[ColumnDrift], list[ColumnProblem], dict[str, str], dict[str, Profile]]:
    """Each column's drift, what is wrong with values, why columns were not compared, and the others' profiles."""
    columns: list[ColumnDrift] = []
    problems: list[ColumnProblem] = []
    window: dict[str, Profile] = {}
    passed_over = {name: f"{why} in the reference" for name, why in reference.passed_over.items()}
    for name, known in reference.profiles.items():
        if name in monitor.drift.ignore:
            passed_over[name] = "is ignored"
            continue
        if name not in current.column_names:
            passed_over[name] = "is not in the window"
            continue
        column = current.column(name)
        try:
            with reading():
                seen = profile_like(column, known)
        except UnreadableError as error:
            seen = f"cannot be compared ({error})"
        if isinstance(seen, str):
            passed_over[name] = f"{seen} in the window"
            continue
        problems += problems_of(name, known, seen, monitor.data_quality, monitor.drift.false_alarms)
        if why := _why_not(known, seen):
            passed_over[name] = why
        else:
            window[name] = seen
            columns.append(_compare(name, known, seen, monitor.drift))
    new = [name for name in current.column_names if name not in {*reference.profiles, *reference.passed_over}]
    passed_over |= dict.fromkeys(new, "is not in the reference")
    unknown = [name for name in monitor.drift.thresholds if name not in {*reference.profiles, *passed_over}]
    passed_over |= dict.fromkeys(unknown, "has a threshold, and is neither in the reference nor in the window")
    return columns, problems, passed_over, window


def _compare(name: str, reference: Profile, current: Profile, drift: Drift) -> ColumnDrift:
    threshold = drift.thresholds.get(name, drift.threshold)
    found = distance(reference, current, drift.false_alarms)
    return ColumnDrift(
        column=name, method=found.method, score=found.value, error=found.error, chance=found.chance,
        threshold=threshold, drifted=found.value >= max(threshold, found.chance),
    )  # fmt: skip


def _why_not(reference: Profile, current: Profile) -> str:
    if not current.used:
        return "has no values in the window"
    if isinstance(reference, Categories) and reference.is_unique:
        return "has a value of its own in most rows, and is not compared"
    return ""


def _nothing(reference: Reference, passed_over: dict[str, str]) -> str:
    names = list(reference.profiles)[:5]
    why = "; ".join(f"{name} {passed_over[name]}" for name in names)
    return f"no column of the reference can be compared with the live requests: {why or 'it has none with values'}"
