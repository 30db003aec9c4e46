"""What the bets of a release could have shown by now.

The log e-value of a fixed alternative (see monitoring/judge/engine.py) is linear in the canary's failures. So its
expected value at any failure rate r of the canary is r A + (1 - r) B + S, with sums over the blocks that were bet on:

    A = Σ n_c log(a/c°),  B = Σ n_c log((1-a)/(1-c°)),  S = Σ x_s log(b/s°) + (n_s - x_s) log((1-b)/(1-s°)).

The least r at which one alternative is expected to reach the threshold follows from them, with the blocks, the bets
and the stable version's failures as they were.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from monitoring.judge.engine import Array, Bets, Block


class Power:
    """The sums A, B and S of one judge's tests.

    Args:
        tests: how many.
        alternatives: of each; the last one is the canary's own rate, which depends on its failures, and is left out.
    """

    def __init__(self, tests: int, alternatives: int) -> None:
        self._sums = np.zeros((3, tests, alternatives - 1))

    def add(self, bets: Bets, block: Block) -> None:
        """Add the first judge's block.

        Args:
            bets: the alternatives, of shape (judges, tests, alternatives).
            block: counts, of shape (judges, tests).
        """
        a, b, c, s = (part[0, :, :-1] if part.shape[-1] > 1 else part[0] for part in bets)
        _, canary, stable_hits, stable = (part[0, :, None] for part in block)
        self._sums[0] += canary * np.log(a / c)
        self._sums[1] += canary * np.log((1 - a) / (1 - c))
        self._sums[2] += stable_hits * np.log(b / s) + (stable - stable_hits) * np.log((1 - b) / (1 - s))

    def least_rate(self, test: int, needed: Array) -> float | None:
        """Return the least rate of the canary at which a test is expected to be decided; None where there is none.

        Args:
            test: its place.
            needed: log e-values that each alternative needs, of shape (alternatives - 1,).
        """
        hits, misses, rest = self._sums[:, test]
        slope = hits - misses
        rates = np.divide(needed - rest - misses, slope, out=np.full(len(slope), np.inf), where=slope > 0)
        least = float(rates.min())
        return max(least, 0.0) if least <= 1 else None

    def to_dict(self) -> list[list[list[float]]]:
        """The sums, as JSON."""
        return self._sums.tolist()

    def restore(self, sums: list[list[list[float]]]) -> None:
        """Go on where `to_dict` stopped, bit for bit."""
        self._sums = np.array(sums)
