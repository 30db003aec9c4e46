"""The shift of one release: from the target's counters to looks and verdicts.

The judge itself is `monitoring.judge`; here it is given a release file's policy and a target's counters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headgate.counts import LATENCY, Counts, latencies
from headgate.units import format_percent
from headgate.verdicts import Look, Verdict
from monitoring.judge import ErrorRate, Latency, Policy, SequentialJudge
from monitoring.judge.dispersion import Dispersion
from monitoring.usage import UsageWatch

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from headgate.records import Usage
    from headgate.spec import ReleaseSpec
    from monitoring.judge import Judgement
    from monitoring.judge.engine import Array
    from monitoring.past import Past

ERRORS, CLIENT_ERRORS = "errors", "client_errors"
STATE_FORMAT = 1
"""Of `RolloutJudge.to_dict`; raised when the judge's state changes, so that an older one is not read as a newer one."""

_LARGEST = 1e300
"""What is written for an e-value that JSON could not hold."""


def policy_of(spec: ReleaseSpec, bounds: Sequence[float], *, client_errors: bool = True) -> Policy:
    """A release file's judge.

    Args:
        spec: the release file.
        bounds: of the target's latency buckets, in seconds; none where it has no histograms.
        client_errors: whether the counts have answers of 4xx apart from other failures.
    """
    rates, latency = {ERRORS: spec.judge.error_rate}, spec.judge.latency
    if client_errors:
        rates[CLIENT_ERRORS] = spec.judge.client_error_rate or spec.judge.error_rate
    metrics: list[Any] = [
        ErrorRate(name, rate.tolerance, rate.tolerance_points, rate.margin, rate.margin_points)
        for name, rate in rates.items()
    ]
    if bounds and "latency" in spec.rollback.on:
        metrics.append(
            Latency(tuple(bounds), LATENCY, latency.quantiles, latency.tolerance, latency.margin, latency.floor)
        )
    strategy = spec.strategy
    return Policy(
        metrics=metrics, alpha=spec.judge.false_rollback, alpha_promote=spec.judge.false_promotion,
        shares=tuple(share / 10_000 for share in strategy.shares), ramp=strategy.ramp,
        min_requests=strategy.min_requests, min_duration=strategy.min_duration, max_duration=strategy.max_duration,
        is_alone=spec.runtime.replicas.max == 1,
    )  # fmt: skip


