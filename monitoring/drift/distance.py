"""How far two columns lie apart, how exact that is, and how far apart chance alone may put them.

The distances are those that Evidently takes for references of more than a thousand rows: the first Wasserstein distance
over the reference's standard deviation for numbers, the Jensen-Shannon distance (natural logarithm) for categories.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.spatial.distance import jensenshannon
from scipy.stats import chi2

from monitoring.drift.profile import WIDTHS, Categories, Numbers

if TYPE_CHECKING:
    from monitoring.drift.profile import Profile

_LEAST_STD = 0.001
"""Evidently's, for a reference that hardly varies."""

_MEAN_TO_QUANTILE = {0.1: 1.592, 0.05: 1.852, 0.01: 2.391, 0.001: 3.033}
"""Upper quantiles of the L1 norm of a Brownian bridge over its mean: of 200,000 simulated bridges of 1,024 steps, whose
mean was 0.3131 where sqrt(pi / 32) = 0.3133. Other distributions weigh the bridge's parts otherwise; tests and
benchmarks/drift.py count how often chance passes for drift in some of them."""


class Distance(NamedTuple):
    """A distance.

    Attributes:
        method: Evidently's name of it.
        value: the distance.
        error: by how much the value may differ from that of all rows.
        chance: what two samples of one population, of these sizes, stay below but for the rate that was asked for.
    """

    method: str
    value: float
    error: float
    chance: float


def distance(reference: Profile, current: Profile, rate: float) -> Distance:
    """The distance of a window's column from the reference's.

    Args:
        reference: its profile.
        current: of the same kind.
        rate: how often chance alone may be taken for more.
    """
    if isinstance(reference, Numbers) and isinstance(current, Numbers):
        return _wasserstein(reference, current, rate)
    assert isinstance(reference, Categories) and isinstance(current, Categories)  # noqa: PT018, S101 - profile_like
    return _jensen_shannon(reference, current, rate)


def _wasserstein(reference: Numbers, current: Numbers, rate: float) -> Distance:
    norm = max(reference.std, _LEAST_STD)
    value = float(np.abs(reference.means - current.means) @ WIDTHS)
    # Within a cell the two may cross. Where they do, what lies on one side is at most `above` wide and on the other at
    # most `below`, for parts of the cell that add up to it; twice the lesser area is missing from the value.
    above = np.maximum(reference.highs - current.lows, 0)
    below = np.maximum(current.highs - reference.lows, 0)
    both = above + below
    crossing = np.divide(2 * above * below, both, out=np.zeros_like(both), where=both > 0)
    return Distance("wasserstein", value / norm, float(crossing @ WIDTHS) / norm, _chance(reference, current, rate))


def _chance(reference: Numbers, current: Numbers, rate: float) -> float:
    """Of an empirical process: its mean is sqrt(2 / pi) times the integral of sqrt(F (1 - F)), per root of the rows."""
    levels = np.cumsum(WIDTHS)[:-1]
    spread = float(np.sqrt(levels * (1 - levels)) @ np.diff(reference.means))
    mean = math.sqrt(2 / math.pi * (1 / reference.used + 1 / current.used)) * spread
    factor = np.interp(math.log(rate), *_by_log(_MEAN_TO_QUANTILE))
    return float(factor) * mean / max(reference.std, _LEAST_STD)


def _by_log(table: dict[float, float]) -> tuple[list[float], list[float]]:
    rates = sorted(table)
    return [math.log(rate) for rate in rates], [table[rate] for rate in rates]


def _jensen_shannon(reference: Categories, current: Categories, rate: float) -> Distance:
    names = [*reference.counts, *(name for name in current.counts if name not in reference.counts)]
    of = [
        np.array([*(profile.counts.get(name, 0) for name in names), profile.rest]) / profile.used
        for profile in (reference, current)
    ]
    kinds = max(int(np.count_nonzero(of[0] + of[1])), 2)
    # Of two samples of one population the divergence is about chi-squared over 8, by the rows of each.
    chance = math.sqrt(float(chi2.isf(rate, kinds - 1)) / 8 * (1 / reference.used + 1 / current.used))
    divergence = float(jensenshannon(*of))
    # Rounding may leave a square root of a little less than nothing.
    return Distance("jensenshannon", 0.0 if math.isnan(divergence) else divergence, 0.0, chance)
