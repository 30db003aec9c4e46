"""Traffic of two versions, and a judge that looks at it."""

from __future__ import annotations

import numpy as np

from monitoring.judge import ErrorRate, Policy, SequentialJudge

BOUNDS = tuple(np.round(0.001 * 1.09 ** np.arange(90), 6))
SPREAD = 0.6135


def policy(*metrics, **options) -> Policy:
    return Policy(metrics=metrics or (ErrorRate(),), **{"min_duration": 20.0, "min_requests": 100, **options})


def latencies(rng, requests: int, scale: float = 1.0) -> np.ndarray:
    seconds = 0.06 * scale * np.exp(SPREAD * rng.standard_normal(requests))
    return np.bincount(np.searchsorted(BOUNDS, seconds), minlength=len(BOUNDS) + 1)


class Traffic:
    """Cumulative counters of two versions under the same clients."""

    def __init__(self, seed: int = 0, rate: int = 200) -> None:
        self.rng, self.rate = np.random.default_rng(seed), rate
        self.arms = {arm: {} for arm in ("stable", "canary")}

    def second(self, share: float, **faults):
        """One second of traffic; `errors`, `slower`, `classes` and `value` are the canary's."""
        canary = self.rng.binomial(self.rate, share)
        worse = {"errors": 0.001, "slower": 1.0, "classes": (0.5, 0.3, 0.2), "value": 0.5, **faults}
        good = {"errors": 0.001, "slower": 1.0, "classes": (0.5, 0.3, 0.2), "value": 0.5}
        for arm, requests, how in (("canary", canary, worse), ("stable", self.rate - canary, good)):
            values = np.clip(how["value"] + 0.1 * self.rng.standard_normal(requests), 0, 0.999)
            self._add(arm, "errors", [requests, self.rng.binomial(requests, how["errors"])])
            self._add(arm, "latency", latencies(self.rng, requests, how["slower"]))
            self._add(arm, "predictions", self.rng.multinomial(requests, how["classes"]))
            self._add(arm, "business", np.bincount((values * 20).astype(int), minlength=20))
            self._add(arm, "disagreement", [requests, self.rng.binomial(requests, how["errors"])])
        return {name: cells.copy() for name, cells in self.arms["stable"].items()}, {
            name: cells.copy() for name, cells in self.arms["canary"].items()
        }

    def _add(self, arm, name, counts):
        self.arms[arm][name] = self.arms[arm].get(name, 0) + np.array(counts)


def judged(judge: SequentialJudge, traffic: Traffic, seconds: int = 900, start: int = 0, **faults):
    """Look every second until the judge decides; only at the metrics it has."""
    names = {metric.name for metric in judge.policy.metrics}
    judgement = None
    for second in range(start + 1, start + seconds + 1):
        arms = traffic.second(judge.share, **faults)
        judgement = judge.observe(second, *({n: c for n, c in arm.items() if n in names} for arm in arms))
        if judgement.phase not in {"running", "advance"}:
            break
    return second, judgement
