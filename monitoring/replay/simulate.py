"""A rule on many replications of simulated traffic."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from monitoring.judge.batch import ADVANCE, INCONCLUSIVE, PROMOTE, ROLLBACK, RUNNING
from monitoring.replay.traffic import Traffic, World

if TYPE_CHECKING:
    from monitoring.replay.rules import Rule

Array = np.ndarray[Any, Any]

HISTORY_SECONDS = 1800
"""How long the stable replicas are watched before the release, where a rule learns from them."""

HISTORIES = 8
"""What is learned from a history is a matter of chance too: as many are drawn, each for a part of the replications."""


@dataclass(frozen=True)
class Outcome:
    """How a rule did; arrays have one number a replication.

    Attributes:
        phase: how it ended: ROLLBACK, PROMOTE, INCONCLUSIVE, or RUNNING when the time was over.
        seconds: when; infinite while running.
        bad: failed requests of the canary until then.
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
        chosen = getattr(self, what)[self.phase == phase]
        return float(np.median(chosen)) if len(chosen) else math.nan


@dataclass(frozen=True)
class Trial:
    """A rule on a faulty canary, and on a good one under the same traffic."""

    rule: str
    faulty: Outcome
    good: Outcome


def trial(rule: Rule, world: World, **options: Any) -> Trial:  # noqa: ANN401 - those of simulate
    """Try a rule on a fault, and on the same canary without it."""
    good = replace(world, canary=world.stable, slower=1.0, tail=(0.0, 1.0))
    return Trial(rule.name, simulate(rule, world, **options), simulate(rule, good, **options))


def simulate(
    rule: Rule, world: World, *, replications: int, minutes: float = 60.0, look: float = 1.0, seed: int = 0,
    latency: bool = False, dispersion: bool = False,
) -> Outcome:  # fmt: skip
    """Try a rule.

    Args:
        rule: what decides.
        world: the traffic, and what is wrong with the canary.
        replications: how often.
        minutes: how long at most.
        look: seconds between looks.
        seed: of everything.
        latency: simulate latencies too.
        dispersion: give the rule the history of the stable version by replica, from which ours measures φ.
    """
    run = partial(
        _under_one_history, rule, world, minutes=minutes, look=look, latency=latency, dispersion=dispersion
    )  # fmt: skip
    if not dispersion:
        return run(np.random.default_rng(seed), replications)
    parts = np.array_split(np.arange(replications), min(HISTORIES, replications))
    chances = np.random.SeedSequence(seed).spawn(len(parts))
    outcomes = [
        run(np.random.default_rng(chance), len(part)) for part, chance in zip(parts, chances, strict=True)
    ]  # fmt: skip
    arrays = ("phase", "seconds", "bad", "exposed")
    return Outcome(rule.name, *(np.concatenate([getattr(one, name) for one in outcomes]) for name in arrays))


def _under_one_history(
    rule: Rule, world: World, rng: np.random.Generator, replications: int, *,
    minutes: float, look: float, latency: bool, dispersion: bool,
) -> Outcome:  # fmt: skip
    traffic = Traffic(world, rng, replications, latency=latency)
    history = traffic.history(HISTORY_SECONDS)
    if not dispersion:
        # As one replica: it aims the bets and tells nothing of dispersion.
        history = {name: counts.sum(axis=(0, 1))[None, None] for name, counts in history.items()}
    running = rule.start(replications, history)
    totals: list[dict[str, Array]] = [{}, {}]
    phase, seconds = np.full(replications, RUNNING), np.full(replications, math.inf)
    bad, exposed = np.zeros(replications), np.zeros(replications)
    for number in range(1, int(minutes * 60 / look) + 1):
        at, undecided = number * look, phase == RUNNING
        for total, fresh in zip(totals, traffic.look(at, look, running.share), strict=True):
            for name, cells in fresh.items():
                total[name] = total.get(name, 0) + cells
        fresh_canary = fresh["errors"]
        exposed += np.where(undecided, fresh_canary[:, 0], 0)
        bad += np.where(undecided, fresh_canary[:, 1], 0)
        now = running.observe(at, *totals)
        ended = undecided & (now != RUNNING) & (now != ADVANCE)
        phase, seconds = np.where(ended, now, phase), np.where(ended, at, seconds)
        if (phase != RUNNING).all():
            break
    return Outcome(rule.name, phase, seconds, bad, exposed)
