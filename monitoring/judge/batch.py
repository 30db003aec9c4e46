"""The judge's arithmetic, for many judges at a time: counters in, evidence and phases out; no words.

`SequentialJudge` is a batch of one that speaks. A simulation, or a process that watches many endpoints, uses the
batch itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from monitoring.judge import paired
from monitoring.judge.dispersion import Dispersion, measure, unmeasured
from monitoring.judge.engine import Array, Bets, Block, EProcesses, Hypotheses, log_e_values
from monitoring.judge.metrics import HARM, Comparison, Disagreement, ErrorRate, Indices, Metric, margin_scales

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

RUNNING, ADVANCE, ROLLBACK, PROMOTE, INCONCLUSIVE = range(5)

HALF_LIFE = 1800.0
"""Seconds over which half of the mass for restarts is spent; geometric, so it never runs out."""

STEP_MASS = 0.2
"""Share of the mass that is given out, all in all, when steps begin: that is when versions break."""


@dataclass(frozen=True)
class Policy:
    """When to act on the evidence.

    Attributes:
        metrics: what is compared.
        alpha: the chance of a false rollback, over the whole release and all metrics.
        alpha_promote: the chance of promoting a canary that is at the margin or beyond.
        shares: the canary's share of traffic at each step.
        ramp: `evidence`: a step ends when its non-inferiority is shown; `schedule`: when its part of the requests and
            the time has passed.
        min_requests: of the canary, before promotion.
        min_duration: seconds before promotion.
        max_duration: seconds after which the judge gives up.
    """

    metrics: Sequence[Metric | Disagreement]
    alpha: float = 0.01
    alpha_promote: float = 0.05
    shares: tuple[float, ...] = (0.05, 0.25, 0.50)
    ramp: str = "evidence"
    min_requests: int = 1000
    min_duration: float = 180.0
    max_duration: float = 3600.0

    @property
    def needed(self) -> float:
        """Log evidence at which the canary is taken back."""
        return -math.log(self.alpha)

    @property
    def needed_to_promote(self) -> float:
        """Log evidence of non-inferiority, for each test."""
        return -math.log(self.alpha_promote)


class Places(NamedTuple):
    """Where a metric's tests are: those for harm by stratum, and those for the end of each step, (steps, tests)."""

    harm: list[Indices]
    harmless: Indices


@dataclass
class _Group:
    """Metrics whose tests are bet on together."""

    names: list[str]
    places: dict[str, Places]
    comparison: Comparison
    processes: EProcesses
    dispersion: Dispersion
    graded: bool
    known: list[list[float]]
    """The stable version's cells when the tests were chosen, which repeats the choice."""


@dataclass
class Evidence:
    """Log e-values after a look; B judges.

    Attributes:
        harm: by metric, of shape (B,).
        harmless: by metric, of shape (B, steps): the least of the tests that the end of each step needs.
    """

    harm: dict[str, Array] = field(default_factory=dict)
    harmless: dict[str, Array] = field(default_factory=dict)


