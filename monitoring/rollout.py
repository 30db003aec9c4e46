"""The shift of one release: from the target's counters to looks and verdicts.

The judge itself is `monitoring.judge`; here it is given a release file's policy and a target's counters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headgate.records import Counts, Look, Verdict
from headgate.units import format_percent
from monitoring.judge import ErrorRate, Latency, Policy, SequentialJudge

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from headgate.spec import ReleaseSpec
    from monitoring.judge import Judgement

ERRORS, LATENCY = "errors", "latency"
_LARGEST = 1e300
"""What is written for an e-value that JSON could not hold."""


def policy_of(spec: ReleaseSpec, bounds: Sequence[float]) -> Policy:
    """A release file's judge.

    Args:
        spec: the release file.
        bounds: of the target's latency buckets, in seconds; none where it has no histograms.
    """
    rate, latency = spec.judge.error_rate, spec.judge.latency
    metrics: list[Any] = [ErrorRate(ERRORS, rate.tolerance, 0.0, rate.margin, rate.margin_points)]
    if bounds and "latency" in spec.rollback.on:
        metrics.append(
            Latency(tuple(bounds), LATENCY, latency.quantiles, latency.tolerance, latency.margin, latency.floor)
        )
    strategy = spec.strategy
    return Policy(
        metrics=metrics, alpha=spec.judge.false_rollback, alpha_promote=spec.judge.false_promotion,
        shares=tuple(share / 10_000 for share in strategy.shares), ramp=strategy.ramp,
        min_requests=strategy.min_requests, min_duration=strategy.min_duration, max_duration=strategy.max_duration,
    )  # fmt: skip


class RolloutJudge:
    """Turns cumulative counters into verdicts.

    Args:
        spec: the strategy and the judge's budget.
        subject: how the canary is named in messages.
        stable: the stable revision's counters when the shift begins; they aim the judge.
        canary: the canary's.
        bounds: of the latency buckets in those counters, in seconds.
    """

    def __init__(
        self, spec: ReleaseSpec, subject: str, stable: Counts, canary: Counts, bounds: Sequence[float] = ()
    ) -> None:
        policy = policy_of(spec, bounds)
        self._strategy, self._subject = spec.strategy, subject
        self._judge = SequentialJudge(policy, subject)
        self._names, self._buckets = {metric.name for metric in policy.metrics}, len(bounds) + 1
        history = self._cells(stable)
        # One row of one replica: it aims the bets, and says nothing about dispersion.
        self._judge.warm_up({name: [[cells]] for name, cells in history.items() if any(cells)})
        self._judge.begin(history, self._cells(canary))
        self._problem_looks = 0

    @property
    def share(self) -> int:
        """The canary's weight in the present step, in basis points."""
        return self._strategy.shares[self._judge.step]

    def look(
        self, seconds: float, stable: Counts, canary: Counts, *, canary_problem: str = "", paused: bool = False
    ) -> Look:
        """Read the counters once.

        Args:
            seconds: since the shift began.
            stable: cumulative counters of the stable revision.
            canary: cumulative counters of the canary.
            canary_problem: why the canary is not ready, when it is not.
            paused: stay in the present step; only harm ends it.
        """
        # Once may be a health check that came late, or a gateway that has just been started again.
        self._problem_looks = self._problem_looks + 1 if canary_problem else 0
        share = self.share
        judgement = self._judge.observe(seconds, self._cells(stable), self._cells(canary), paused=paused)
        verdict, reason = Verdict(judgement.phase), judgement.message
        if self._problem_looks > 1:
            verdict, reason = Verdict.ROLLBACK, f"roll back {self._subject} at {_percent(share)}: it {canary_problem}"
        return self._look(seconds, share, judgement, verdict, reason).model_copy(update={"paused": paused})

    def resume(self, looks: Iterable[Look], stable: Counts, canary: Counts) -> float:
        """Take the looks of a shift that was cut short, as they were written down; the evidence goes on from there.

        Args:
            looks: in the order of their time.
            stable: cumulative counters of the stable revision now; what came between belongs to no look.
            canary: the canary's.

        Returns:
            Seconds since the shift began at the last of them.
        """
        seconds, nothing = 0.0, Counts(requests=0, failures=0)
        self._judge.begin(self._cells(nothing), self._cells(nothing))
        for look in looks:
            seconds = look.seconds
            self._judge.observe(seconds, self._cells(look.stable), self._cells(look.canary), paused=look.paused)
        self._judge.begin(self._cells(stable), self._cells(canary))
        return seconds

    def _cells(self, counts: Counts) -> dict[str, Sequence[float]]:
        cells: dict[str, Sequence[float]] = {ERRORS: (counts.requests, counts.failures)}
        if LATENCY in self._names and not counts.requests:
            cells[LATENCY] = (0,) * self._buckets
        elif LATENCY in self._names and len(counts.latency) == self._buckets:
            # Other buckets, of another version of the target, cannot be compared with those of the first looks.
            cells[LATENCY] = counts.latency
        return cells

    def _look(self, seconds: float, share: int, judgement: Judgement, verdict: Verdict, reason: str) -> Look:
        totals = {arm: self._judge.totals(arm) for arm in ("stable", "canary")}
        arms = {
            arm: Counts(
                requests=round(cells[ERRORS][0]), failures=round(cells[ERRORS][1]),
                latency=tuple(round(count) for count in cells.get(LATENCY, ())),
            )
            for arm, cells in totals.items()
        }  # fmt: skip
        return Look(
            seconds=seconds, share=share, e_value=min(judgement.e_value, _LARGEST), needed=judgement.needed,
            p_value=judgement.p_value, culprits=judgement.culprits, alarms=judgement.alarms,
            metrics={name: min(state.e_value, _LARGEST) for name, state in judgement.metrics.items()},
            harmless={name: min(state.e_harmless, _LARGEST) for name, state in judgement.metrics.items()},
            verdict=verdict, reason=reason, **arms,
        )  # fmt: skip


def _percent(share: int) -> str:
    return format_percent(share / 10_000)
