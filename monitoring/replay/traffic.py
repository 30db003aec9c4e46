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


_IN_BURSTS, _BURST_SECONDS, _OUTAGE_SECONDS = 0.3, 10, 60.0
"""What fails of a replica's requests in a burst, and of all requests in an outage; seconds of both."""


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
        cold: seconds after the shift began in which the canary fails at the other rate, a good one too.
        outage: when a minute begins in which three in ten requests of both versions fail, in seconds, and how much
            earlier it begins for the canary; the first is 0 where there is none.
        refused: share of both versions' requests that are answered with a status of 4xx.
        probes: requests a second that only the canary gets, each answered with a status of 4xx.
        bursts: share of ten-second windows in which three in ten requests of a replica fail.
        sticky: failures that come together: a user's request that fails is repeated as often.
        wander: standard deviation of each replica's log latency, an AR(1) process over `wander_seconds`.
    """

    rate: float = 200.0
    stable: float = 0.001
    canary: float = 0.001
    slower: float = 1.0
    tail: tuple[float, float] = (0.0, 1.0)
    after: float = 0.0
    cold: tuple[float, float] = (0.0, 0.0)
    outage: tuple[float, float] = (0.0, 0.0)
    refused: float = 0.0
    probes: float = 0.0
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
        self._burst_ends = 0.0

    def history(self, seconds: int) -> dict[str, Array]:
        """Counts of the stable replicas before the release, of shape (seconds, replicas, cells)."""
        one = Traffic(self._world, self._rng, 1, latency=self._latency)
        if self._world.wander:
            looks = [one._replicas(second, 1.0, 0, np.ones(1)) for second in range(seconds)]
            counted, slow = (np.concatenate(part) for part in zip(*looks, strict=True))
        else:
            # Seconds differ by chance and by bursts alone: as many replications at once.
            bursts = self._rng.random((-(-seconds // _BURST_SECONDS), one._bad.shape[1])) < self._world.bursts
            one._bad, one._burst_ends = np.repeat(bursts, _BURST_SECONDS, axis=0)[:seconds], math.inf
            one._drift = np.zeros((seconds, one._drift.shape[1]))
            counted, slow = one._replicas(0.0, 1.0, 0, np.ones(seconds))
        return {**_errors(counted), **({"latency": slow} if self._latency else {})}

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
            arms.append({**_errors(counted.sum(axis=1)), **({"latency": slow.sum(axis=1)} if self._latency else {})})
        return arms[0], arms[1]

    def _replicas(self, at: float, seconds: float, canary: int, part: Array) -> tuple[Array, Array]:
        """Requests, answers of 5xx and of 4xx, and latencies, of one version's replicas."""
        world, rng = self._world, self._rng
        if not canary:
            self._age(at, seconds)
        number = np.maximum(np.ceil(part * world.replicas), 1)[:, None]
        serving = np.arange(world.replicas)[None, :] < number
        requests = rng.poisson(np.where(serving, world.rate * seconds * part[:, None] / number, 0.0))
        faulty = bool(canary) and at > world.after
        rate = np.full(requests.shape, world.canary if faulty else world.stable)
        if canary and at <= world.cold[0]:
            rate[:] = world.cold[1]
        began = world.outage[0] - world.outage[1] * canary
        if world.outage[0] and began < at <= began + _OUTAGE_SECONDS:
            rate[:] = _IN_BURSTS
        own = slice(world.replicas * canary, world.replicas * (canary + 1))
        if world.bursts:
            rate = np.where(self._bad[:, own], _IN_BURSTS, rate)
        failures = rng.binomial(requests, np.minimum(rate / world.sticky, 1.0))
        if world.sticky > 1:
            # The user repeats what failed, and it fails again.
            requests = requests + failures * (world.sticky - 1)
            failures = failures * world.sticky
        slow = self._slow(requests, np.exp(self._drift[:, own]), faulty=faulty) if self._latency else requests
        refused = np.zeros_like(failures)
        if world.refused:
            refused = rng.binomial(requests - failures, world.refused)
        if world.probes and canary:
            probes = rng.poisson(world.probes * seconds / world.replicas, requests.shape)
            requests, refused = requests + probes, refused + probes
        return np.stack([requests, failures, refused], axis=-1), slow

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
        """Let bursts end and latencies wander."""
        world, rng = self._world, self._rng
        if world.bursts and at >= self._burst_ends:
            self._bad = rng.random(self._bad.shape) < world.bursts
            self._burst_ends = at + _BURST_SECONDS
        if world.wander:
            keep = math.exp(-seconds / world.wander_seconds)
            fresh = rng.standard_normal(self._drift.shape) * world.wander * math.sqrt(1 - keep**2)
            self._drift = keep * self._drift + fresh


def _errors(counted: Array) -> dict[str, Array]:
    """Answers of 5xx and of 4xx apart, and all failures together, from cells (requests, 5xx, 4xx)."""
    requests, failures, refused = np.moveaxis(counted, -1, 0)
    pairs = {"errors": failures, "client_errors": refused, "failures": failures + refused}
    return {name: np.stack([requests, hits], axis=-1) for name, hits in pairs.items()}


def _below(log_bounds: Array, share: float, factor: float) -> Array:
    """The share of latencies below each bound, where the slowest are slower by a factor."""
    usual = np.minimum(ndtr(log_bounds / _SIGMA), 1 - share)
    slowest = np.maximum(ndtr((log_bounds - math.log(factor)) / _SIGMA) - (1 - share), 0)
    return np.asarray(usual + slowest)
