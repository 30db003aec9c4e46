"""The alarm for a router that does not split as it was told: realised against configured shares.

The judge itself uses realised counts, so a wrong split harms no verdict; but it says that something between the
clients and the counters is not as everyone believes.

Of n requests at one configured share θ, n_c went to the canary. Against "each goes there with probability θ", the
mixture over a Beta(kθ, k(1-θ)) prior gives (Lindon, Malek, "Anytime-Valid Inference for Multinomial Count Data",
arXiv 2011.03567, for two arms)

    E = B(kθ + n_c, k(1-θ) + n - n_c) / (B(kθ, k(1-θ)) θ^n_c (1-θ)^(n-n_c)).

A step is judged by its own requests: the alarm of a router that was mended ends with its step.
"""

from __future__ import annotations

import math
from typing import Any

from scipy.special import betaln

CONCENTRATION = 100.0
"""k: how close to the configured share the alternatives are."""


class SampleRatio:
    """Evidence against the configured split."""

    def __init__(self) -> None:
        self._share = 0.0
        self._canary = self._total = 0.0

    def observe(self, share: float, canary: float, stable: float) -> None:
        """Take the counts since the last look, of a time in which the share did not change."""
        if share != self._share:
            self._share, self._canary, self._total = share, 0.0, 0.0
        self._canary += canary
        self._total += canary + stable

    @property
    def log_value(self) -> float:
        """The evidence of the present step, as a natural logarithm."""
        if not 0 < self._share < 1 or not self._total:
            return 0.0
        one, other = CONCENTRATION * self._share, CONCENTRATION * (1 - self._share)
        rest = self._total - self._canary
        log_e = float(betaln(one + self._canary, other + rest) - betaln(one, other))
        return log_e - self._canary * math.log(self._share) - rest * math.log1p(-self._share)

    @property
    def realised(self) -> tuple[float, float]:
        """The canary's share since the split was last changed, and the configured one."""
        return (self._canary / self._total if self._total else self._share), self._share

    def to_dict(self) -> dict[str, Any]:
        """The state, as JSON."""
        return {"share": self._share, "canary": self._canary, "total": self._total}

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> SampleRatio:
        """Go on where `to_dict` stopped."""
        ratio = cls()
        ratio._share = state["share"]
        ratio._canary, ratio._total = state["canary"], state["total"]
        return ratio
