"""The judge of one release: cumulative counters in, verdicts in words out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from monitoring.judge import words
from monitoring.judge.batch import ADVANCE, INCONCLUSIVE, PROMOTE, ROLLBACK, RUNNING, JudgeBatch
from monitoring.judge.confidence import rate_interval
from monitoring.judge.metrics import ErrorRate
from monitoring.judge.paired import MAX_LOG
from monitoring.judge.sample_ratio import SampleRatio

if TYPE_CHECKING:
    from collections.abc import Mapping

    from monitoring.judge.dispersion import Dispersion
    from monitoring.judge.engine import Array
    from monitoring.judge.policy import Policy

PHASES = {
    RUNNING: "running", ADVANCE: "advance", ROLLBACK: "rollback", PROMOTE: "promote", INCONCLUSIVE: "inconclusive",
}  # fmt: skip


@dataclass(frozen=True)
class MetricState:
    """What one metric says.

    Attributes:
        e_value: evidence of harm.
        e_harmless: evidence that the canary is within the present step's margins; 0 for a metric that does not gate
            promotion.
        observed: in words, both arms.
        confidence_sequence: for error rates, where the canary's rate less the stable version's is, at every moment of
            the release at once with probability 1 - alpha.
    """

    e_value: float
    e_harmless: float
    observed: str
    confidence_sequence: tuple[float, float] | None = None


@dataclass(frozen=True)
class Judgement:
    """What the judge says after a look.

    Attributes:
        phase: running | advance | rollback | promote | inconclusive.
        e_value: evidence of harm, of all metrics together.
        needed: the e-value at which the canary is taken back.
        p_value: at most this probable without harm, at any time at which one looks.
        culprits: the metrics that are shown to be worse, by e-BH at the same level.
        message: observed, compared with what, how much evidence, what happens next.
        metrics: by name.
        alarms: what is wrong with the counting, not with the canary.
    """

    phase: str
    e_value: float
    needed: float
    p_value: float
    culprits: tuple[str, ...]
    message: str
    metrics: dict[str, MetricState]
    alarms: tuple[str, ...] = ()


class SequentialJudge:
    """Looks as often as it likes at one release, and keeps one budget of false rollbacks for all of it.

    Args:
        policy: what is compared, and when to act.
        subject: how the canary is named in messages.
        late: seconds after which a request is in the counters at the latest. For so long after a change of weights,
            fresh counts are of two splits, and are not compared with the configured one.
    """

    def __init__(self, policy: Policy, subject: str = "canary", late: float = 0.0) -> None:
        self.policy, self.subject, self._late = policy, subject, late
        self._batch = JudgeBatch(policy)
        self._ratio = SampleRatio()
        self._steady = False

    @property
    def share(self) -> float:
        """The canary's share of traffic in the present step."""
        return self.policy.shares[int(self._batch.step[0])]

    @property
    def step(self) -> int:
        """The present step, from 0."""
        return int(self._batch.step[0])

    @property
    def seconds(self) -> float:
        """Seconds from the begin of the shift to the last look."""
        return float(self._batch.now[0])

    def warm_up(self, history: Mapping[str, Any]) -> None:
        """Learn the stable version's rates before the release; see `JudgeBatch.warm_up`."""
        self._batch.warm_up(history)

    def measure(self, past: Mapping[str, Any], *, is_alone: bool = True, sample: float = 1.0) -> None:
        """Measure how much the stable version's counts vary; see `JudgeBatch.measure`."""
        self._batch.measure(past, is_alone=is_alone, sample=sample)

    def disperse(self, dispersions: Mapping[str, Dispersion]) -> None:
        """Say how much the stable version's counts vary; see `JudgeBatch.disperse`."""
        self._batch.disperse(dispersions)

    @property
    def dispersions(self) -> dict[str, Dispersion]:
        """How much the stable version's counts vary, by metric, as far as it was measured."""
        return self._batch.dispersions

    def begin(self, stable: Mapping[str, Any], canary: Mapping[str, Any]) -> None:
        """Where the cumulative counters stand when the shift begins."""
        self._batch.begin(stable, canary)

    def observe(
        self, at: float, stable: Mapping[str, Any], canary: Mapping[str, Any], *, paused: bool = False
    ) -> Judgement:
        """Take one look; see `JudgeBatch.observe`."""
        step = self.step
        return self._judgement(self.take(at, stable, canary, paused=paused), step, paused=paused)

    def take(self, at: float, stable: Mapping[str, Any], canary: Mapping[str, Any], *, paused: bool = False) -> int:
        """Take one look without saying anything of it, which is most of the work; return the phase."""
        share, before, seen = self.share, self._requests(), self._batch.now[0]
        phase = int(self._batch.observe(at, stable, canary, paused=paused)[0])
        if self._steady and seen - self._batch.step_began[0] >= self._late:
            fresh = self._requests() - before
            self._ratio.observe(share, fresh[0], fresh[1])
        # In the look after a change of weights, requests of both splits arrive.
        self._steady = phase != ADVANCE
        return phase

    def totals(self, arm: str) -> dict[str, Array]:
        """What was counted since the shift began, by metric; `arm` is stable or canary."""
        return {name: cells[0] for name, cells in self._batch.total[arm].items()}

    def to_dict(self) -> dict[str, Any]:
        """The state, as JSON."""
        return {"batch": self._batch.to_dict(), "ratio": self._ratio.to_dict(), "steady": self._steady}

    @classmethod
    def from_dict(
        cls, policy: Policy, state: dict[str, Any], subject: str = "canary", late: float = 0.0
    ) -> SequentialJudge:
        """Go on where `to_dict` stopped, bit for bit."""
        judge = cls(policy, subject, late)
        judge._batch.restore(state["batch"])
        judge._ratio, judge._steady = SampleRatio.from_dict(state["ratio"]), state["steady"]
        return judge

    def _requests(self) -> Array:
        for metric in self.policy.metrics:
            if isinstance(metric, ErrorRate):
                return np.array([self._batch.total[arm][metric.name][0, 0] for arm in ("canary", "stable")])
        return np.zeros(2)

    def _judgement(self, phase: int, step: int, *, paused: bool) -> Judgement:
        batch, policy = self._batch, self.policy
        culprits = _culprits({name: float(value[0]) for name, value in batch.evidence.harm.items()}, policy.alpha)
        alarms: tuple[str, ...] = ()
        if self._ratio.log_value >= policy.needed:
            alarms = (words.split_alarm(*self._ratio.realised),)
        for metric in policy.metrics:
            if metric.pairs:
                counts = batch.impossible(metric.name)
                alarms += tuple(words.count_alarm(metric.name, arm, *numbers) for arm, numbers in counts.items())
        return Judgement(
            phase=PHASES[phase], e_value=_exp(batch.log_harm[0]), needed=1 / policy.alpha,
            p_value=min(1.0, _exp(-batch.log_peak[0])), culprits=culprits,
            message=words.message(batch, self.subject, phase, policy.shares[step], culprits, alarms, paused=paused),
            metrics={metric.name: self._state(metric, step) for metric in policy.metrics}, alarms=alarms,
        )  # fmt: skip

    def _state(self, metric: Any, step: int) -> MetricState:  # noqa: ANN401 - any metric
        """What a metric says at the margins of a step: the one that the look was taken in."""
        batch = self._batch
        interval = None
        canary, stable = (batch.total[arm][metric.name][0] for arm in ("canary", "stable"))
        if isinstance(metric, ErrorRate):
            interval = rate_interval(canary, stable, self.policy.alpha)
        harmless = batch.evidence.harmless.get(metric.name)
        return MetricState(
            _exp(batch.evidence.harm[metric.name][0]), 0.0 if harmless is None else _exp(harmless[0, step]),
            words.observed(metric, canary, stable), interval,
        )  # fmt: skip


def _culprits(log_harm: dict[str, float], alpha: float) -> tuple[str, ...]:
    """Metrics that e-BH names: the most k for which the k-th largest e-value is at least K / (k α).

    The share of wrong names among them is at most α, whatever depends on what (Wang, Ramdas, "False discovery rate
    control with e-values", 2022).
    """
    ranked = sorted(log_harm.items(), key=lambda item: -item[1])
    named = 0
    for place, (_, value) in enumerate(ranked, start=1):
        if value >= math.log(len(ranked) / (place * alpha)):
            named = place
    return tuple(name for name, _ in ranked[:named])


def _exp(log_value: float) -> float:
    return math.exp(min(float(log_value), MAX_LOG))
