"""φ: how much more the counts of replicas vary than independent requests would.

Requests that fail together (a replica's bad minute, one user's retries) make counts vary more than the e-process
allows for; with one arm on other replicas than the other, that looks like harm. φ is measured on the stable
version's replicas before the release, and log E is divided by it. In windows of several lengths, Pearson's statistic
of the replicas' counts against their common rate,

    φ = Σ_r (x_r - n_r p)² / (n_r p (1-p)) / (R - 1),

is averaged over the windows of one length; the largest of the lengths counts, and never less than 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from monitoring.judge.engine import Array

LENGTHS = (1, 3, 10, 30, 100, 300)
"""Lengths of windows, in rows of the history."""

MIN_REPLICAS = 2
MIN_FREEDOM = 60
"""Windows of one length times the replicas less one; with fewer, φ would be mostly noise."""


class Dispersion(NamedTuple):
    """What was measured.

    Attributes:
        phi: for each test.
        why_not: in words, why it could not be measured; empty where it was.
    """

    phi: Array
    why_not: str = ""


def unmeasured(tests: int, why: str) -> Dispersion:
    """φ = 1, and the reason."""
    return Dispersion(np.ones(tests), why)


def measure(hits: Array, trials: Array) -> Dispersion:
    """Measure φ.

    Args:
        hits: of shape (rows, replicas, tests), each row the counts of the same length of time.
        trials: as hits.
    """
    rows, replicas, tests = hits.shape
    if replicas < MIN_REPLICAS:
        return unmeasured(tests, "the stable version has one replica")
    if rows * (replicas - 1) < MIN_FREEDOM or not trials.any():
        return unmeasured(tests, "there is too little history of the stable version's replicas")
    largest = np.ones(tests)
    for length in LENGTHS:
        windows = rows // length
        if windows * (replicas - 1) < MIN_FREEDOM:
            break
        summed = [part[: windows * length].reshape(windows, length, replicas, tests).sum(axis=1) for part in
                  (hits, trials)]  # fmt: skip
        largest = np.maximum(largest, _between(*summed))
    return Dispersion(largest)


def _between(hits: Array, trials: Array) -> Array:
    """Pearson's statistic over its degrees of freedom, of all windows of one length."""
    total = trials.sum(axis=1, keepdims=True)
    rate = np.divide(hits.sum(axis=1, keepdims=True), total, out=np.zeros_like(total, dtype=float), where=total > 0)
    variance = trials * rate * (1 - rate)
    squares = np.divide((hits - trials * rate) ** 2, variance, out=np.zeros_like(hits), where=variance > 0)
    freedom = np.maximum((variance > 0).sum(axis=1) - 1, 0).sum(axis=0)
    return np.asarray(np.divide(squares.sum(axis=(0, 1)), freedom, out=np.ones(hits.shape[2]), where=freedom > 0))
