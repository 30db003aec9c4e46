"""What chance does to two columns of categories, where some of them are too rare for the rules of large numbers.

Two samples of one population are as likely to be shared out between reference and window in any other way. So their
rows are thrown together and shared out anew, two hundred times, with the sizes as they were: what that gives is what
chance gives, however many categories there are and however rare (a permutation test; Phipson and Smyth 2010 count it).
The draws are seeded by the counts themselves: the same two columns always get the same verdict.
"""

from __future__ import annotations

import math
import zlib
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy.special import xlogy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from monitoring.drift.profile import Categories

    Counts = NDArray[np.int64]
    Floats = NDArray[np.float64]

_DRAWS = 199
_RARE = 5
"""Cochran's: categories that are expected less often on either side are not what chi-squared holds for."""
_AT_ONCE = 500_000
"""Counts that are drawn at once, a few megabytes."""
_MANY = 100_000
"""Rows from which on a draw by categories is quicker than one by rows."""


def counts_of(reference: Categories, current: Categories) -> tuple[Counts, Counts]:
    """How often each category occurs in either, in one order; where some have no name, in buckets of categories."""
    if reference.rest or current.rest:
        return np.array(reference.in_buckets, np.int64), np.array(current.in_buckets, np.int64)
    names = [*reference.counts, *(name for name in current.counts if name not in reference.counts)]
    before, now = ([profile.counts.get(name, 0) for name in names] for profile in (reference, current))
    return np.array(before, np.int64), np.array(now, np.int64)


def has_rare(before: Counts, now: Counts) -> bool:
    """Whether a category that occurs is to be expected less than five times on one of the sides."""
    return _how_many_rare(before, now) > 0


def divergence_by_chance(before: Counts, now: Counts, rate: float) -> float:
    """What the Jensen-Shannon distance stays below, of two samples of one population, but for the rate.

    Thousands of rare categories make a distance of noise, which hides a move between common ones. So there are two
    tests, at half of the rate each: of all categories, and with the rare ones as one. Where the second passes its bound
    by more than the first, what is returned is the distance over that excess, so that it is reached if either test is.
    """
    occur = np.argsort(before + now, kind="stable")[np.count_nonzero(before + now == 0) :]
    divergences = _Divergences(before[occur], now[occur], _how_many_rare(before, now))
    whole, grouped = divergences.of(now[None, occur])
    drawn = [divergences.of(shared) for _, shared in _shared_out(before, now, rate / 2)]
    bounds = [_bound(np.concatenate(test), rate / 2) for test in zip(*drawn, strict=True)]
    excess = max(float(grouped[0]) / bounds[1], float(whole[0]) / bounds[0])
    return math.sqrt(float(whole[0]) / excess) if excess > 1 else math.sqrt(bounds[0])


def unseen(reference: Categories) -> float:
    """The share of rows to come whose category a sample lacks: Good and Turing's, those it has once over its rows."""
    return sum(count == 1 for count in reference.counts.values()) / reference.used


def new_by_chance(reference: Categories, current: Categories, rate: float) -> float:
    """What the share of rows whose category is new, beyond those that were to be expected, reaches by chance.

    Args:
        reference: with all of its values named.
        current: of the same column.
        rate: how often two samples of one population may have more.
    """
    names = {*reference.counts, *current.counts}
    before, now = (np.array([side.counts.get(name, 0) for name in names]) for side in (reference, current))
    beyond = [
        ((then == 0) * drawn).sum(axis=1) / now.sum() - (then == 1).sum(axis=1) / before.sum()
        for then, drawn in _shared_out(before, now, rate)
    ]
    return _bound(np.concatenate(beyond), rate)


def _shared_out(before: Counts, now: Counts, rate: float) -> Iterator[tuple[Counts, Counts]]:
    """Both sides, with a row a draw and a column a category, some draws at a time."""
    both = before + now
    both = np.sort(both[both > 0])
    dice = np.random.default_rng([zlib.crc32(both.tobytes()), int(now.sum())])
    method: Literal["count", "marginals"] = "count" if both.sum() < _MANY else "marginals"
    left = _draws(rate)
    while left:
        some = min(left, max(_AT_ONCE // len(both), 1))
        drawn = dice.multivariate_hypergeometric(both, int(now.sum()), some, method=method)
        yield both - drawn, drawn
        left -= some


def _how_many_rare(before: Counts, now: Counts) -> int:
    both = before + now
    expected = both * (min(before.sum(), now.sum()) / both.sum())
    return int(np.count_nonzero((both > 0) & (expected < _RARE)))


def _draws(rate: float) -> int:
    return max(_DRAWS, math.ceil(1 / rate) - 1)


def _bound(drawn: Floats, rate: float) -> float:
    """What two samples of one population reach no more often than at the rate, the draws' own luck included."""
    place = int(rate * (len(drawn) + 1) + 1e-9)
    bound = float(np.partition(drawn, -place)[-place])
    # Reached is not passed: ties count for chance, and so do roundings.
    return bound + 1e-9 * max(abs(bound), 1e-3)


class _Divergences:
    """Squares of Jensen-Shannon distances, for any way to share out the rows of both sides.

    What a category adds depends on how often it occurs in all and in the window; of each such pair it is computed once,
    where pairs are fewer than draws of categories.

    Args:
        before: of each category that occurs, the rarest first.
        now: of each category.
        rare: so many of the first are taken for one in the second of the two distances.
    """

    def __init__(self, before: Counts, now: Counts, rare: int) -> None:
        self._both, self._rare = before + now, rare
        self._rows = int(before.sum()), int(now.sum())
        occurrences, kind = np.unique(self._both, return_inverse=True)
        pairs = occurrences + 1
        self._parts: Floats | None = None
        if pairs.sum() < _DRAWS * len(kind):
            starts = np.concatenate([[0], np.cumsum(pairs)[:-1]])
            in_all = np.repeat(occurrences, pairs)
            self._parts = self._part(in_all, np.arange(len(in_all)) - np.repeat(starts, pairs))
            self._start = starts[kind]

    def of(self, now: Counts) -> tuple[Floats, Floats]:
        """Of each row of the window's counts: with all categories, and with the rare ones as one."""
        parts = self._part(self._both, now) if self._parts is None else self._parts[self._start + now]
        together = self._part(self._both[: self._rare].sum(), now[:, : self._rare].sum(axis=1))
        grouped = parts[:, self._rare :].sum(axis=1) + together
        return np.maximum(parts.sum(axis=1), 0), np.maximum(grouped, 0)

    def _part(self, both: Counts, now: Counts) -> Floats:
        first, second = (both - now) / self._rows[0], now / self._rows[1]
        middle = (first + second) / 2
        part: Floats = (xlogy(first, first) + xlogy(second, second)) / 2 - xlogy(middle, middle)
        return part