class RolloutJudge:
    """Turns cumulative counters into verdicts.

    Args:
        spec: the strategy and the judge's budget.
        subject: how the canary is named in messages.
        stable: the stable revision's counters when the shift begins; they aim the judge.
        canary: the canary's.
        bounds: of the latency buckets in those counters, in seconds.
        late: seconds after which a request is in the counters at the latest.
        past: of the stable version.
        dispersions: instead of `past`, what an earlier run of this release measured on it.
    """

    def __init__(
        self, spec: ReleaseSpec, subject: str, stable: Counts, canary: Counts, bounds: Sequence[float] = (), *,
        late: float = 0.0, past: Past | None = None, dispersions: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        policy = policy_of(spec, bounds)
        self._strategy, self._subject, self._late = spec.strategy, subject, late
        self._judge = SequentialJudge(policy, subject, late)
        self._names, self._buckets = {metric.name for metric in policy.metrics}, len(bounds) + 1
        history = self._cells(stable)
        self._judge.warm_up({name: cells for name, cells in history.items() if any(cells)})
        self._judge.measure(
            {name: counts for name, counts in _counts_of(past).items() if name in self._names},
            # With several servers that the log does not tell apart, a burst of one is not one of all.
            is_alone=policy.is_alone, sample=spec.capture.sample,
        )  # fmt: skip
        self._judge.disperse({name: Dispersion.from_dict(known) for name, known in (dispersions or {}).items()})
        self._judge.begin(history, self._cells(canary))
        self._problem_looks = 0
        self._usage = UsageWatch(spec, subject)

    @property
    def dispersions(self) -> dict[str, Any]:
        """How much the stable version's counts vary, by metric, as JSON."""
        return {name: one.to_dict() for name, one in self._judge.dispersions.items()}

    @property
    def share(self) -> int:
        """The canary's weight in the present step, in basis points."""
        return self._strategy.shares[self._judge.step]

    def look(
        self,
        seconds: float,
        stable: Counts,
        canary: Counts,
        *,
        canary_problem: str = "",
        paused: bool = False,
        usage: Mapping[str, Usage] | None = None,
    ) -> Look:
        """Read the counters once.

        Args:
            seconds: since the shift began.
            stable: cumulative counters of the stable revision.
            canary: cumulative counters of the canary.
            canary_problem: why the canary is not ready, when it is not.
            paused: stay in the present step; only harm ends it.
            usage: of the servers of `stable` and `canary`, where the target says.
        """
        # Once may be a health check that came late, or a gateway that has just been started again.
        self._problem_looks = self._problem_looks + 1 if canary_problem else 0
        share = self.share
        judgement = self._judge.observe(seconds, self._cells(stable), self._cells(canary), paused=paused)
        verdict, reason = Verdict(judgement.phase), judgement.message
        more: dict[str, Any] = {"paused": paused, "usage": dict(usage or {})}
        why, what = (f"it {canary_problem}", ()) if self._problem_looks > 1 else self._uses(more["usage"])
        if why and verdict is not Verdict.ROLLBACK:
            verdict, reason = Verdict.ROLLBACK, f"roll back {self._subject} at {_percent(share)}: {why}"
            more["culprits"] = what
        look = self._look(seconds, share, judgement, verdict, reason)
        return look.model_copy(update={**more, "alarms": (*look.alarms, *self._usage.alarms())})

    def _uses(self, usage: Mapping[str, Usage]) -> tuple[str, tuple[str, ...]]:
        """Return what is wrong with what the canary's servers use, and what shows it."""
        counted = self._judge.totals("stable")[ERRORS][0], self._judge.totals("canary")[ERRORS][0]
        self._usage.look(usage.get("stable"), usage.get("canary"), (round(counted[0]), round(counted[1])))
        why, what = self._usage.problem()
        return why, (what,) if what else ()

    def to_dict(self) -> dict[str, Any]:
        """Return the state after the last look, as JSON of STATE_FORMAT."""
        return {
            "format": STATE_FORMAT, "seconds": self._judge.seconds, "judge": self._judge.to_dict(),
            "usage": self._usage.to_dict(),
        }  # fmt: skip

    def resume(
        self, looks: Iterable[Look], stable: Counts, canary: Counts, state: Mapping[str, Any] | None = None
    ) -> float:
        """Take the looks of a shift that was cut short, as they were written down; the evidence goes on from there.

        Args:
            looks: in the order of their time.
            stable: cumulative counters of the stable revision now; what came between belongs to no look.
            canary: the canary's.
            state: what `to_dict` returned before the first of `looks`; None where these are all.

        Returns:
            Seconds since the shift began at the last of them.
        """
        seconds, nothing = 0.0, Counts(requests=0, failures=0)
        if state is None:
            self._judge.begin(self._cells(nothing), self._cells(nothing))
        else:
            seconds = state["seconds"]
            self._judge = SequentialJudge.from_dict(self._judge.policy, state["judge"], self._subject, self._late)
            self._judge.begin(self._judge.totals("stable"), self._judge.totals("canary"))
            self._usage.restore(state["usage"])
        for look in looks:
            seconds = look.seconds
            self._judge.take(seconds, self._cells(look.stable), self._cells(look.canary), paused=look.paused)
            self._uses(look.usage)
        self._judge.begin(self._cells(stable), self._cells(canary))
        return seconds

    def _cells(self, counts: Counts) -> dict[str, Sequence[float]]:
        cells: dict[str, Sequence[float]] = {
            ERRORS: (counts.requests, max(counts.failures - counts.client_errors, 0)),
            CLIENT_ERRORS: (counts.requests, counts.client_errors),
        }
        if LATENCY in self._names and not counts.requests:
            cells[LATENCY] = (0,) * self._buckets
        elif LATENCY in self._names and len(buckets := counts.buckets(LATENCY)) == self._buckets:
            # Other buckets, of another version of the target, cannot be compared with those of the first looks.
            cells[LATENCY] = buckets
        return cells

    def _look(self, seconds: float, share: int, judgement: Judgement, verdict: Verdict, reason: str) -> Look:
        totals = {arm: self._judge.totals(arm) for arm in ("stable", "canary")}
        arms = {
            arm: Counts(
                requests=round(cells[ERRORS][0]), failures=round(cells[ERRORS][1] + cells[CLIENT_ERRORS][1]),
                client_errors=round(cells[CLIENT_ERRORS][1]),
                histograms=latencies(round(count) for count in cells.get(LATENCY, ())),
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


def _counts_of(past: Past | None) -> dict[str, Array]:
    if past is None:
        return {}
    return {ERRORS: past.errors(), CLIENT_ERRORS: past.client_errors(), LATENCY: past.latency()}


def _percent(share: int) -> str:
    return format_percent(share / 10_000)
