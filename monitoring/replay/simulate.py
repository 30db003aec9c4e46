"""A rule on many replications of simulated traffic."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from monitoring.judge.batch import ADVANCE, INCONCLUSIVE, PROMOTE, ROLLBACK, RUNNING
from monitoring.replay.reading import DIRECT, Reader, Reading
from monitoring.replay.traffic import Traffic, World

if TYPE_CHECKING:
    from monitoring.replay.rules import Rule

Array = np.ndarray[Any, Any]

HISTORY_SECONDS, LATENCY_SECONDS = 21_600, 1800
"""How long the stable version is known before the release, as from a target's log (monitoring/past.py); less where
latencies are simulated too, which would take gigabytes."""

HISTORIES = 8
"""What is learned from a history is a matter of chance too: as many are drawn, each for a part of the replications."""


@dataclass(frozen=True)
class Outcome:
    """How a rule did; arrays have one number a replication.

    Attributes:
        phase: how it ended: ROLLBACK, PROMOTE, INCONCLUSIVE, or RUNNING when the time was over.
        seconds: when; infinite while running.
        bad: requests of the canary until then that it failed (5xx).
        exposed: requests of the canary until then.
    """

    rule: str
    phase: Array
    seconds: Array
    bad: Array
    exposed: Array

    def share(self, phase: int) -> float:
        """Of the replications, those that ended so."""
        return float((self.phase == phase).mean())

    @property
    def rolled_back(self) -> float:
        """The share that was taken back."""
        return self.share(ROLLBACK)

    @property
    def promoted(self) -> float:
        """The share that was promoted."""
        return self.share(PROMOTE)

    @property
    def undecided(self) -> float:
        """The share that was neither."""
        return self.share(INCONCLUSIVE) + self.share(RUNNING)

    def median(self, what: str, phase: int) -> float:
        """The median seconds, bad or exposed requests of the replications that ended so; NaN where none did."""
        return self.quantile(what, phase, 0.5)

    def quantile(self, what: str, phase: int, level: float) -> float:
        """A quantile of the seconds, bad or exposed requests of the replications that ended so; NaN where none did."""
        chosen = getattr(self, what)[self.phase == phase]
        return float(np.quantile(chosen, level)) if len(chosen) else math.nan


@dataclass(frozen=True)
class Trial:
    """A rule on a faulty canary, and on a good one under the same traffic."""

    rule: str
    faulty: Outcome
    good: Outcome


def trial(rule: Rule, world: World, good: World | None = None, **options: Any) -> Trial:  # noqa: ANN401
    """Try a rule on a fault, and on the same canary without it.

    Args:
        rule: what decides.
        world: the traffic with the fault.
        good: the traffic without it; the same with a canary like the stable version if not given.
        options: those of `simulate`.
    """
    good = good or replace(world, canary=world.stable, slower=1.0, tail=(0.0, 1.0))
    return Trial(rule.name, simulate(rule, world, **options), simulate(rule, good, **options))


@dataclass(frozen=True)
class Conditions:
    """How a rule is tried.

    Attributes:
        minutes: how long at most.
        look: seconds between looks.
        latency: simulate latencies too.
        is_dispersed: give the rule the history of the stable version by second and server, from which ours measures how
            much its counts vary; else its sum.
        reading: how the platform hands over the counters.
    """

    minutes: float = 60.0
    look: float = 1.0
    latency: bool = False
    is_dispersed: bool = False
    reading: Reading = DIRECT


def simulate(rule: Rule, world: World, *, replications: int, seed: int = 0, **conditions: Any) -> Outcome:  # noqa: ANN401
    """Try a rule.

    Args:
        rule: what decides.
        world: the traffic, and what is wrong with the canary.
        replications: how often.
        seed: of everything.
        conditions: those of `Conditions`.
    """
    how = Conditions(**conditions)
    if not how.is_dispersed:
        return _under_one_history(rule, world, np.random.default_rng(seed), replications, how)
    parts = np.array_split(np.arange(replications), min(HISTORIES, replications))
    chances = np.random.SeedSequence(seed).spawn(len(parts))
    outcomes = [
        _under_one_history(rule, world, np.random.default_rng(chance), len(part), how)
        for part, chance in zip(parts, chances, strict=True)
    ]
    arrays = ("phase", "seconds", "bad", "exposed")
    return Outcome(rule.name, *(np.concatenate([getattr(one, name) for one in outcomes]) for name in arrays))


def _under_one_history(
    rule: Rule, world: World, rng: np.random.Generator, replications: int, how: Conditions
) -> Outcome:
    traffic = Traffic(world, rng, replications, latency=how.latency)
    history = traffic.history(LATENCY_SECONDS if how.latency else HISTORY_SECONDS)
    if not how.is_dispersed:
        # It aims the bets, and tells nothing of dispersion.
        history = {name: counts.sum(axis=(0, 1)) for name, counts in history.items()}
    running, reader = rule.start(replications, history), Reader(how.reading, rng)
    totals: list[dict[str, Array]] = [{}, {}]
    phase, seconds = np.full(replications, RUNNING), np.full(replications, math.inf)
    bad, exposed = np.zeros(replications), np.zeros(replications)
    for number in range(1, int(how.minutes * 60 / how.look) + 1):
        at, undecided = number * how.look, phase == RUNNING
        for total, fresh in zip(totals, traffic.look(at, how.look, running.share), strict=True):
            for name, cells in fresh.items():
                total[name] = total.get(name, 0) + cells
        fresh_canary = fresh["errors"]
        exposed += np.where(undecided, fresh_canary[:, 0], 0)
        bad += np.where(undecided, fresh_canary[:, 1], 0)
        now = running.observe(at, *reader.read(at, totals))
        ended = undecided & (now != RUNNING) & (now != ADVANCE)
        phase, seconds = np.where(ended, now, phase), np.where(ended, at, seconds)
        if (phase != RUNNING).all():
            break
    return Outcome(rule.name, phase, seconds, bad, exposed)
