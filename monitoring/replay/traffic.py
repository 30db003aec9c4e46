"""Simulated traffic: clients, replicas, and what is wrong with the canary. Seconds, requests and seeded chance only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtr

Array = np.ndarray[Any, Any]

BOUNDS = tuple(round(float(bound), 6) for bound in 0.002 * 1.0443 ** np.arange(180))
"""Latency buckets, in seconds."""

_MEDIAN, _SIGMA = 0.060, math.log(0.250 / 0.060) / 2.3263
"""Lognormal latencies with a median of 60 ms and a p99 of 250 ms."""


@dataclass(frozen=True)
class World:
    """Clients and two versions.

    Attributes:
        rate: requests a second, of both versions together.
        stable: the stable version's failure rate.
        canary: the canary's.
        slower: what the canary's latencies are multiplied by.
        tail: the slowest share of the canary's requests, and what their latencies are multiplied by.
        after: seconds after which the canary's faults begin.
        replicas: of each version; a canary with a share of traffic has that share of them.
        bursts: share of ten-second spells in which a replica fails three in ten.
        sticky: failures that come together: a user's request that fails is repeated as often.
        wander: standard deviation of each replica's log latency, an AR(1) process over `wander_seconds`.
    """

    rate: float = 200.0
    stable: float = 0.001
    canary: float = 0.001
    slower: float = 1.0
    tail: tuple[float, float] = (0.0, 1.0)
    after: float = 0.0
    replicas: int = 20
    bursts: float = 0.0
    sticky: int = 1
    wander: float = 0.0
    wander_seconds: float = 30.0

    @property
    def is_good(self) -> bool:
        """Whether nothing is wrong with the canary."""
        return self.canary == self.stable and self.slower == 1 and self.tail[0] == 0


class Traffic:
    """The two versions' counters, for many replications at a time.

    Args:
        world: what is simulated.
        rng: chance.
        size: how many replications.
        latency: whether latencies are simulated too, which takes ten times as long.
    """

    def __init__(self, world: World, rng: np.random.Generator, size: int, *, latency: bool) -> None:
        self._world, self._rng, self._size, self._latency = world, rng, size, latency
        shape = (size, 2 * world.replicas)
        self._drift = rng.standard_normal(shape) * world.wander
        self._bad = np.zeros(shape, bool)
        self._spell_ends = 0.0

    def history(self, seconds: int) -> dict[str, Array]:
        """Counts of the stable replicas before the release, of shape (seconds, replicas, cells)."""
        one = Traffic(self._world, self._rng, 1, latency=self._latency)
        errors, latency = [], []
        for second in range(seconds):
            counted, slow = one._replicas(second, 1.0, 0, np.ones(1))
            errors.append(counted[0])
            latency.append(slow[0])
        return {"errors": np.array(errors), **({"latency": np.array(latency)} if self._latency else {})}

    def look(self, at: float, seconds: float, share: Array) -> tuple[dict[str, Array], dict[str, Array]]:
        """What both versions count in a look that ends at `at`.

        Args:
            at: seconds since the shift began.
            seconds: the look's length.
            share: the canary's, of shape (size,).

        Returns:
            By metric, the stable version's fresh counts of shape (size, cells), and the canary's.
        """
        arms = []
        for canary, part in ((0, 1 - share), (1, share)):
            counted, slow = self._replicas(at, seconds, canary, part)
            arms.append({"errors": counted.sum(axis=1), **({"latency": slow.sum(axis=1)} if self._latency else {})})
        return arms[0], arms[1]

    def _replicas(self, at: float, seconds: float, canary: int, part: Array) -> tuple[Array, Array]:
        """Requests and failures, and latencies, of one version's replicas."""
        world, rng = self._world, self._rng
        if not canary:
            self._age(at, seconds)
        number = np.maximum(np.ceil(part * world.replicas), 1)[:, None]
        serving = np.arange(world.replicas)[None, :] < number
        requests = rng.poisson(np.where(serving, world.rate * seconds * part[:, None] / number, 0.0))
        faulty = bool(canary) and at > world.after
        rate = np.full(requests.shape, world.canary if faulty else world.stable)
        own = slice(world.replicas * canary, world.replicas * (canary + 1))
        if world.bursts:
            rate = np.where(self._bad[:, own], 0.3, rate)
        failures = rng.binomial(requests, np.minimum(rate / world.sticky, 1.0))
        if world.sticky > 1:
            # The user repeats what failed, and it fails again.
            requests = requests + failures * (world.sticky - 1)
            failures = failures * world.sticky
        slow = self._slow(requests, np.exp(self._drift[:, own]), faulty=faulty) if self._latency else requests
        return np.stack([requests, failures], axis=-1), slow

    def _slow(self, requests: Array, drift: Array, *, faulty: bool) -> Array:
        """Latency histograms of replicas."""
        world = self._world
        scale, (share, factor) = (world.slower, world.tail) if faulty else (1.0, (0.0, 1.0))
        edges = np.log(np.array(BOUNDS) / _MEDIAN / scale)
        if not world.wander:
            # All replicas alike: one histogram is enough.
            below = _below(edges, share, factor)
            total = self._rng.multinomial(requests.sum(axis=1), np.diff(below, prepend=0, append=1))
            return np.pad(total[:, None, :], ((0, 0), (0, requests.shape[1] - 1), (0, 0)))
        shifted = edges - np.log(drift)[..., None]
        below = _below(shifted, share, factor)
        return np.asarray(self._rng.multinomial(requests, np.diff(below, prepend=0, append=1)))

    def _age(self, at: float, seconds: float) -> None:
        """Let spells end and latencies wander."""
        world, rng = self._world, self._rng
        if world.bursts and at >= self._spell_ends:
            self._bad = rng.random(self._bad.shape) < world.bursts
            self._spell_ends = at + 10
        if world.wander:
            keep = math.exp(-seconds / world.wander_seconds)
            fresh = rng.standard_normal(self._drift.shape) * world.wander * math.sqrt(1 - keep**2)
            self._drift = keep * self._drift + fresh


def _below(log_bounds: Array, share: float, factor: float) -> Array:
    """The share of latencies below each bound, where the slowest are slower by a factor."""
    usual = np.minimum(ndtr(log_bounds / _SIGMA), 1 - share)
    slowest = np.maximum(ndtr((log_bounds - math.log(factor)) / _SIGMA) - (1 - share), 0)
    return np.asarray(usual + slowest)
