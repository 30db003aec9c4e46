"""What a check of live traffic found."""

from __future__ import annotations

from pydantic import Field

from headgate.records import Record, Window


class ColumnDrift(Record):
    """How far a column of a window lies from the reference.

    Attributes:
        method: wasserstein (over the reference's standard deviation) or jensenshannon.
        score: the distance; that of all rows is within `error` of it.
        chance: what a window of this size stays below without drift, but for `monitor.drift.false_alarms`.
        threshold: of the release file; a column has drifted that reaches it and `chance`.
    """

    column: str
    method: str
    score: float
    error: float
    chance: float
    threshold: float
    drifted: bool


class ColumnProblem(Record):
    """What is wrong with a column's values; `share` is of the window's rows, and more than `limit`."""

    column: str
    kind: str
    share: float
    limit: float
    message: str


class HealthReport(Record):
    """One check of a window of live predictions.

    `causes` says what makes it a violation, as `rollback.on` names it; `passed_over` why a column was not compared.
    """

    endpoint: str
    revision: str
    version: int
    window: Window
    rows: int
    drifted_columns: tuple[str, ...]
    share: float
    limit: float
    violation: bool
    triggered: bool
    reason: str
    causes: tuple[str, ...] = ()
    columns: tuple[ColumnDrift, ...] = ()
    problems: tuple[ColumnProblem, ...] = ()
    passed_over: dict[str, str] = Field(default_factory=dict)
