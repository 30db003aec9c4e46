"""The steps of a shift: when to advance, promote, take back, or give up waiting.

Minimum exposure and duration hold back promotion only; a bad canary is taken back at the first look that shows it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from headgate.records import Counts, Look, Verdict
from headgate.units import format_duration, format_percent
from monitoring.judge import ErrorRateJudge

if TYPE_CHECKING:
    from headgate.spec import ReleaseSpec

_NONE = Counts(requests=0, failures=0)


class RolloutJudge:
    """Turns cumulative counters into verdicts.

    Args:
        spec: the strategy and the judge's budget.
        subject: how the canary is named in messages.
        stable: the stable revision's counters when the shift begins; they aim the judge.
        canary: the canary's.
    """

    def __init__(self, spec: ReleaseSpec, subject: str, stable: Counts, canary: Counts) -> None:
        self._strategy = spec.strategy
        self._subject = subject
        self._judge = ErrorRateJudge(spec.judge.false_rollback, history=stable)
        self._last = (stable, canary)
        self._total = (_NONE, _NONE)
        self._step = 0
        self._step_began = 0.0
        self._step_requests = 0
        self._problem_looks = 0

    @property
    def share(self) -> int:
        """The canary's weight in the present step, in basis points."""
        return self._strategy.shares[self._step]

    def look(self, seconds: float, stable: Counts, canary: Counts, *, canary_problem: str = "") -> Look:
        """Read the counters once.

        Args:
            seconds: since the shift began.
            stable: cumulative counters of the stable revision.
            canary: cumulative counters of the canary.
            canary_problem: why the canary is not ready, when it is not.
        """
        fresh = stable - self._last[0], canary - self._last[1]
        self._last = stable, canary
        # Once may be a health check that came late, or a gateway that has just been started again.
        self._problem_looks = self._problem_looks + 1 if canary_problem else 0
        self._total = _add(self._total[0], fresh[0]), _add(self._total[1], fresh[1])
        self._judge.observe(*fresh)
        share = self.share
        verdict, reason = self._decide(seconds, canary_problem if self._problem_looks > 1 else "")
        if verdict is Verdict.ADVANCE:
            self._step += 1
            self._step_began = seconds
            self._step_requests = self._total[1].requests
        return Look(
            seconds=seconds, share=share, stable=self._total[0], canary=self._total[1],
            e_value=self._judge.e_value, needed=self._judge.needed, verdict=verdict, reason=reason,
        )  # fmt: skip

    def _decide(self, seconds: float, canary_problem: str) -> tuple[Verdict, str]:
        stable, canary = self._total
        evidence = (
            f"{canary.failures} of {canary.requests} requests failed against {stable.failures} of {stable.requests}, "
            f"e-value {self._judge.e_value:.3g} of {self._judge.needed:g} needed"
        )
        at = f"{self._subject} at {format_percent(self.share / 10_000)}"
        if canary_problem:
            return Verdict.ROLLBACK, f"roll back {at}: it {canary_problem}"
        if self._judge.rejects:
            return Verdict.ROLLBACK, f"roll back {at}: {evidence}"
        wanted = self._wanted(seconds)
        if not wanted:
            if self._step + 1 < len(self._strategy.shares):
                following = format_percent(self._strategy.shares[self._step + 1] / 10_000)
                return Verdict.ADVANCE, f"advance {at} to {following}: {evidence}"
            return Verdict.PROMOTE, f"promote {at}: {evidence}"
        if seconds >= self._strategy.max_duration:
            limit = format_duration(self._strategy.max_duration)
            return Verdict.INCONCLUSIVE, f"undecided {at} after {limit}: still {wanted}; {evidence}"
        return Verdict.RUNNING, f"hold {at}: {wanted}; {evidence}"

    def _wanted(self, seconds: float) -> str:
        """What the present step still lacks, in words; empty when it has all."""
        shares = self._strategy.shares
        # In proportion to the steps' shares, so that steady traffic spends as long in each.
        wanted = math.ceil(self._strategy.min_requests * shares[self._step] / sum(shares))
        requests = wanted - (self._total[1].requests - self._step_requests)
        # The last step also makes up for what a restarted counter left short.
        if self._step == len(shares) - 1:
            requests = max(requests, self._strategy.min_requests - self._total[1].requests)
        remaining = self._strategy.min_duration / len(shares) - (seconds - self._step_began)
        parts = [f"{requests} more requests"] if requests > 0 else []
        if remaining > 0:
            parts.append(f"{remaining:.0f} s more")
        return " and ".join(parts) + " needed" if parts else ""


def _add(one: Counts, other: Counts) -> Counts:
    return Counts(requests=one.requests + other.requests, failures=one.failures + other.failures)
