"""Whether a margin of failures and its tolerance fit each other: which evidence comes first of a version between them.

A version whose rate is above what `tolerance` allows and below what `margin` allows is both shown to do harm and shown
to be good enough, given enough requests. Of one halfway to the margin, at rate a beside a stable rate b, both log
e-values grow by about

    g = min over s of ½ KL(a ‖ ρ s + δ) + ½ KL(b ‖ s)

for each request, at half of the traffic (monitoring/judge/engine.py): for harm with ρ = 1 + tolerance and
δ = tolerance_points, for no harm with ρ = 1 + margin and δ = margin_points. Harm is found when a mixture of eight
alternatives, which begins with half of its mass, reaches 1/false_rollback; no harm when one of eight alternatives
reaches 1/false_promotion. Where harm is to be expected first, such a version is taken back more often than promoted, in
simulations too (benchmarks/README.md), and the margin does not do what it says.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from headgate.spec import ErrorRateLimits, ReleaseSpec

USUAL_RATE = 0.001
"""The stable version's failure rate, where nothing was counted."""

_ALTERNATIVES, _HARM_STARTS = 8, 0.5
_TINY = 1e-12
_STEPS = 100
_GOLDEN = (math.sqrt(5) - 1) / 2


class Misfit(NamedTuple):
    """A version halfway to the margin that is taken back before it can be promoted.

    Attributes:
        rate: the share of its requests that it fails.
        harm: its requests until harm is shown.
        harmless: its requests until no harm is shown.
        points: the smallest `tolerance_points` with which it does no harm, rounded up to three digits.
    """

    rate: float
    harm: float
    harmless: float
    points: float


def misfit(spec: ReleaseSpec, limits: ErrorRateLimits, rate: float) -> Misfit | None:
    """Return what does not fit in one metric's limits; None where they fit.

    Args:
        spec: the release file, for the chances of error.
        limits: of the metric.
        rate: the share of its requests that the stable version fails.
    """
    rate = max(rate, _TINY)
    line = (1 + limits.margin) * rate + limits.margin_points
    halfway = (rate + line) / 2
    if line >= 1 or halfway <= rate:
        return None
    alternatives = math.log(_ALTERNATIVES)
    growth = _growth(halfway, rate, 1 + limits.margin, limits.margin_points)
    harmless = (math.log(1 / spec.judge.false_promotion) + alternatives) / growth / 2

    allowed = (1 + limits.tolerance) * rate + limits.tolerance_points
    if halfway <= allowed:
        return None
    growth = _growth(halfway, rate, 1 + limits.tolerance, limits.tolerance_points)
    harm = (math.log(1 / spec.judge.false_rollback / _HARM_STARTS) + alternatives) / growth / 2
    if harm >= harmless:
        return None
    points = halfway - (1 + limits.tolerance) * rate
    digit = 10.0 ** (math.floor(math.log10(points)) - 2)
    return Misfit(halfway, harm, harmless, min(round(math.ceil(points / digit) * digit, 15), limits.margin_points))


def _growth(canary: float, stable: float, rho: float, delta: float) -> float:
    """The least divergence from a null hypothesis's line, for one request, by golden section over log s."""

    def divergence(log_s: float) -> float:
        s = math.exp(log_s)
        return (_divergence(canary, rho * s + delta) + _divergence(stable, s)) / 2

    low, high = math.log(_TINY), math.log((1 - _TINY - delta) / rho)
    for _ in range(_STEPS):
        first, second = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        low, high = (low, second) if divergence(first) < divergence(second) else (first, high)
    return max(divergence((low + high) / 2), _TINY**2)


def _divergence(a: float, b: float) -> float:
    """The Kullback-Leibler divergence of two rates, a between 0 and 1."""
    b = min(max(b, _TINY), 1 - _TINY)
    return a * math.log(a / b) + (1 - a) * math.log((1 - a) / (1 - b))
