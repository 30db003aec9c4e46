"""How far two columns lie apart, how exact that is, and how far apart chance alone may put them.

The distances are those that Evidently takes for references of more than a thousand rows: the first Wasserstein distance
over the reference's standard deviation for numbers, the Jensen-Shannon distance (natural logarithm) for categories. But
where the reference's tails are heavy, numbers are cut off first (monitoring/drift/tails.py).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.spatial.distance import jensenshannon
from scipy.stats import chi2

from monitoring.drift.profile import WIDTHS, Categories, Numbers
from monitoring.drift.shares import counts_of, divergence_by_chance, has_rare
from monitoring.drift.tails import as_cut, cut_error, cut_off, rounding, scale_of, wasserstein_by_chance

if TYPE_CHECKING:
    from monitoring.drift.profile import Profile


class Distance(NamedTuple):
    """A distance.

    Attributes:
        method: Evidently's name of it.
        value: the distance.
        error: by how much the value may differ from that of all rows.
        chance: what two samples of one population, of these sizes, stay below but for the rate that was asked for.
    """

    method: str
    value: float
    error: float
    chance: float


def distance(reference: Profile, current: Profile, rate: float) -> Distance:
    """The distance of a window's column from the reference's.

    Args:
        reference: its profile.
        current: of the same kind.
        rate: how often chance alone may be taken for more.
    """
    if isinstance(reference, Numbers) and isinstance(current, Numbers):
        return _wasserstein(reference, current, rate)
    assert isinstance(reference, Categories) and isinstance(current, Categories)  # noqa: PT018, S101 - profile_like
    return _jensen_shannon(reference, current, rate)


def _wasserstein(reference: Numbers, current: Numbers, rate: float) -> Distance:
    cut = cut_off(reference)
    before, now = (as_cut(profile, cut) for profile in (reference, current))
    norm = scale_of(before)
    value = float(np.abs(before.means - now.means) @ WIDTHS)
    # Within a cell the two may cross. Where they do, what lies on one side is at most `above` wide and on the other at
    # most `below`, for parts of the cell that add up to it; twice the lesser area is missing from the value.
    above = np.maximum(before.highs - now.lows, 0)
    below = np.maximum(now.highs - before.lows, 0)
    both = above + below
    crossing = np.divide(2 * above * below, both, out=np.zeros_like(both), where=both > 0)
    error = float(crossing @ WIDTHS) + sum(cut_error(side, cut) + rounding(side) for side in (reference, current))
    return Distance("wasserstein", value / norm, error / norm, wasserstein_by_chance(before, now, rate, cut) / norm)


def _jensen_shannon(reference: Categories, current: Categories, rate: float) -> Distance:
    before, now = counts_of(reference, current)
    divergence = float(jensenshannon(before, now))
    # Rounding may leave a square root of a little less than nothing.
    value = 0.0 if math.isnan(divergence) else divergence
    if has_rare(before, now):
        return Distance("jensenshannon", value, 0.0, divergence_by_chance(before, now, rate))
    kinds = max(int(np.count_nonzero(before + now)), 2)
    # Of two samples of one population the divergence is about chi-squared over 8, by the rows of each.
    bound = math.sqrt(float(chi2.isf(rate, kinds - 1)) / 8 * (1 / reference.used + 1 / current.used))
    return Distance("jensenshannon", value, 0.0, bound)
