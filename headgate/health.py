"""What a check of live traffic found."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from headgate.records import Record, Window


class ColumnDrift(Record):
    """How far a column of a window lies from the reference.

    Attributes:
        method: wasserstein (over the reference's standard deviation; where its tails are heavy, of both cut off at its
            5 % and 95 % quantiles) or jensenshannon.
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


class Attribution(Record):
    """Whose doing a violation is.

    Attributes:
        cause: version, where going back would help; inputs, where it would not; unknown, where that cannot be told.
        asked: how many requests the version before was asked.
    """

    cause: Literal["version", "inputs", "unknown"]
    asked: int
    reason: str


class Accuracy(Record):
    """How often a version was wrong, by its labels; `low` to `high` holds at every moment at once, with 95 %."""

    revision: str
    labels: int
    wrong: int
    rate: float
    low: float
    high: float
    mean_absolute_error: float | None
    root_mean_squared_error: float | None


class QualityPoint(Record):
    """A day's labelled answers."""

    day: datetime
    labels: int
    wrong: int


class QualityReport(Record):
    """What labels say of the live version.

    Attributes:
        before: the version before; None where no label belongs to an answer of its.
        pairs: requests with a label that both answered; `only_ours` and `only_theirs` are those on which one was wrong.
        e_value: evidence in the pairs that the live version is wrong more often.
        difference: of the rates of wrong answers, live less before, as far as it is known at every moment at once.
        verdict: worse; no worse, within the margin; or open, which makes a promotion provisional.
        unknown: labels whose requests neither answered.
        over_time: the live version's, by day, at most the last 48.
    """

    champion: Accuracy
    before: Accuracy | None
    pairs: int
    only_ours: int
    only_theirs: int
    e_value: float
    difference: tuple[float, float]
    verdict: Literal["worse", "no worse", "open"]
    unknown: int
    over_time: tuple[QualityPoint, ...]
    reason: str


class EndpointCheck(Record):
    """What became of one endpoint where many were checked."""

    endpoint: str
    state: Literal["in order", "violation", "alarm", "not enough data", "not checked"]
    reason: str


class HealthReport(Record):
    """One check of a window of live predictions.

    `causes` says what makes it a violation, as `rollback.on` names it; `passed_over` why a column was not compared;
    `attribution`, where a rollback was due, whether it would help. `quiet` is how many checks in a row, this one among
    them, had fewer rows than `monitor.min_rows`, so that nothing was compared; 0 where this one had enough. `too_quiet`
    says that these are `monitor.quiet_checks` or more.
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
    attribution: Attribution | None = None
    quality: QualityReport | None = None
    quiet: int = 0
    too_quiet: bool = False

    @property
    def state(self) -> Literal["in order", "violation", "alarm", "not enough data"]:
        """An alarm, where enough of the last checks were violations."""
        if self.quiet:
            return "not enough data"
        return "alarm" if self.triggered else "violation" if self.violation else "in order"
