"""The scale that a column of numbers is measured by, and how far two samples of it lie apart by chance.

Where a few rows make the deviation, as of incomes or of latencies, it is another in each sample, and has no limit where
the tails are heavy enough: a distance over it finds nothing, and what chance gives is not what rules for large numbers
say. Such columns are cut off at quantiles of the reference, what lies beyond counting as at the edge, and measured by
the deviation of what that leaves. Other columns are compared as they are, as Evidently does.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from monitoring.drift.profile import LEVELS, WIDTHS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from monitoring.drift.profile import Numbers

    Floats = NDArray[np.float64]
    Cut = tuple[float, float]

_EDGE = 0.05
"""What is cut off of either tail; what moves within it is not seen."""
_HEAVY = 1.75
"""The deviation of a column, over that of the same cut off, from which on tails are heavy: it is 1.1 for a normal
column, 1.2 for an exponential one, 1.6 for a lognormal one with sigma 1; and of 5,000 rows at the median 5 for a
lognormal one with sigma 2 and for Pareto 1.5, and 30 for Cauchy."""
_LEAST = 1e-150
"""A deviation whose square is still a number."""
_ROUNDED = 1e-12
"""Of the values: a deviation so much smaller is that of roundings. Evidently's least is 0.001, whatever the values."""

_DIGITS = 8 * float(np.finfo(np.float64).eps)

_MEAN_TO_QUANTILE = {0.1: 1.592, 0.05: 1.852, 0.01: 2.391, 0.001: 3.033}
"""Upper quantiles of the L1 norm of a Brownian bridge over its mean: of 200,000 simulated bridges of 1,024 steps, whose
mean was 0.3131 where sqrt(pi / 32) = 0.3133. Other distributions weigh the bridge's parts otherwise; tests and
benchmarks/drift.py count how often chance passes for drift in some of them."""
_BRIDGES, _STEPS = 10_000, 128
_KEPT = 0.75
"""Of the rate, as edges and weights are those of a sample: without it 1.2 % of 500 rows passed in the place of 1 %."""


def cut_off(reference: Numbers) -> Cut | None:
    """Where a column with heavy tails is cut off; None where it is not."""
    first, last = np.searchsorted(LEVELS, [_EDGE, 1 - _EDGE])
    cut = float(reference.lows[first]), float(reference.highs[last - 1])
    spread = _deviation(np.clip(reference.means, *cut))
    # A column that is one value but for roundings and a few rows has nothing else to be measured by than those.
    is_varied = spread > max(_least(reference), _LEAST)
    return cut if is_varied and reference.std >= _HEAVY * spread else None


def as_cut(profile: Numbers, cut: Cut | None) -> Numbers:
    """A profile of the values that are cut off; it itself where none are."""
    if cut is None:
        return profile
    means, lows, highs = (np.clip(values, *cut) for values in (profile.means, profile.lows, profile.highs))
    return replace(profile, std=_deviation(means), means=means, lows=lows, highs=highs)


def cut_error(profile: Numbers, cut: Cut | None) -> float:
    """By how much a profile that is cut off may differ from one of values that were: in cells that an edge divides."""
    if cut is None:
        return 0.0
    divided = np.zeros(len(WIDTHS), bool)
    for edge in cut:
        divided |= (profile.lows < edge) & (profile.highs > edge)
    return float((np.clip(profile.highs, *cut) - np.clip(profile.lows, *cut)) @ (WIDTHS * divided))


def rounding(profile: Numbers) -> float:
    """By how much the means may differ from those of all rows, as sums of values of this size are rounded."""
    return _DIGITS * float(np.abs([profile.lows[0], profile.highs[-1]]).max()) if profile.used else 0.0


def scale_of(reference: Numbers) -> float:
    """The deviation that distances are measured in, or the least that values of this size can have."""
    return max(reference.std, _least(reference), _LEAST)


def wasserstein_by_chance(reference: Numbers, current: Numbers, rate: float, cut: Cut | None) -> float:
    """What the distance of two samples of one population stays below but for the rate, in the values' own units.

    Of an empirical process: its mean is sqrt(2 / pi) times the integral of sqrt(F (1 - F)), per root of the rows.
    """
    root = math.sqrt(1 / reference.used + 1 / current.used)
    levels, steps = np.cumsum(WIDTHS)[:-1], np.diff(reference.means)
    if cut is not None:
        # What is left is skewed more than any column whose tails are not heavy: its own weights decide.
        place = np.clip(np.rint(levels * _STEPS).astype(int), 1, _STEPS - 1) - 1
        weights = np.bincount(place, steps, _STEPS - 1)
        # Not by BLAS, whose threads take longer to meet than the sum takes.
        norms = np.einsum("ij,j->i", _bridges(), weights)
        return root * float(np.quantile(norms, 1 - _KEPT * rate))
    factor = np.interp(math.log(rate), *_by_log(_MEAN_TO_QUANTILE))
    return float(factor) * math.sqrt(2 / math.pi) * root * float(np.sqrt(levels * (1 - levels)) @ steps)


def _least(reference: Numbers) -> float:
    return _ROUNDED * float(np.abs(reference.means).max())


def _deviation(means: Floats) -> float:
    return math.sqrt(max(float((means - means @ WIDTHS) ** 2 @ WIDTHS), 0.0))


@cache
def _bridges() -> Floats:
    """How far Brownian bridges are from nothing: 10 MB, made once in 0.1 s, always the same."""
    walks = np.random.default_rng(0).normal(0, 1 / math.sqrt(_STEPS), (_BRIDGES, _STEPS)).cumsum(axis=1)
    ends = np.arange(1, _STEPS + 1) / _STEPS
    bridges: Floats = np.abs(walks - walks[:, -1:] * ends)[:, :-1]
    return bridges


def _by_log(table: dict[float, float]) -> tuple[list[float], list[float]]:
    rates = sorted(table)
    return [math.log(rate) for rate in rates], [table[rate] for rate in rates]
