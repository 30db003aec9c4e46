"""Confidence sequences: intervals that hold at every look of a release at once."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from scipy.special import betaln

if TYPE_CHECKING:
    from monitoring.judge.engine import Array

_HALVINGS = 40


def rate_interval(canary: Array, stable: Array, alpha: float) -> tuple[float, float]:
    """Where the canary's failure rate less the stable version's is.

    Args:
        canary: requests and failures so far.
        stable: the same.
        alpha: the chance that the truth is ever outside.
    """
    low, high = interval_of_rate(canary[1], canary[0], alpha / 2)
    stable_low, stable_high = interval_of_rate(stable[1], stable[0], alpha / 2)
    return low - stable_high, high - stable_low


def interval_of_rate(hits: float, trials: float, alpha: float) -> tuple[float, float]:
    """All rates that the Beta(½, ½) mixture has not rejected (Robbins' method of mixtures).

    Args:
        hits: of the trials so far.
        trials: so far.
        alpha: the chance that the truth is ever outside.
    """
    if trials <= 0:
        return 0.0, 1.0
    mixture = float(betaln(hits + 0.5, trials - hits + 0.5) - betaln(0.5, 0.5))
    limit, middle = mixture + math.log(alpha), hits / trials

    def rejected(rate: float) -> bool:
        likelihood = (hits * math.log(rate) if hits else 0.0) + (trials - hits) * math.log1p(-rate)
        return likelihood < limit

    def edge(outside: float) -> float:
        inside = middle
        for _ in range(_HALVINGS):
            between = (inside + outside) / 2
            if rejected(min(max(between, 1e-15), 1 - 1e-15)):
                outside = between
            else:
                inside = between
        return inside

    return (edge(0.0) if hits else 0.0), (edge(1.0) if hits < trials else 1.0)
