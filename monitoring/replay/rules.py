"""Rules that end a shift: ours, and those that others document, so that they can be compared on the same traffic.

The others are written from their documentation and, where it is silent, from their source; each says where. They
decide about rolling back; all of them get the same steps, by time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from scipy.stats import norm

from monitoring.judge import ErrorRate, JudgeBatch, Latency, Metric, Policy
from monitoring.judge.batch import PROMOTE, ROLLBACK, RUNNING
from monitoring.replay.traffic import BOUNDS

if TYPE_CHECKING:
    from collections.abc import Mapping

Array = np.ndarray[Any, Any]

STEPS = ((0.0, 0.05), (600.0, 0.25), (1200.0, 0.50))
"""From when on the canary has which share, for rules without a ramp of their own."""

END = 3600.0
"""When such a rule promotes what it has not taken back."""

_PAST_AXES = 3
"""Of counts by second, server and cell; a sum tells nothing of how much they vary."""


class Running(Protocol):
    """A rule at work, for many replications at a time."""

    @property
    def share(self) -> Array:
        """The canary's share, of shape (size,)."""

    def observe(self, at: float, stable: Mapping[str, Array], canary: Mapping[str, Array]) -> Array:
        """The phase of each replication, from cumulative counters of shape (size, cells)."""


class Rule(Protocol):
    """A rule that can be tried."""

    @property
    def name(self) -> str:
        """How tables call it."""

    def start(self, size: int, history: Mapping[str, Array] | None = None) -> Running:
        """Begin; `history` is of the stable replicas, as `JudgeBatch.warm_up` takes it.

        Where it has the shape that `JudgeBatch.measure` takes, it shows how much counts vary, too.
        """


@dataclass(frozen=True)
class Headgate:
    """Our judge.

    Attributes:
        policy: what is compared, and when to act.
        name: for tables.
        promotes: False tries the test for harm alone, on the others' steps.
    """

    policy: Policy
    name: str = "headgate"
    promotes: bool = True

    @classmethod
    def default(cls, *, latency: bool, promotes: bool = True, name: str = "headgate") -> Headgate:
        """With the limits of a release file that says nothing, and no floor."""
        metrics: list[Metric] = [ErrorRate(), ErrorRate("client_errors"), *([Latency(BOUNDS)] if latency else [])]
        return cls(Policy(metrics=metrics), name, promotes)

    def start(self, size: int, history: Mapping[str, Array] | None = None) -> Running:
        """Begin."""
        policy = self.policy
        if not self.promotes:
            policy = replace(policy, ramp="schedule", min_requests=10**15, max_duration=math.inf)
        names = {metric.name for metric in policy.metrics}
        known = {name: counts for name, counts in (history or {}).items() if name in names}
        past = {name: counts for name, counts in known.items() if counts.ndim == _PAST_AXES}
        batch = JudgeBatch(replace(policy, is_alone=any(counts.shape[1] == 1 for counts in past.values())), size)
        batch.warm_up(known)
        batch.measure(past)
        return _Judged(batch, by_time=not self.promotes)


class _Judged:
    def __init__(self, batch: JudgeBatch, *, by_time: bool) -> None:
        self._batch, self._by_time = batch, by_time
        self._shares, self._at = np.array(batch.policy.shares), 0.0
        self._names = {metric.name for metric in batch.policy.metrics}
        self.end = END

    @property
    def share(self) -> Array:
        if self._by_time:
            return np.full(self._batch.size, _step(self._at))
        return np.asarray(self._shares[self._batch.step])

    def observe(self, at: float, stable: Mapping[str, Array], canary: Mapping[str, Array]) -> Array:
        if self._by_time and _step(at) != _step(self._at):
            self._batch.begin_step(np.ones(self._batch.size, bool))
        self._at = at
        arms = ({name: cells for name, cells in arm.items() if name in self._names} for arm in (stable, canary))
        phase = self._batch.observe(at, *arms)
        if self._by_time and at >= self.end:
            return np.where(phase == RUNNING, PROMOTE, phase)
        return phase


@dataclass(frozen=True)
class _Periodic:
    """A rule that looks at whole periods."""

    name: str
    every: float
    """Seconds between checks."""
    window: float
    """Seconds that a check looks back."""

    def start(self, size: int, history: Mapping[str, Array] | None = None) -> Running:
        """Begin; such rules need no history."""
        del history
        return _Checked(self, size)

    def fails(self, checks: _Checks) -> Array:
        """Which replications are to be taken back at this check."""
        raise NotImplementedError


@dataclass
class _Checks:
    """What a periodic rule has seen, each entry of shape (size, cells)."""

    stable: list[Array] = field(default_factory=list)
    canary: list[Array] = field(default_factory=list)
    failed: Array = field(default_factory=lambda: np.zeros(0))
    number: int = 0


