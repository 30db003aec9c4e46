"""What is compared: each metric says which of its counters are hits, and which hypotheses are tested about them.

A metric's counters are a row of cells, such as (requests, failures) or one cell a latency bucket. Every test counts
hits among trials in each arm, and both are sums of cells; so a metric is three matrices and a list of tests, and the
judge multiplies all of them at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from monitoring.judge.engine import Array, Hypotheses

Indices = np.ndarray[Any, np.dtype[np.int64]]

HARM = -1
"""The step of a test for harm: it counts in every step."""

_LEVELS = (0.1, 0.3, 0.5, 0.7, 0.85, 0.95, 0.98, 0.99, 0.995, 0.999)
"""Quantiles of the stable version at which latencies are compared for harm."""

_LATENCIES_NEEDED = 500
"""Stable requests from which those quantiles are read; until then latencies are no evidence."""

_START_MASS = 0.5
"""What the tests for harm bet from the first look on; see the restarts in `monitoring.judge.engine`."""

MAX_SCALE = 10.0
"""The most by which the margins of an early step are widened."""


class MetricError(ValueError):
    """A metric that cannot be: the message names the field, its value and the limit."""


@dataclass(frozen=True)
class Comparison:
    """A metric's tests and where their counts come from.

    Attributes:
        tests: the hypotheses, T of them.
        canary: hits by cell, of shape (cells, T); shares for values between 0 and 1.
        stable: the same for the stable version.
        trials: trials by cell, of shape (cells, T).
        step: for each test the step whose end needs it rejected, or HARM.
        stratum: for each test the stratum it belongs to; 0 where there are none.
    """

    tests: Hypotheses
    canary: Array
    stable: Array
    trials: Array
    step: Indices
    stratum: Indices


class Metric(Protocol):
    """One thing that the canary may be worse at."""

    @property
    def name(self) -> str:
        """How verdicts call it."""

    @property
    def cells(self) -> int:
        """How many counters one arm has."""

    @property
    def graded(self) -> bool:
        """Whether hits are shares of a trial, not whole ones."""

    @property
    def pairs(self) -> bool:
        """Whether the cells are (trials, hits); else each trial is counted in one of them."""

    def compare(self, known: Array, scales: Array) -> Comparison | None:
        """The tests, once enough of the stable version is known to choose them; None before.

        Args:
            known: the stable version's cells so far.
            scales: for each step, by how much its margins are wider than the last step's.
        """


def margin_scales(shares: tuple[float, ...]) -> Array:
    """How much wider the margins of each step are: a step with a tenth of the traffic may show a tenth as much.

    Share times margin is what the clients of a step can lose, and is the same in each, up to MAX_SCALE.
    """
    return np.minimum(shares[-1] / np.array(shares), MAX_SCALE)


@dataclass(frozen=True)
class ErrorRate:
    """The share of requests that fail. Cells: requests, failures.

    Attributes:
        name: how verdicts call it; of `client_errors` they say that requests got an answer of 4xx.
        tolerance: harm is a rate above (1 + tolerance) times the stable version's, plus `tolerance_points`.
        margin: promotion needs a rate shown to be below (1 + margin) times the stable version's, plus `margin_points`.
    """

    name: str = "errors"
    tolerance: float = 0.10
    tolerance_points: float = 0.0
    margin: float = 0.25
    margin_points: float = 0.001

    cells = 2
    graded = False
    pairs = True

    def __post_init__(self) -> None:
        if not (0 <= self.tolerance <= self.margin and 0 <= self.tolerance_points <= self.margin_points < 1):
            raise MetricError(
                f"{self.name}: tolerance ({self.tolerance:g}, {self.tolerance_points:g}) is at least 0 and at most "
                f"the margin ({self.margin:g}, {self.margin_points:g}): what is harmless to one is so to the other"
            )

    def compare(self, known: Array, scales: Array) -> Comparison:
        """One test for harm, and one of non-inferiority a step."""
        del known
        steps = len(scales)
        tests = Hypotheses(
            rho=np.array([1 + self.tolerance] + [1 + self.margin] * steps),
            delta=np.append(self.tolerance_points, self.margin_points * scales),
            side=np.array([1.0] + [-1.0] * steps),
            prior=np.full(steps + 1, 0.01),
            starts=np.array([_START_MASS] + [1.0] * steps),
            near=np.arange(steps + 1) > 0,
        )
        hits, trials = (np.outer(cells, np.ones(steps + 1)) for cells in ([0, 1], [1, 0]))
        return Comparison(tests, hits, hits, trials, np.arange(HARM, steps), np.zeros(steps + 1, int))


@dataclass(frozen=True)
class Latency:
    """How long answers take, from histograms with the same buckets in both arms. Cells: one a bucket, overflow last.

    Harm is that the canary's latency over (1 + tolerance) is not stochastically below the stable version's: at some
    bound τ more canary requests take longer than (1 + tolerance) τ than stable ones take longer than τ. Promotion
    needs the reverse at (1 + margin) shown at every quantile q, but for margin (1 - q) of all requests: buckets may be
    so wide that hardly any request is above the one that holds the quantile. Bounds that buckets do not have are
    rounded to the side on which nothing is claimed too much.

    Attributes:
        bounds: upper bounds of the buckets, in seconds, rising.
        floor: differences of less than this many seconds are never counted.
        strata: histograms of as many strata, such as prompt lengths, one after the other; compared each with itself.
    """

    bounds: tuple[float, ...]
    name: str = "latency"
    quantiles: tuple[float, ...] = (0.5, 0.9, 0.99)
    tolerance: float = 0.044
    margin: float = 0.19
    floor: float = 0.0
    strata: int = 1

    graded = False
    pairs = False

    def __post_init__(self) -> None:
        if len(self.bounds) < 2 or list(self.bounds) != sorted(set(self.bounds)):  # noqa: PLR2004
            raise MetricError(f"{self.name}: bounds are at least two rising numbers, not {self.bounds}")
        if not 0 <= self.tolerance <= self.margin:
            raise MetricError(f"{self.name}: tolerance ({self.tolerance:g}) is from 0 to margin ({self.margin:g})")
        if not all(0 < quantile < 1 for quantile in self.quantiles):
            raise MetricError(f"{self.name}: quantiles are between 0 and 1, not {self.quantiles}")

    @property
    def cells(self) -> int:
        """All buckets of all strata."""
        return self.strata * (len(self.bounds) + 1)

    def compare(self, known: Array, scales: Array) -> Comparison | None:
        """Ten tests for harm a stratum, and one of non-inferiority for each quantile of each step."""
        histograms = known.reshape(self.strata, -1)
        if histograms.sum() < _LATENCIES_NEEDED:
            return None
        parts = [self._stratum(number, histogram, scales) for number, histogram in enumerate(histograms)]
        joined = {
            name: np.concatenate([getattr(part, name) for part in parts], axis=-1)
            for name in ("canary", "stable", "trials", "step", "stratum")
        }
        return Comparison(Hypotheses.join([part.tests for part in parts]), **joined)

    def _stratum(self, number: int, histogram: Array, scales: Array) -> Comparison:
        below = np.cumsum(histogram[:-1]) / max(histogram.sum(), 1)
        rows = [
            (place, self._at_least(self.bounds[place], self.tolerance), HARM, 0.0)
            for place in (self._holds(below, level) for level in _LEVELS)
        ] + [
            (place, self._at_most(self.bounds[place], self.margin * scale), step, min(self.margin * scale, 1) * (1 - q))
            for step, scale in enumerate(scales)
            for q, place in ((q, self._holds(below, q)) for q in self.quantiles)
        ]
        places, slower, step, delta = (np.array(part) for part in zip(*rows, strict=True))
        side, tests = np.where(step == HARM, 1.0, -1.0), len(step)
        stable_rate = 1 - below[places]
        ours = number * (len(self.bounds) + 1)
        cell = np.arange(self.cells)[:, None] - ours
        inside = (cell >= 0) & (cell <= len(self.bounds))
        return Comparison(
            Hypotheses(
                np.ones(tests), delta, side, np.maximum(stable_rate, 1e-4),
                np.where(step == HARM, _START_MASS, 1.0), step != HARM,
            ),
            canary=(inside & (cell > slower)).astype(float), stable=(inside & (cell > places)).astype(float),
            trials=np.broadcast_to(inside, (self.cells, tests)).astype(float), step=step,
            stratum=np.full(tests, number),
        )  # fmt: skip

    def _holds(self, below: Array, level: float) -> int:
        """The bucket that holds a quantile."""
        return min(int(np.searchsorted(below, level)), len(self.bounds) - 1)

    def _at_least(self, bound: float, share: float) -> int:
        """The first bucket bound that is not less than the bound with its allowance; beyond the last, none."""
        return int(np.searchsorted(self.bounds, max(bound * (1 + share), bound + self.floor) * (1 - 1e-9)))

    def _at_most(self, bound: float, share: float) -> int:
        """The last bucket bound that is not more than that."""
        wanted = max(bound * (1 + share), bound + self.floor) * (1 + 1e-9)
        return int(np.searchsorted(self.bounds, wanted, side="right")) - 1


@dataclass(frozen=True)
class PredictionShift:
    """What the model answers: the share of each class, or of each bin of a number. Cells: one a class or bin.

    Harm is that some share differs by more than `tolerance`; for bins, that some cumulative share does.
    """

    classes: int
    name: str = "predictions"
    tolerance: float = 0.01
    ordered: bool = field(default=False)

    graded = False
    pairs = False

    def __post_init__(self) -> None:
        if self.classes < 2:  # noqa: PLR2004
            raise MetricError(f"{self.name}: at least two classes or bins, not {self.classes}")
        if not 0 <= self.tolerance < 1:
            raise MetricError(f"{self.name}: tolerance is a share from 0 to 1, not {self.tolerance:g}")

    @property
    def cells(self) -> int:
        """One a class."""
        return self.classes

    def compare(self, known: Array, scales: Array) -> Comparison:
        """Two tests a class, one in each direction."""
        del known, scales
        events = np.tri(self.classes).T[:, :-1] if self.ordered else np.eye(self.classes)
        if self.classes == 2:  # noqa: PLR2004 - the other one says the same
            events = events[:, :1]
        one, number = np.ones(2 * events.shape[1]), events.shape[1]
        tests = Hypotheses(
            rho=one, delta=np.repeat([self.tolerance, -self.tolerance], number), side=np.repeat([1.0, -1.0], number),
            prior=np.tile(events.mean(axis=0), 2), starts=_START_MASS * one, near=one < 0,
        )  # fmt: skip
        hits = np.tile(events, 2)
        return Comparison(tests, hits, hits, np.ones_like(hits), np.full(len(one), HARM), np.zeros(len(one), int))


@dataclass(frozen=True)
class BoundedMean:
    """The mean of a number with known limits, such as the value of an order. Cells: one a bucket of values.

    Each value's share of the way from best to worst is its loss. Harm is that the canary's mean loss is more than
    `tolerance` above the stable version's; promotion needs it shown to be less than `margin` above. A value counts as
    the middle of its bucket, and the guarantees are about means of such values: make buckets narrower than what
    matters. Compare only users who have been in their arm for the same time.

    Attributes:
        edges: of the buckets, rising; the first and the last are the limits.
        better: whether more is better, or less.
    """

    edges: tuple[float, ...]
    name: str = "business"
    tolerance: float = 0.01
    margin: float = 0.02
    better: str = "more"

    graded = True
    pairs = False

    def __post_init__(self) -> None:
        if len(self.edges) < 2 or list(self.edges) != sorted(set(self.edges)):  # noqa: PLR2004
            raise MetricError(f"{self.name}: edges are at least two rising numbers, not {self.edges}")
        if self.better not in {"more", "less"}:
            raise MetricError(f"{self.name}: better is `more` or `less`, not {self.better!r}")
        if not 0 <= self.tolerance <= self.margin < 1:
            raise MetricError(f"{self.name}: tolerance ({self.tolerance:g}) is from 0 to margin ({self.margin:g})")

    @property
    def cells(self) -> int:
        """One a bucket."""
        return len(self.edges) - 1

    def compare(self, known: Array, scales: Array) -> Comparison:
        """One test for harm, and one of non-inferiority a step."""
        del known
        edges = np.array(self.edges)
        shares = ((edges[1:] + edges[:-1]) / 2 - edges[0]) / (edges[-1] - edges[0])
        loss = 1 - shares if self.better == "more" else shares
        steps = len(scales)
        tests = Hypotheses(
            rho=np.ones(steps + 1), delta=np.append(self.tolerance, np.minimum(self.margin * scales, 0.5)),
            side=np.array([1.0] + [-1.0] * steps), prior=np.full(steps + 1, 0.5),
            starts=np.array([_START_MASS] + [1.0] * steps), near=np.arange(steps + 1) > 0,
        )  # fmt: skip
        losses = np.repeat(loss[:, None], steps + 1, axis=1)
        return Comparison(
            tests, losses, losses, np.ones_like(losses), np.arange(HARM, steps), np.zeros(steps + 1, int)
        )  # fmt: skip


@dataclass(frozen=True)
class Disagreement:
    """Answers of both versions to the same request that differ. Cells, of the canary alone: pairs, disagreements.

    Harm is a true share above `tolerance`; promotion needs it shown to be below.
    """

    name: str = "disagreement"
    tolerance: float = 0.005

    cells = 2
    pairs = True

    def __post_init__(self) -> None:
        if not 0 < self.tolerance < 1:
            raise MetricError(f"{self.name}: tolerance is a share between 0 and 1, not {self.tolerance:g}")
