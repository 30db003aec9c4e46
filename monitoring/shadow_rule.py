"""When the shadow gate passes or refuses: by evidence, for one share of differing answers against its limit d.

The gate passes once the e-value that the true share is below d reaches 1/α, and refuses once the e-value that it is
above d reaches 1/α of the refusals (`monitoring.judge.paired`). Both e-values have a mean of at most 1 at any time of
stopping where the share is at the limit, and a smaller one beyond it, so by Ville's inequality each of the two errors
has a probability of at most its α, however often one looks. A failure, or a copy without an answer, is an answer that
differs; so their shares have the same limit.

`chances` adds up the probabilities of all ways that a comparison can go, one pair after the other: it is exact, and
not simulated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from monitoring.judge.paired import MAX_LOG, log_excess, log_shortfall

if TYPE_CHECKING:
    from collections.abc import Callable

    from headgate.spec import ReleaseSpec, Shadow

_MOST_PAIRS = 10**9


@dataclass(frozen=True)
class ShadowRule:
    """The gate's rule.

    Attributes:
        limit: the share of differing answers at which, and beyond which, no version shall pass.
        min_pairs: no version passes with fewer pairs.
        false_pass: the largest probability with which a version at the limit or beyond it passes.
        false_refusal: the largest probability with which a version within the limit is refused.
    """

    limit: float
    min_pairs: int
    false_pass: float
    false_refusal: float

    def within(self, differ: int, pairs: int) -> float:
        """Return the evidence that fewer answers differ than may, as a natural logarithm."""
        # Where all answers may differ, nothing is asked.
        return math.inf if self.limit >= 1 else log_shortfall(differ, pairs, self.limit)

    def beyond(self, differ: int, pairs: int) -> float:
        """Return the evidence that more answers differ than may, as a natural logarithm."""
        return log_excess(differ, pairs, self.limit)

    def passes(self, differ: int, pairs: int) -> bool:
        """Whether these counts pass."""
        return pairs >= self.min_pairs and self.within(differ, pairs) >= -math.log(self.false_pass)

    def refuses(self, differ: int, pairs: int) -> bool:
        """Whether these counts refuse."""
        return self.beyond(differ, pairs) >= -math.log(self.false_refusal)

    def pairs_to_pass(self, rate: float, differ: int = 0, pairs: int = 0) -> int | None:
        """Return how many pairs there are when a version passes, if so large a share of further answers differs.

        Args:
            rate: of the answers to come.
            differ: answers that differ so far.
            pairs: compared so far.

        Returns:
            None where no number is enough.
        """
        if rate >= self.limit and self.limit < 1:
            return None

        def is_enough(more: int) -> bool:
            return self.passes(differ + round(rate * more), pairs + more)

        high = 1
        while high <= _MOST_PAIRS and not is_enough(high):
            high *= 2
        if high > _MOST_PAIRS:
            return None
        low = 0 if high == 1 else high // 2
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if is_enough(middle) else (middle, high)
        return pairs + high


def rule_of(spec: ReleaseSpec, gate: Shadow) -> ShadowRule:
    """Return the rule of a release file's shadow gate."""
    judge = spec.judge
    return ShadowRule(gate.max_disagreement, gate.min_requests, judge.false_promotion, judge.false_rollback)


class Chances(NamedTuple):
    """What becomes of a version, by the number of pairs; arrays of shape (most,), the first for one pair.

    Attributes:
        passed: the probability that it has passed by then.
        refused: the probability that it has been refused by then.
    """

    passed: np.ndarray[tuple[int], np.dtype[np.float64]]
    refused: np.ndarray[tuple[int], np.dtype[np.float64]]

    def pairs_until(self, share: float) -> int | None:
        """Return after how many pairs a version has passed with a probability of `share`; None where it has not."""
        reached = np.flatnonzero(self.passed >= share)
        return int(reached[0]) + 1 if len(reached) else None


def chances(
    passes: Callable[[int, int], bool], refuses: Callable[[int, int], bool], rate: float, most: int
) -> Chances:  # fmt: skip
    """Add up all ways that a comparison can go, where it is looked at after each pair.

    Args:
        passes: whether a number of differing answers among so many pairs passes; if it does, fewer do too.
        refuses: whether it refuses; if it does, more do too.
        rate: the true share of differing answers.
        most: pairs after which the comparison ends.
    """
    # The probability of each number of differing answers in a comparison that goes on.
    going = np.ones(1)
    passed, refused = np.zeros(most), np.zeros(most)
    highest_passing, least_refusing = -1, 0
    for pairs in range(1, most + 1):
        on = np.append(going, 0.0) * (1 - rate)
        on[1:] += going * rate
        while highest_passing < pairs and passes(highest_passing + 1, pairs):
            highest_passing += 1
        while least_refusing <= pairs and not refuses(least_refusing, pairs):
            least_refusing += 1
        passed[pairs - 1] = on[: highest_passing + 1].sum()
        refused[pairs - 1] = on[least_refusing:].sum()
        on[: highest_passing + 1] = 0.0
        going = on[:least_refusing]
    return Chances(np.cumsum(passed), np.cumsum(refused))


def as_e_value(log_value: float) -> float:
    """Return an e-value that JSON can hold."""
    return math.exp(min(log_value, MAX_LOG))
