"""Metrics whose tests are bet on together: one multiplication and one engine for all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from monitoring.judge.dispersion import Dispersion, unmeasured
from monitoring.judge.engine import Array, Bets, Block, EProcesses, Hypotheses, log_e_values
from monitoring.judge.live import LiveDispersion
from monitoring.judge.metrics import HARM, Comparison, Indices, Metric
from monitoring.judge.power import Power

if TYPE_CHECKING:
    from collections.abc import Mapping

HALF_LIFE = 1800.0
"""Seconds over which half of the mass for restarts is spent; geometric, so it never runs out."""


class Member(NamedTuple):
    """A metric, its tests, and the stable version's cells from which these were chosen, which repeats the choice."""

    metric: Metric
    comparison: Comparison
    known: Array


class Runs(NamedTuple):
    """Tests in an order in which those that are weighed together stand together.

    Attributes:
        order: of the tests.
        starts: where each run begins.
        log_sizes: of each run.
        firsts: the first run of each metric that has any.
        columns: these metrics' places in the evidence.
    """

    order: Indices
    starts: Indices
    log_sizes: Array
    firsts: Indices
    columns: Indices


class Group:
    """The e-processes of some metrics, for a batch of judges.

    Args:
        members: metrics that are all graded, then of one only, or all not.
        places: where each one's cells stand among all.
        columns: where each one's evidence stands among all metrics'.
        size: how many judges.
        needed: the log e-value of harm that decides.
        dispersions: of the stable version's counts, by metric.
        is_alone: whether each version has one server only.
    """

    def __init__(
        self, members: list[Member], places: list[slice], columns: list[int], size: int, needed: float,
        dispersions: Mapping[str, Dispersion], *, is_alone: bool = False,
    ) -> None:  # fmt: skip
        self._members = members
        self.names = [metric.name for metric, _, _ in members]
        parts = [comparison for _, comparison, _ in members]
        tests = Hypotheses.join([part.tests for part in parts])
        # Those with a closed form first; the others can then be had without a copy.
        order = np.argsort(tests.is_general, kind="stable")
        tests = tests.take(order)
        self._canary, self._stable, trials = (
            _diagonal([getattr(part, name) for part in parts])[:, order] for name in ("canary", "stable", "trials")
        )
        # From each arm's cells to its hits and trials, side by side.
        self._counts = np.stack([np.hstack([hits, trials]) for hits in (self._canary, self._stable)])
        self._cells = np.concatenate([np.arange(place.start, place.stop) for place in places])
        step, stratum = (np.concatenate([getattr(part, name) for part in parts])[order] for name in ("step", "stratum"))
        owner = np.repeat(columns, [len(part.tests) for part in parts])[order]
        self._is_harm = step == HARM
        self._harm = _runs(owner, np.where(self._is_harm, stratum, -1))
        self._harmless = _runs(owner, step)
        self.processes = EProcesses(tests, size)
        self.dispersions = [
            dispersions.get(name) or unmeasured(len(part.tests), "nothing is known of the stable version's past")
            for name, part in zip(self.names, parts, strict=True)
        ]
        self._order, self._owner, self._needed = order, owner, needed
        self._since_block = np.zeros(size)
        self._power = Power(len(tests), self.processes.alternatives) if size == 1 else None
        self._live, self._is_alone = LiveDispersion(size, len(tests)), is_alone
        self._temper()
        cells, nothing = np.concatenate([known for _, _, known in members])[None], np.zeros((1, len(tests)))
        self.processes.learn(Block(nothing, nothing, cells @ self._stable, cells @ trials))

    def bet(self, fresh: Array, passed: Array) -> None:
        """Take one look.

        Args:
            fresh: cells since the last look, of shape (arms, judges, cells), the canary's first.
            passed: seconds since the last look, for each judge.
        """
        arms = fresh[:, :, self._cells]
        canary, stable = arms @ self._counts
        tests = len(self._is_harm)
        block = Block(canary[:, :tests], canary[:, tests:], stable[:, :tests], stable[:, tests:])
        self.processes.spend(1 - 0.5 ** (passed / HALF_LIFE), self._is_harm)
        came, since = block.canary.max(axis=1), self._since_block + passed
        self.processes.at_least(self._live_phi(block))
        self.processes.pass_time(passed, np.divide(came, since, out=np.full(len(came), np.inf), where=since > 0))
        self._since_block = np.where(came > 0, 0.0, since)
        bets = self.processes.bets(block)
        graded = self._members[0].metric.graded
        if self._power is not None and not graded:
            self._power.add(bets, block)
        log_e = self._graded(bets, *arms) if graded else log_e_values(bets, block)
        self.processes.multiply(log_e)
        self.processes.learn(block)
        if not graded:
            self._live.add(passed, block.stable_hits, block.stable)

    def _live_phi(self, block: Block) -> Array:
        """φ of the canary's counts in a block: a bad moment of an only server fails as many more as it has requests."""
        if not self._is_alone:
            return self._live.phi
        part = np.divide(block.canary, block.stable, out=np.ones_like(block.canary), where=block.stable > block.canary)
        return np.asarray(1 + (self._live.phi - 1) * part)

    def restart(self, mass: Array) -> None:
        """Bet afresh on harm; `mass` of shape (judges,)."""
        self.processes.restart(mass[:, None] * self._is_harm)

    def weigh(self, log_harm: Array, log_harmless: Array) -> None:
        """Write down each metric's evidence: of harm, and for each step of none, the least of its tests.

        Args:
            log_harm: of shape (judges, metrics).
            log_harmless: of shape (judges, metrics, steps).
        """
        values, harm, harmless = self.processes.log_values, self._harm, self._harmless
        strata = np.logaddexp.reduceat(values[:, harm.order], harm.starts, axis=1) - harm.log_sizes
        log_harm[:, harm.columns] = np.add.reduceat(strata, harm.firsts, axis=1)
        if len(harmless.order):
            least = np.minimum.reduceat(values[:, harmless.order], harmless.starts, axis=1)
            log_harmless[:, harmless.columns] = least.reshape(len(least), len(harmless.columns), -1)

    def least_rate(self, column: int, needed: float) -> float | None:
        """Return the least rate of hits of the canary at which its harm is expected to be shown by now.

        Args:
            column: the metric's place in the evidence; it has one test for harm.
            needed: the log e-value.

        Returns:
            None where no rate would have been shown.
        """
        assert self._power is not None  # noqa: S101 - it is a batch of one
        (test,) = map(int, np.flatnonzero(self._is_harm & (self._owner == column)))
        if not self.processes.could_have_grown(test, needed):
            return None
        return self._power.least_rate(test, self.processes.needed(test, needed))

    def live_phi(self, column: int) -> float:
        """Return the largest φ that was measured since the shift began, of a metric's tests for harm.

        Args:
            column: the metric's place in the evidence.
        """
        return float(self._live.phi[0, self._is_harm & (self._owner == column)].max())

    def to_dict(self) -> dict[str, Any]:
        """The state, as JSON."""
        return {
            "power": self._power.to_dict() if self._power else None,
            "names": self.names, "known": [known.tolist() for _, _, known in self._members],
            "dispersions": [dispersion.to_dict() for dispersion in self.dispersions],
            "since_block": self._since_block.tolist(), "live": self._live.to_dict(),
            "processes": self.processes.to_dict(),
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `to_dict` stopped, bit for bit."""
        self.dispersions = [Dispersion.from_dict(known) for known in state["dispersions"]]
        self._since_block = np.array(state["since_block"])
        self._temper()
        self._live.restore(state["live"])
        self.processes.restore(state["processes"])
        if self._power is not None and state["power"] is not None:
            self._power.restore(state["power"])

    def _temper(self) -> None:
        phi, spread, has_bursts = (
            np.concatenate([getattr(one, name) for one in self.dispersions])[self._order]
            for name in ("phi", "spread", "has_bursts")
        )
        self.processes.temper(phi, spread, min(one.per_second for one in self.dispersions))
        self.processes.limit(np.where(has_bursts & self._is_harm, self._needed, np.inf))

    def _graded(self, bets: Bets, canary: Array, stable: Array) -> Array:
        """Log e-values where hits are shares v of a trial: v a/c + (1-v) (1-a)/(1-c) for each."""
        a, b, c, s = bets
        log_e = np.zeros_like(a)
        for cell in range(canary.shape[1]):
            of_canary, of_stable = self._canary[cell][:, None], self._stable[cell][:, None]
            log_e += canary[:, cell, None, None] * np.log(of_canary * a / c + (1 - of_canary) * (1 - a) / (1 - c))
            log_e += stable[:, cell, None, None] * np.log(of_stable * b / s + (1 - of_stable) * (1 - b) / (1 - s))
        return log_e


def _runs(owner: Indices, kinds: Indices) -> Runs:
    """Runs of the tests of one metric, `owner`, and one kind; those of kind -1 are left out."""
    order = np.array([test for test in np.lexsort((kinds, owner)) if kinds[test] >= 0], int)
    keys = np.stack([owner[order], kinds[order]])
    starts = np.flatnonzero(np.append(True, (np.diff(keys) != 0).any(axis=0))[: len(order)])
    owners, firsts = np.unique(keys[0, starts], return_index=True)
    return Runs(order, starts, np.log(np.diff([*starts, len(order)])), firsts, owners)


def _diagonal(blocks: list[Array]) -> Array:
    """Matrices along the diagonal of one."""
    whole = np.zeros((sum(len(block) for block in blocks), sum(block.shape[1] for block in blocks)))
    row = column = 0
    for block in blocks:
        whole[row : row + len(block), column : column + block.shape[1]] = block
        row, column = row + len(block), column + block.shape[1]
    return whole
