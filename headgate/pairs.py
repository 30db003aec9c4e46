"""How many compared requests the shadow gate needs, in closed form.

Where none of n answers differs, the e-value that fewer than a share d do (`log_shortfall` of the judge's paired.py) is
the mean of ((1-p)/(1-d))^n over p from 0 to d:

    E(n, d) = (1 - (1-d)^(n+1)) / ((n+1) d (1-d)^n).

It grows with n and with d. No version passes with fewer pairs than the n at which it reaches 1/α.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headgate.spec import ReleaseSpec, Shadow

_MOST = 10**12
_STEPS = 60


def least_pairs(limit: float, chance: float) -> int | None:
    """Return the number of pairs from which on a version passes none of whose answers differs.

    Args:
        limit: the largest share of differing answers that is allowed, from 0 to 1.
        chance: α, the largest probability with which a version at the limit may pass.

    Returns:
        None where no number is enough: that no answer ever differs can never be shown.
    """
    if limit >= 1:
        return 1
    high = 1
    while high <= _MOST and _log_e_value(high, limit) < -math.log(chance):
        high *= 2
    if high > _MOST:
        return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _log_e_value(middle, limit) < -math.log(chance) else (low, middle)
    return high


def pairs_if_alike(spec: ReleaseSpec, gate: Shadow) -> int:
    """Return the pairs after which a version passes the shadow gate of a file none of whose answers differs."""
    return max(gate.min_requests, least_pairs(gate.max_disagreement, spec.judge.false_promotion) or 0)


def least_limit(pairs: int, chance: float) -> float:
    """Return the smallest limit that so many pairs can show, rounded up to two digits.

    Args:
        pairs: at least 1.
        chance: as in `least_pairs`.
    """
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if _log_e_value(pairs, middle) < -math.log(chance) else (low, middle)
    digit = 10.0 ** (math.floor(math.log10(high)) - 1)
    return min(round(math.ceil(high / digit) * digit, 15), 1.0)


def _log_e_value(pairs: int, limit: float) -> float:
    if limit <= 0:
        return 0.0
    if limit >= 1:
        return math.inf
    log_rest = math.log1p(-limit)
    return math.log(-math.expm1((pairs + 1) * log_rest) / ((pairs + 1) * limit)) - pairs * log_rest