class _Checked:
    def __init__(self, rule: _Periodic, size: int) -> None:
        self._rule, self._size, self._at = rule, size, 0.0
        self._checks = _Checks(failed=np.zeros(size))
        self._phase = np.full(size, RUNNING)
        self._edge: dict[float, tuple[Array, Array]] = {}
        self._next = rule.every

    @property
    def share(self) -> Array:
        return np.full(self._size, _step(self._at))

    def observe(self, at: float, stable: Mapping[str, Array], canary: Mapping[str, Array]) -> Array:
        self._at, rule = at, self._rule
        now = stable["failures"], canary["failures"]
        self._edge[at] = now
        if at >= self._next:
            self._next += rule.every
            since = max((edge for edge in self._edge if edge <= at - rule.window), default=0.0)
            before = self._edge.get(since, (0 * now[0], 0 * now[1]))
            self._checks.stable.append(now[0] - before[0])
            self._checks.canary.append(now[1] - before[1])
            self._checks.number += 1
            taken_back = rule.fails(self._checks)
            self._phase = np.where((self._phase == RUNNING) & taken_back, ROLLBACK, self._phase)
            self._edge = {edge: counted for edge, counted in self._edge.items() if edge >= at - rule.window}
        if at >= END:
            self._phase = np.where(self._phase == RUNNING, PROMOTE, self._phase)
        return self._phase


@dataclass(frozen=True)
class _FailedChecks(_Periodic):
    """Taken back when more than `limit` checks failed; they are never forgotten."""

    success: float
    """A check fails where a smaller share of requests succeeded."""
    limit: int

    def fails(self, checks: _Checks) -> Array:
        """Count a failed check."""
        checks.failed = checks.failed + _below(checks.canary[-1], self.success)
        return checks.failed > self.limit


@dataclass(frozen=True)
class Flagger(_FailedChecks):
    """Taken back at the fifth failed check.

    Source: docs.flagger.app, "How it works" (interval 1m, threshold 5, request-success-rate min 99,
    request-duration max 500 ms at p99); pkg/controller/scheduler.go counts Status.FailedChecks up.
    """

    name: str = "flagger"
    every: float = 60.0
    window: float = 60.0
    success: float = 0.99
    limit: int = 4


@dataclass(frozen=True)
class ArgoRollouts(_FailedChecks):
    """Taken back when more than `limit` measurements fail.

    Source: argo-rollouts.readthedocs.io, "Analysis & Progressive Delivery" (interval 5m, successCondition
    result[0] >= 0.95, failureLimit 3, on `irate`, of which the window is about a scrape: a minute here).
    """

    name: str = "argo rollouts"
    every: float = 300.0
    window: float = 60.0
    success: float = 0.95
    limit: int = 3


@dataclass(frozen=True)
class CloudWatchAlarm(_Periodic):
    """An alarm on the endpoint: the error rate of both versions together, in two periods of ten minutes.

    Source: docs.aws.amazon.com, SageMaker "Auto-rollback configuration and monitoring" (two evaluation periods of
    600 s, threshold 1 on Invocation5XXErrors, read as one per cent: an average of zeros and ones is never above 1).
    """

    name: str = "cloudwatch alarm"
    every: float = 600.0
    window: float = 600.0
    most: float = 0.01

    def fails(self, checks: _Checks) -> Array:
        """Two periods in a row are above the threshold."""
        total = checks.stable[-1] + checks.canary[-1]
        above = _below(total, 1 - self.most)
        previous, checks.failed = checks.failed, above
        return (previous > 0) & (above > 0)


@dataclass(frozen=True)
class Kayenta(_Periodic):
    """A Mann-Whitney interval of the minutes' failure rates, at 98 % with a tolerance of a quarter, every five minutes.

    Source: kayenta-judge, MannWhitneyClassifier.scala (confidence 0.98, tolerance 0.25 of the control's location);
    the interval is that of the Hodges-Lehmann shift by its order statistics. Looked at again and again, as canary
    analysis with an interval is.
    """

    name: str = "kayenta"
    every: float = 60.0
    window: float = 60.0
    confidence: float = 0.98
    tolerance: float = 0.25
    points: int = 5

    def fails(self, checks: _Checks) -> Array:
        """Whether the whole interval of the shift is above the tolerance."""
        if checks.number % self.points:
            return np.zeros(len(checks.failed), bool)
        canary, stable = (
            np.stack([counts[:, 1] / np.maximum(counts[:, 0], 1) for counts in arm], axis=1)
            for arm in (checks.canary, checks.stable)
        )
        shifts = np.sort((canary[:, :, None] - stable[:, None, :]).reshape(len(canary), -1), axis=1)
        n = canary.shape[1]
        spread = norm.ppf((1 + self.confidence) / 2) * math.sqrt(n * n * (2 * n + 1) / 12)
        lowest = max(math.floor(n * n / 2 - spread), 0)
        return np.asarray(shifts[:, lowest] > self.tolerance * np.median(stable, axis=1))


def _below(counts: Array, success: float) -> Array:
    """Where less than this share of requests succeeded, as 0 or 1; cells are requests and failures."""
    return np.asarray((counts[:, 1] > (1 - success) * counts[:, 0]) & (counts[:, 0] > 0), float)


def _step(at: float) -> float:
    return [share for start, share in STEPS if start <= at][-1]


OTHERS: tuple[Rule, ...] = (
    Flagger(), ArgoRollouts(),
    ArgoRollouts("argo, 1m, 99%", every=60.0, success=0.99, limit=1),
    CloudWatchAlarm(), Kayenta(),
)  # fmt: skip
"""What others document, and Argo as its users tighten it."""
