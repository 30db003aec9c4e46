"""How much more counts vary than those of independent requests would, measured on the stable version's past.

Requests that fail together make counts vary more than the e-process allows for; with one version on other servers than
the other, that looks like harm. Three things are measured, on counts of one second each, by server where servers are
known, and each is met by its own means:

- φ, of what fails together within a second (a user's retries, a stall): Pearson's statistic of the seconds of a window
  of ten against the rate of that window, and, where there are several servers, of servers against their common rate in
  windows of several lengths, without bursts:

      φ = Σ (x - n p)² / (n p (1-p)) / degrees of freedom.

  Evidence of harm and of no harm is divided by it.
- Bursts: windows of ten seconds with more failures of one server than chance brings once in a billion. Where there
  were any, a burst of BURST_SECONDS alone takes no version back: see `EProcesses.limit`.
- The spread: φ with bursts. Evidence of harm is divided by it instead of φ. A burst of the only server hits all
  requests of a version, so it hits fewer requests of a version with a smaller share: φ - 1 is proportional to the
  requests a second then (a beta-binomial count of n has φ = 1 + (n - 1) ρ).

φ and spread are never less than 1.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.stats import poisson

if TYPE_CHECKING:
    from monitoring.judge.engine import Array

    Flags = np.ndarray[Any, np.dtype[np.bool_]]

BURST_SECONDS = 10
"""Length of a burst of failures, in seconds; a row of counts is a second."""

LENGTHS = (1, 3, 10, 30)
"""Lengths of the windows in which servers are compared, in units of BURST_SECONDS."""

MIN_WINDOWS = 60
"""Windows of BURST_SECONDS with requests, of all servers together; with fewer, φ would be mostly noise."""

_CHANCE = 1e-9
_DEVIATIONS, _LEAST_EXCESS = 6.0, 0.2
"""By how many standard deviations, and by how much, φ of the past has to be above 1."""
_LEAST_HITS = 5
"""Failures in a burst."""
_ROUNDS = 3


class Dispersion(NamedTuple):
    """What was measured, of each test.

    Attributes:
        phi: of requests that fail together within a second.
        spread: with bursts.
        has_bursts: whether there were bursts.
        per_second: requests a second of the only server, at which `spread` was measured; infinite where it holds for
            any rate, as there are several servers.
        known_seconds: with requests, of all servers together.
        why_not: in words, why it could not be measured; empty where it was.
    """

    phi: Array
    spread: Array
    has_bursts: Flags
    per_second: float = math.inf
    known_seconds: float = 0.0
    why_not: str = ""

    def of_harm(self, is_harm: Flags) -> Dispersion:
        """The same for tests of harm, of shape (tests,); φ = 1 for the others."""
        return self._replace(phi=np.where(is_harm, self.phi, 1.0), spread=np.where(is_harm, self.spread, 1.0))

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "phi": self.phi.tolist(), "spread": self.spread.tolist(), "has_bursts": self.has_bursts.tolist(),
            "per_second": None if math.isinf(self.per_second) else self.per_second,
            "known_seconds": self.known_seconds, "why_not": self.why_not,
        }  # fmt: skip

    @classmethod
    def from_dict(cls, known: dict[str, Any]) -> Dispersion:
        """What `to_dict` wrote."""
        return cls(
            np.array(known["phi"], float), np.array(known["spread"], float), np.array(known["has_bursts"], bool),
            known["per_second"] or math.inf, known["known_seconds"], known["why_not"],
        )  # fmt: skip


def unmeasured(tests: int, why: str) -> Dispersion:
    """φ = 1, and the reason."""
    return Dispersion(np.ones(tests), np.ones(tests), np.zeros(tests, bool), why_not=why)


def measure(hits: Array, trials: Array, *, is_alone: bool = True, sample: float = 1.0) -> Dispersion:
    """Measure φ, bursts and the spread.

    Args:
        hits: of shape (seconds, servers, tests).
        trials: as hits.
        is_alone: whether one server is the only one; else its counts are those of several.
        sample: the share of the requests that was counted, each by its own chance; it lowers φ - 1 in proportion.
    """
    seconds, servers, tests = hits.shape
    windows = seconds // BURST_SECONDS
    by_second = [
        part[: windows * BURST_SECONDS].reshape(windows, BURST_SECONDS, servers, tests) for part in (hits, trials)
    ]
    known = int((by_second[1].sum(axis=1)[..., :1] > 0).sum())
    if known < MIN_WINDOWS:
        return unmeasured(tests, "less than ten minutes of the stable version's past are known")
    phi = _within(*by_second)
    x, n = (part.sum(axis=1) for part in by_second)
    burst = _bursts(x, n, phi)
    has_bursts = np.asarray(burst.any(axis=(0, 1)))
    spread, per_second = phi, math.inf
    if servers > 1:
        calm = np.where(burst, 0.0, x), np.where(burst, 0.0, n)
        phi, spread = _largest(*calm, phi), _largest(x, n, phi)
    else:
        per_second = float(trials.sum(axis=(0, 1)).max() / (known * BURST_SECONDS)) if is_alone else math.inf
        rate = _rate(x, n)
        variance = n * rate * (1 - rate)
        squares = np.divide((x - n * rate) ** 2, variance, out=np.zeros_like(x), where=variance > 0)
        # A rate that changes by the hour is not of one version alone.
        spread = np.where(has_bursts, np.maximum(squares.sum(axis=(0, 1)) / (known - 1), phi), phi)
    phi, spread = (1 + (part - 1) / sample for part in (phi, spread))
    return Dispersion(phi, spread, has_bursts, per_second / sample, float(known * BURST_SECONDS))


def _within(hits: Array, trials: Array) -> Array:
    """φ of the seconds of each window, averaged over windows with hits; of shape (windows, seconds, servers, tests)."""
    total_hits, total = hits.sum(axis=1, keepdims=True), trials.sum(axis=1, keepdims=True)
    rate = np.divide(total_hits, total, out=np.zeros_like(total), where=total > 0)
    variance = trials * rate * (1 - rate)
    squares = np.divide((hits - trials * rate) ** 2, variance, out=np.zeros_like(hits), where=variance > 0).sum(axis=1)
    squares *= _of_few(total[:, 0])
    freedom = np.maximum((variance > 0).sum(axis=1) - 1, 0)
    ratio = np.divide(squares, freedom, out=np.zeros_like(squares), where=freedom > 0)
    windows = np.maximum((freedom > 0).sum(axis=(0, 1)), 1)
    # Given its hits, a window's statistic has a variance of 2 (1 - 1 / hits) times its degrees of freedom.
    noise = 2 * (1 - 1 / np.maximum(total_hits[:, 0], 1))
    noise = np.divide(noise, freedom, out=np.zeros_like(squares), where=freedom > 0)
    return more_than_chance(ratio.sum(axis=(0, 1)), windows, noise.sum(axis=(0, 1)))


def _of_few(trials: Array) -> Array:
    """Given its hits, the statistic of a window's trials has a mean of n / (n - 1) degrees of freedom."""
    return np.asarray(np.maximum(trials - 1, 0) / np.maximum(trials, 1))


