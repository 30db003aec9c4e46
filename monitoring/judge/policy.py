"""When the judge acts on the evidence, and what it compares."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from monitoring.judge.metrics import Disagreement, Metric, MetricError, PredictionShift

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Policy:
    """When to act on the evidence.

    Attributes:
        metrics: what is compared.
        alpha: the chance of a false rollback, over the whole release and all metrics.
        alpha_promote: the chance of promoting a canary that is at the margin or beyond.
        shares: the canary's share of traffic at each step.
        ramp: `evidence`: a step ends when its non-inferiority is shown; `schedule`: when its part of the requests and
            the time has passed.
        min_requests: of the canary, before promotion.
        min_duration: seconds before promotion.
        max_duration: seconds after which the judge gives up.
        is_alone: whether each version has one server only, so a bad moment of it concerns all of its requests.
    """

    metrics: Sequence[Metric | Disagreement]
    alpha: float = 0.01
    alpha_promote: float = 0.05
    shares: tuple[float, ...] = (0.05, 0.25, 0.50)
    ramp: str = "evidence"
    min_requests: int = 1000
    min_duration: float = 180.0
    max_duration: float = 3600.0
    is_alone: bool = False

    def __post_init__(self) -> None:
        names = [metric.name for metric in self.metrics]
        if not names or len(set(names)) < len(names):
            raise MetricError(f"a policy has metrics, each with a name of its own, not {names}")
        if all(isinstance(metric, PredictionShift) for metric in self.metrics):
            raise MetricError("a shift of predictions alone never shows that there is no harm; add ErrorRate, say")
        if not (0 < self.alpha < 1 and 0 < self.alpha_promote < 1):
            raise MetricError(
                f"alpha and alpha_promote are between 0 and 1, not {self.alpha:g}, {self.alpha_promote:g}"
            )
        if not self.shares or list(self.shares) != sorted(set(self.shares)) or not 0 < self.shares[0] <= 1:
            raise MetricError(f"shares rise from above 0, not {self.shares}")
        if self.ramp not in {"evidence", "schedule"}:
            raise MetricError(f"ramp is `evidence` or `schedule`, not {self.ramp!r}")

    @property
    def needed(self) -> float:
        """Log evidence at which the canary is taken back."""
        return -math.log(self.alpha)

    @property
    def needed_to_promote(self) -> float:
        """Log evidence of non-inferiority, for each test."""
        return -math.log(self.alpha_promote)
