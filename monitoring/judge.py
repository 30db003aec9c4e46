"""The first judge: is the canary's failure rate above the stable version's? It may look as often as it likes.

Each look is a block of counts. Against the null hypothesis p_canary ≤ p_stable, a predictable alternative
(a, b) gives the e-value

    E = (a/o)^x_c ((1-a)/(1-o))^(n_c-x_c) · (b/o)^x_s ((1-b)/(1-o))^(n_s-x_s),   o = ω a + (1-ω) b,

with ω = n_c / (n_c + n_s) (Turner, Ly, Grünwald, "Generic E-variables for Exact Sequential k-Sample Tests that
allow for Optional Stopping", arXiv 2106.02693: its optimal null for equal rates). Blocks multiply, each with
its own exposure, so changing the weights changes nothing. b is the stable version's running rate; a is one of
seven log-odds offsets above it, or the canary's own shrunk rate; the products are mixed. A fault that begins
late is met by restarting each product with some of its mass: M_t = (M_{t-1} + π_t) E_t. By Ville's inequality
the mixture exceeds 1/α with probability at most α when the canary is no worse, however often one looks.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from headgate.records import Counts

OFFSETS = np.array([0.1, 0.25, 0.5, 1.0, 1.75, 2.75, 4.0])
"""Log-odds by which the canary may be worse; the last one is 50 times the odds."""

START_MASS = 0.5
"""Share of the mixture that bets from the first look on."""

RESTART_HALF_LIFE = 500.0
"""Looks over which half of the remaining mass is spread; geometric, so it never runs out."""

_PRIOR_FAILURES, _PRIOR_REQUESTS = 0.5, 50.0
_SHRINK = 20.0


class ErrorRateJudge:
    """Evidence that the canary fails more often than the stable version.

    Args:
        alpha: the chance of a false rollback over the whole release.
        history: the stable version's counts before the shift; they only aim the bets.
    """

    def __init__(self, alpha: float, history: Counts | None = None) -> None:
        self.alpha = alpha
        history = history or Counts(requests=0, failures=0)
        self._stable = np.array([history.failures, history.requests], dtype=float)
        self._canary = np.zeros(2)
        self._log_products = np.full(len(OFFSETS) + 1, -np.inf)
        self._reserve = 1.0 - START_MASS
        self._looks = 0

    @property
    def needed(self) -> float:
        """The e-value at which the canary is taken back."""
        return 1 / self.alpha

    @property
    def e_value(self) -> float:
        """Evidence so far; 1 is none."""
        return math.exp(min(self._log_mixture(), 700.0)) if self._looks else 1.0

    @property
    def rejects(self) -> bool:
        """Whether the canary is shown to be worse."""
        return self.e_value >= self.needed

    def observe(self, stable: Counts, canary: Counts) -> float:
        """Take one block of counts, those since the last look.

        Returns:
            The e-value. A block in which one arm had no request says nothing, and changes nothing.
        """
        if canary.requests == 0 or stable.requests == 0:
            self._learn(stable, canary)
            return self.e_value
        fresh = START_MASS if self._looks == 0 else self._reserve * (1 - 0.5 ** (1 / RESTART_HALF_LIFE))
        if self._looks:
            self._reserve -= fresh
        share = math.log(fresh / len(self._log_products))
        self._log_products = np.logaddexp(self._log_products, share) + self._block(stable, canary)
        self._looks += 1
        self._learn(stable, canary)
        return self.e_value

    def to_dict(self) -> dict[str, Any]:
        """The state, as JSON."""
        return {
            "alpha": self.alpha, "stable": self._stable.tolist(), "canary": self._canary.tolist(),
            "log_products": [None if value == -np.inf else value for value in self._log_products.tolist()],
            "reserve": self._reserve, "looks": self._looks,
        }  # fmt: skip

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> ErrorRateJudge:
        """Go on where `to_dict` stopped, bit for bit."""
        judge = cls(state["alpha"])
        judge._stable, judge._canary = np.array(state["stable"]), np.array(state["canary"])
        judge._log_products = np.array([-np.inf if value is None else value for value in state["log_products"]])
        judge._reserve, judge._looks = state["reserve"], state["looks"]
        return judge

    def _block(self, stable: Counts, canary: Counts) -> np.ndarray:
        """The log e-value of one block under each alternative; they depend on the past only."""
        rate = (self._stable[0] + _PRIOR_FAILURES) / (self._stable[1] + _PRIOR_REQUESTS)
        odds = rate / (1 - rate)
        worse = odds * np.exp(OFFSETS)
        plug_in = (self._canary[0] + _SHRINK * rate) / (self._canary[1] + _SHRINK)
        canary_rates = np.append(worse / (1 + worse), min(max(plug_in, rate), 1 - 1e-9))
        omega = canary.requests / (canary.requests + stable.requests)
        null = omega * canary_rates + (1 - omega) * rate
        ones = canary.failures * np.log(canary_rates / null) + stable.failures * np.log(rate / null)
        zeros = (canary.requests - canary.failures) * np.log((1 - canary_rates) / (1 - null))
        zeros += (stable.requests - stable.failures) * np.log((1 - rate) / (1 - null))
        return np.asarray(ones + zeros)

    def _learn(self, stable: Counts, canary: Counts) -> None:
        self._stable += [stable.failures, stable.requests]
        self._canary += [canary.failures, canary.requests]

    def _log_mixture(self) -> float:
        """Products and the mass that has not been bet yet."""
        return float(np.logaddexp(np.logaddexp.reduce(self._log_products), math.log(self._reserve)))


def disagreement_e_value(disagreements: int, pairs: int, limit: float) -> float:
    """Evidence that the true rate of disagreement is above `limit`.

    A mixture of Bernoulli alternatives over the uniform prior on (limit, 1), in closed form:
    E = ∫ p^k (1-p)^(n-k) dp / ((1-limit) · limit^k (1-limit)^(n-k)), the integral from `limit` to 1 being an
    incomplete beta function. At any stopping time its mean under rate `limit` is at most 1.
    """
    from scipy.special import betainc, betaln  # noqa: PLC0415 - 0.2 s to import

    if pairs == 0:
        return 1.0
    if limit <= 0:
        return math.inf if disagreements else 1.0
    if limit >= 1:
        return 1.0
    k, rest = disagreements, pairs - disagreements
    tail = 1 - betainc(k + 1, rest + 1, limit)
    if tail <= 0:
        return 0.0
    log_e = betaln(k + 1, rest + 1) + math.log(tail) - math.log(1 - limit)
    log_e -= k * math.log(limit) + rest * math.log(1 - limit)
    return math.exp(min(log_e, 700.0))