def more_than_chance(squares: Array, freedom: Array, noise: Array, deviations: float = _DEVIATIONS) -> Array:
    """Return φ where it is above 1 by more than the noise of its estimate from independent requests; else 1.

    Args:
        squares: Pearson's statistic.
        freedom: its degrees of freedom, which are its mean for independent requests.
        noise: its variance for independent requests.
        deviations: by how many standard deviations φ has to be above 1.
    """
    phi = np.divide(squares, freedom, out=np.ones(squares.shape), where=freedom > 0)
    deviation = np.sqrt(noise) / np.maximum(freedom, 1)
    return np.asarray(np.where(phi - 1 > np.maximum(deviations * deviation, _LEAST_EXCESS), phi, 1.0))


def _bursts(hits: Array, trials: Array, phi: Array) -> Flags:
    """Windows of shape (windows, servers, tests) with more hits than chance brings, in units of φ hits."""
    burst = np.zeros(hits.shape, bool)
    for _ in range(_ROUNDS):
        # The usual rate is that without bursts.
        rate = _rate(np.where(burst, 0.0, hits), np.where(burst, 0.0, trials))
        tail = poisson.sf(np.floor(hits / phi) - 1, trials * rate / phi)
        burst = (hits >= _LEAST_HITS) & (tail < _CHANCE)
    return burst


def _rate(hits: Array, trials: Array) -> Array:
    return np.asarray(hits.sum(axis=(0, 1)) / np.maximum(trials.sum(axis=(0, 1)), 1))


def _largest(hits: Array, trials: Array, least: Array) -> Array:
    """The largest φ between servers, over windows of several lengths."""
    windows, servers, tests = hits.shape
    largest = least
    for length in LENGTHS:
        whole = windows // length
        if whole * (servers - 1) < MIN_WINDOWS:
            break
        summed = [part[: whole * length].reshape(whole, length, servers, tests).sum(axis=1) for part in (hits, trials)]
        largest = np.maximum(largest, more_than_chance(*pearson(*summed)))
    return largest


def pearson(hits: Array, trials: Array) -> tuple[Array, Array, Array]:
    """Return Pearson's statistic of parts against a common rate, its degrees of freedom, and its variance by chance.

    Args:
        hits: of shape (groups, parts, tests); the parts of a group have a rate in common.
        trials: as hits.

    Returns:
        Sums over all groups and parts, each of shape (tests,).
    """
    total = trials.sum(axis=1, keepdims=True)
    rate = np.divide(hits.sum(axis=1, keepdims=True), total, out=np.zeros_like(total, dtype=float), where=total > 0)
    variance = trials * rate * (1 - rate)
    is_counted = variance > 0
    squares = np.divide((hits - trials * rate) ** 2, variance, out=np.zeros_like(hits), where=is_counted)
    squares *= _of_few(total)
    freedom = np.maximum(is_counted.sum(axis=1) - 1, 0).sum(axis=0)
    # The square of a Poisson count of mean μ, over μ, has a variance of 2 + 1 / μ.
    noise = np.divide(1.0, variance, out=np.zeros_like(variance), where=is_counted) + 2 * is_counted
    return squares.sum(axis=(0, 1)), freedom, noise.sum(axis=(0, 1))
