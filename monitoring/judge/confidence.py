"""Confidence sequences: intervals that hold at every look of a release at once."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from scipy.optimize import brentq
from scipy.special import betaln

if TYPE_CHECKING:
    from monitoring.judge.engine import Array

_EDGE = 1e-15


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

    def above(rate: float) -> float:
        """How far the rate's log likelihood is above the limit; below 0 it is rejected."""
        likelihood = (hits * math.log(rate) if hits else 0.0) + (trials - hits) * math.log1p(-rate)
        return likelihood - limit

    def edge(outside: float) -> float:
        if above(outside) >= 0:
            return outside
        return float(brentq(above, min(max(middle, _EDGE), 1 - _EDGE), outside, xtol=_EDGE, rtol=1e-15))

    return (edge(_EDGE) if hits else 0.0), (edge(1 - _EDGE) if hits < trials else 1.0)