class JudgeBatch:
    """Judges of the same policy.

    Args:
        policy: when to act, and on what.
        size: how many.
    """

    def __init__(self, policy: Policy, size: int = 1) -> None:
        self.policy, self.size = policy, size
        self.scales = margin_scales(policy.shares)
        self._every = np.arange(size)
        self.step = np.zeros(size, int)
        self.phase = np.full(size, RUNNING)
        self.now = np.zeros(size)
        self.step_began = np.zeros(size)
        self.step_requests = np.zeros(size)
        self.evidence = Evidence()
        self.log_harm = np.zeros(size)
        self.log_peak = np.zeros(size)
        self.total = {arm: self._zeros() for arm in ("canary", "stable")}
        self._last = {arm: self._zeros() for arm in ("canary", "stable")}
        self._known = self._zeros(1)
        self._groups: list[_Group] = []
        self._history: Mapping[str, Array] = {}

    def _zeros(self, size: int | None = None) -> dict[str, Array]:
        return {metric.name: np.zeros((size or self.size, metric.cells)) for metric in self.policy.metrics}

    def warm_up(self, history: Mapping[str, Any]) -> None:
        """Learn from the stable version before the release; nothing of it is evidence.

        Args:
            history: by metric, counts of shape (rows, replicas, cells); a row is one look's length of time.
        """
        self._history = {name: np.asarray(counts, float) for name, counts in history.items()}
        for name, counts in self._history.items():
            self._known[name] += counts.sum(axis=(0, 1))

    def begin(self, stable: Mapping[str, Any], canary: Mapping[str, Any]) -> None:
        """Where the cumulative counters stand when the shift begins."""
        for arm, counters in (("stable", stable), ("canary", canary)):
            for name, cells in counters.items():
                self._last[arm][name] = self._shaped(cells)

    def observe(self, at: Array | float, stable: Mapping[str, Any], canary: Mapping[str, Any]) -> Array:
        """Take one look.

        Args:
            at: seconds since the shift began; a clock that was set back stands still.
            stable: by metric, cumulative counters of shape (cells,) or (judges, cells). A metric that is missing, or
                an arm without requests, is waited for. A counter that fell began again at zero.
            canary: the same.

        Returns:
            The phase of each judge; one that has decided stays so.
        """
        now = np.maximum(self.now, at)
        passed, self.now = now - self.now, now
        fresh = {arm: self._difference(arm, counters) for arm, counters in (("stable", stable), ("canary", canary))}
        self._choose_tests()
        for group in self._groups:
            self._bet(group, fresh["stable"], fresh["canary"], passed)
        self._weigh()
        self._decide()
        return self.phase

    def _shaped(self, cells: Any) -> Array:  # noqa: ANN401 - what NumPy makes an array of
        # A copy: the caller may count on in the same array.
        read = np.array(cells, float, ndmin=2)
        return read if len(read) == self.size else np.repeat(read, self.size, axis=0)

    def _difference(self, arm: str, counters: Mapping[str, Any]) -> dict[str, Array]:
        fresh = {}
        for metric in self.policy.metrics:
            name = metric.name
            if name not in counters:
                fresh[name] = np.zeros((self.size, metric.cells))
                continue
            read = self._shaped(counters[name])
            since = read - self._last[arm][name]
            if since.min() < 0:
                since = np.where((since < 0).any(axis=-1, keepdims=True), read, since)
            fresh[name] = since
            self._last[arm][name] = read
            self.total[arm][name] = self.total[arm][name] + since
        return fresh

    def _choose_tests(self) -> None:
        """Groups of the metrics that can be compared by now, from what was known before this look."""
        chosen = {name for group in self._groups for name in group.names}
        waiting = [m for m in self.policy.metrics if not isinstance(m, Disagreement) and m.name not in chosen]
        for graded in (False, True):
            ready: list[tuple[Metric, Comparison, Array]] = []
            for metric in (m for m in waiting if m.graded is graded):
                known = self._known[metric.name][0]
                comparison = metric.compare(known, self.scales)
                if comparison is not None:
                    ready.append((metric, comparison, known))
            # Hits of graded metrics are shares of a trial each its own; they cannot be joined.
            for members in [[one] for one in ready] if graded else [ready] if ready else []:
                self._groups.append(self._group(members, graded=graded))
        for metric in waiting:
            self._known[metric.name] = self._known[metric.name] + self._last["stable"][metric.name].sum(axis=0)

    def _group(self, members: list[tuple[Metric, Comparison, Array]], *, graded: bool) -> _Group:
        comparisons = [comparison for _, comparison, _ in members]
        tests = Hypotheses.join([comparison.tests for comparison in comparisons])
        maps = {name: _diagonal([getattr(c, name) for c in comparisons]) for name in ("canary", "stable", "trials")}
        joined = Comparison(
            tests, **maps,
            step=np.concatenate([c.step for c in comparisons]),
            stratum=np.concatenate([c.stratum for c in comparisons]),
        )  # fmt: skip
        names = [metric.name for metric, _, _ in members]
        group = _Group(
            names, self._places(names, comparisons), joined, EProcesses(tests, self.size),
            self._dispersion(names, joined), graded, [k.tolist() for _, _, k in members],
        )  # fmt: skip
        cells = np.concatenate([known for _, _, known in members])
        nothing = np.zeros((1, len(tests)))
        group.processes.know(Block(nothing, nothing, cells @ joined.stable, cells @ joined.trials))
        return group

    def _places(self, names: list[str], comparisons: list[Comparison]) -> dict[str, Places]:
        places, start = {}, 0
        for name, own in zip(names, comparisons, strict=True):
            number = np.arange(start, start + len(own.step))
            strata = [number[(own.step == HARM) & (own.stratum == one)] for one in range(own.stratum.max() + 1)]
            steps = [number[own.step == one] for one in range(len(self.policy.shares))]
            places[name] = Places(strata, np.array(steps, int))
            start += len(own.step)
        return places

    def _dispersion(self, names: list[str], comparison: Comparison) -> Dispersion:
        if not all(name in self._history for name in names):
            return unmeasured(len(comparison.tests), "there is no history of the stable version's replicas")
        rows = np.concatenate([self._history[name] for name in names], axis=-1)
        return measure(rows @ comparison.stable, rows @ comparison.trials)

    def _bet(self, group: _Group, stable: dict[str, Array], canary: dict[str, Array], passed: Array) -> None:
        of_canary = np.concatenate([canary[name] for name in group.names], axis=-1)
        of_stable = np.concatenate([stable[name] for name in group.names], axis=-1)
        comparison, processes = group.comparison, group.processes
        block = Block(
            of_canary @ comparison.canary, of_canary @ comparison.trials,
            of_stable @ comparison.stable, of_stable @ comparison.trials,
        )  # fmt: skip
        processes.spend(1 - 0.5 ** (passed / HALF_LIFE), comparison.step == HARM)
        bets = processes.bets(block)
        log_e = _graded(bets, comparison, of_canary, of_stable) if group.graded else log_e_values(bets, block)
        processes.multiply(log_e, group.dispersion.phi)
        processes.learn(block)

    def _weigh(self) -> None:
        evidence, steps = Evidence(), len(self.policy.shares)
        for group in self._groups:
            values = group.processes.log_values
            for name, (harm, harmless) in group.places.items():
                parts = [_log_mean(values[:, stratum]) for stratum in harm]
                evidence.harm[name] = parts[0] if len(parts) == 1 else np.sum(parts, axis=0)
                if harmless.size:
                    evidence.harmless[name] = values[:, harmless].min(axis=2)
        for metric in self.policy.metrics:
            if isinstance(metric, Disagreement):
                counts = self.total["canary"][metric.name]
                evidence.harm[metric.name] = np.array(
                    [paired.log_excess(int(hits), int(pairs), metric.tolerance) for pairs, hits in counts]
                )
                shown = [paired.log_shortfall(int(hits), int(pairs), metric.tolerance) for pairs, hits in counts]
                evidence.harmless[metric.name] = np.repeat(np.array(shown)[:, None], steps, axis=1)
            elif metric.name not in evidence.harm:
                evidence.harm[metric.name] = np.zeros(self.size)
                evidence.harmless[metric.name] = np.zeros((self.size, steps))
        self.evidence = evidence
        self.log_harm = _log_mean(np.stack(list(evidence.harm.values()), axis=-1))
        self.log_peak = np.maximum(self.log_peak, self.log_harm)

    @property
    def requests(self) -> Array:
        """Requests of the canary so far, by the policy's first metric."""
        metric = self.policy.metrics[0]
        cells = self.total["canary"][metric.name]
        return np.asarray(cells[:, 0] if isinstance(metric, ErrorRate | Disagreement) else cells.sum(axis=-1))

    def is_harmless(self) -> Array:
        """Whether every metric's non-inferiority is shown at the present step's margins, of shape (judges,)."""
        harmless = np.ones(self.size, bool)
        for values in self.evidence.harmless.values():
            harmless &= values[self._every, self.step] >= self.policy.needed_to_promote
        return harmless

    def undispersed(self) -> list[str]:
        """Why the dispersion of the stable version's replicas was not measured, where it was not."""
        reasons = (group.dispersion.why_not for group in self._groups)
        return list(dict.fromkeys(reason for reason in reasons if reason))

    def dispersion_of(self, name: str) -> float:
        """The largest φ of a metric's tests."""
        for group in self._groups:
            if name in group.places:
                return max(float(group.dispersion.phi[stratum].max()) for stratum in group.places[name].harm)
        return 1.0

    def _decide(self) -> None:
        policy, requests = self.policy, self.requests
        last = self.step == len(policy.shares) - 1
        harmless = self.is_harmless()
        if policy.ramp == "evidence":
            step_done = harmless
        else:
            part = policy.min_requests * np.array(policy.shares)[self.step] / sum(policy.shares)
            due = self.step_began + policy.min_duration / len(policy.shares)
            step_done = np.logical_and(requests - self.step_requests >= part, self.now >= due)
        enough = (requests >= policy.min_requests) & (self.now >= policy.min_duration)
        running = (self.phase == RUNNING) | (self.phase == ADVANCE)
        verdict = np.where(self.now >= policy.max_duration, INCONCLUSIVE, RUNNING)
        verdict = np.where(step_done & ~last, ADVANCE, verdict)
        verdict = np.where(step_done & last & harmless & enough, PROMOTE, verdict)
        verdict = np.where(self.log_harm >= policy.needed, ROLLBACK, verdict)
        self.phase = np.where(running, verdict, self.phase)
        advanced = running & (verdict == ADVANCE)
        if advanced.any():
            self.step = self.step + advanced
            self.step_began = np.where(advanced, self.now, self.step_began)
            self.step_requests = np.where(advanced, requests, self.step_requests)
            self.begin_step(advanced)

    def begin_step(self, where: Array) -> None:
        """Bet afresh, as versions break when their traffic grows; `where` says for which judges."""
        mass = np.where(where, STEP_MASS / max(len(self.policy.shares) - 1, 1), 0.0)[:, None]
        for group in self._groups:
            group.processes.restart(mass * (group.comparison.step == HARM))

    def to_dict(self) -> dict[str, Any]:
        """The state, as JSON."""
        arrays = ("step", "phase", "now", "step_began", "step_requests", "log_harm", "log_peak")
        return {
            **{name: getattr(self, name).tolist() for name in arrays},
            "total": _lists(self.total), "last": _lists(self._last), "known": _lists({"": self._known})[""],
            "groups": [
                {"names": group.names, "known": group.known, "phi": group.dispersion.phi.tolist(),
                 "why_not": group.dispersion.why_not, "processes": group.processes.to_dict()}
                for group in self._groups
            ],
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `to_dict` stopped, bit for bit."""
        for name in ("step", "phase", "now", "step_began", "step_requests", "log_harm", "log_peak"):
            setattr(self, name, np.array(state[name]))
        self.total, self._last = ({arm: _arrays(cells) for arm, cells in state[name].items()} for name in
                                  ("total", "last"))  # fmt: skip
        self._known = _arrays(state["known"])
        by_name = {metric.name: metric for metric in self.policy.metrics if not isinstance(metric, Disagreement)}
        self._groups = []
        for saved in state["groups"]:
            members = []
            for name, known in zip(saved["names"], saved["known"], strict=True):
                comparison = by_name[name].compare(np.array(known), self.scales)
                assert comparison is not None  # noqa: S101 - it was chosen from the same cells
                members.append((by_name[name], comparison, np.array(known)))
            group = self._group(members, graded=by_name[saved["names"][0]].graded)
            group.dispersion = Dispersion(np.array(saved["phi"]), saved["why_not"])
            group.processes.restore(saved["processes"])
            self._groups.append(group)
        self._weigh()


def _graded(bets: Bets, comparison: Comparison, canary: Array, stable: Array) -> Array:
    """Log e-values where hits are shares v of a trial: v a/c + (1-v) (1-a)/(1-c) each, of shape (judges, tests, K)."""
    a, b, c, s = bets
    log_e = np.zeros_like(a)
    for cell in range(canary.shape[1]):
        of_canary, of_stable = comparison.canary[cell][:, None], comparison.stable[cell][:, None]
        log_e += canary[:, cell, None, None] * np.log(of_canary * a / c + (1 - of_canary) * (1 - a) / (1 - c))
        log_e += stable[:, cell, None, None] * np.log(of_stable * b / s + (1 - of_stable) * (1 - b) / (1 - s))
    return log_e


def _log_mean(values: Array) -> Array:
    """Of the last axis."""
    return np.asarray(np.logaddexp.reduce(values, axis=-1) - math.log(values.shape[-1]))


def _diagonal(blocks: list[Array]) -> Array:
    """Matrices along the diagonal of one."""
    whole = np.zeros((sum(len(block) for block in blocks), sum(block.shape[1] for block in blocks)))
    row = column = 0
    for block in blocks:
        whole[row : row + len(block), column : column + block.shape[1]] = block
        row, column = row + len(block), column + block.shape[1]
    return whole


def _lists(arms: dict[str, dict[str, Array]]) -> dict[str, dict[str, Any]]:
    return {arm: {name: cells.tolist() for name, cells in by_name.items()} for arm, by_name in arms.items()}


def _arrays(by_name: dict[str, Any]) -> dict[str, Array]:
    return {name: np.array(cells) for name, cells in by_name.items()}
