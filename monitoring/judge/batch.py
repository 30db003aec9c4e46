"""The judge's arithmetic, for many judges at a time: counters in, evidence and phases out; no words.

`SequentialJudge` is a batch of one that speaks. A simulation, or a process that watches many endpoints, uses the
batch itself.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from monitoring.judge import paired
from monitoring.judge.dispersion import measure
from monitoring.judge.engine import Array, log_mean
from monitoring.judge.group import Group, Member
from monitoring.judge.metrics import HARM, Disagreement, Latency, Metric, margin_scales

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from monitoring.judge.dispersion import Dispersion
    from monitoring.judge.policy import Policy

Flags = np.ndarray[Any, np.dtype[np.bool_]]

RUNNING, ADVANCE, ROLLBACK, PROMOTE, INCONCLUSIVE = range(5)

ARMS = ("canary", "stable")

LEAST_BLOCK = 20
"""Requests of both arms together, in a block of counts that is bet on."""

STEP_MASS = 0.2
"""Share of the mass that is given out, all in all, when steps begin: that is when versions break."""


class Evidence:
    """Log e-values after a look, of M metrics and B judges; a metric that is waited for has none.

    Attributes:
        names: of the metrics, in order.
        log_harm: of shape (B, M).
        log_harmless: the least of the tests that the end of each step needs, of shape (B, M, steps); infinite for a
            metric that no step waits for.
    """

    def __init__(self, names: Sequence[str], size: int, steps: int) -> None:
        self.names = tuple(names)
        self.log_harm = np.zeros((size, len(self.names)))
        self.log_harmless = np.zeros((size, len(self.names), steps))

    @property
    def harm(self) -> dict[str, Array]:
        """By metric, of shape (B,)."""
        return dict(zip(self.names, self.log_harm.T, strict=True))

    @property
    def harmless(self) -> dict[str, Array]:
        """By metric that a step waits for, of shape (B, steps)."""
        values = dict(zip(self.names, self.log_harmless.swapaxes(0, 1), strict=True))
        return {name: value for name, value in values.items() if np.isfinite(value).any()}


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
        self.now, self.paused = np.zeros(size), np.zeros(size)
        self.step_began = np.zeros(size)
        self.step_requests = np.zeros(size)
        self.evidence = Evidence([metric.name for metric in policy.metrics], size, len(policy.shares))
        self.log_harm = np.zeros(size)
        self.log_peak = np.zeros(size)
        # One array for both arms, of which each metric's cells are a part.
        ends = np.cumsum([metric.cells for metric in policy.metrics])
        self._places = {
            metric.name: slice(end - metric.cells, end) for metric, end in zip(policy.metrics, ends, strict=True)
        }
        self._totals, self._last, self._pending = (np.zeros((len(ARMS), size, ends[-1])) for _ in range(3))
        self._starts = ends - [metric.cells for metric in policy.metrics]
        self._widths = np.array([metric.cells for metric in policy.metrics])
        self._pairs = np.array([metric.pairs for metric in policy.metrics])
        self._known = {metric.name: np.zeros((1, metric.cells)) for metric in policy.metrics}
        self._groups: list[Group] = []
        self._waiting: list[Metric] = [one for one in policy.metrics if not isinstance(one, Disagreement)]
        self._paired = [(at, one) for at, one in enumerate(policy.metrics) if isinstance(one, Disagreement)]
        self._dispersions: dict[str, Dispersion] = {}

    @property
    def total(self) -> dict[str, dict[str, Array]]:
        """By arm and metric, the cells that were counted since the shift began, of shape (judges, cells)."""
        return {
            arm: {name: cells[:, place] for name, place in self._places.items()}
            for arm, cells in zip(ARMS, self._totals, strict=True)
        }

    def warm_up(self, history: Mapping[str, Any]) -> None:
        """Learn the stable version's rates before the release; nothing of it is evidence.

        Args:
            history: by metric, its cells, or more than one row of them: of shape (…, cells). The tests are chosen by
                their sum.
        """
        for name, counts in history.items():
            cells = np.asarray(counts, float)
            self._known[name] += cells.reshape(-1, cells.shape[-1]).sum(axis=0)

    def measure(self, past: Mapping[str, Any], *, is_alone: bool = True, sample: float = 1.0) -> None:
        """Measure how much the stable version's counts vary; after `warm_up`, by which the tests are chosen.

        Args:
            past: by metric, counts of one second each, of shape (seconds, servers, cells).
            is_alone: whether counts of one server are of the version's only one.
            sample: the share of the requests that `past` has.
        """
        for name, counts in past.items():
            metric = next(one for one in self._waiting if one.name == name)
            comparison = metric.compare(self._known[name][0], self.scales)
            if comparison is not None:
                cells = np.asarray(counts, float)
                found = measure(cells @ comparison.stable, cells @ comparison.trials, is_alone=is_alone, sample=sample)
                if isinstance(metric, Latency):
                    # Stalls make a version that is no slower wait for hours for its proof.
                    found = found.of_harm(comparison.step == HARM)
                self.disperse({name: found})

    def disperse(self, dispersions: Mapping[str, Dispersion]) -> None:
        """Say how much the stable version's counts vary, by metric; before the first look."""
        self._dispersions |= dispersions

    @property
    def dispersions(self) -> dict[str, Dispersion]:
        """How much the stable version's counts vary, by metric, as far as it was measured."""
        return dict(self._dispersions)

    def begin(self, stable: Mapping[str, Any], canary: Mapping[str, Any]) -> None:
        """Where the cumulative counters stand when the shift begins."""
        self._last = self._read(stable, canary)

    def observe(
        self, at: Array | float, stable: Mapping[str, Any], canary: Mapping[str, Any], *, paused: bool = False
    ) -> Array:
        """Take one look.

        Args:
            at: seconds since the shift began; a clock that was set back stands still.
            stable: by metric, cumulative counters of shape (cells,) or (judges, cells). A metric that is missing, or
                an arm without requests, is waited for. A counter that fell began again at zero. A metric's counts
                are bet on once both arms have requests, LEAST_BLOCK together, and no more failures than requests.
            canary: the same.
            paused: stay in the present step; only harm ends it, and the time does not count towards the end.

        Returns:
            The phase of each judge; one that has decided stays so.
        """
        now = np.maximum(self.now, at)
        passed, self.now = now - self.now, now
        fresh = self._difference(self._read(stable, canary))
        self._pending += fresh
        if self._waiting:
            self._choose_tests()
        self._bet(self._is_block(LEAST_BLOCK), passed)
        for metric in self._waiting:
            place = self._places[metric.name]
            self._known[metric.name] += fresh[1, :, place].sum(axis=0)
            # What the tests are chosen by is no evidence for them.
            self._pending[:, :, place] = 0
        self._weigh()
        if paused:
            self.paused = self.paused + passed
        self._decide(paused=paused)
        return self.phase

    def impossible(self, name: str) -> dict[str, tuple[int, int]]:
        """The first judge's arms whose present block has more failures than requests: failures and requests of each."""
        place = self._places[name]
        counts = {arm: cells[0, place] for arm, cells in zip(ARMS, self._pending, strict=True)}
        return {arm: (round(hits), round(trials)) for arm, (trials, hits) in counts.items() if hits > trials}

    def _is_block(self, least: int) -> Flags:
        """Whether the counts since the last block are one, of shape (judges, metrics).

        Its end depends on numbers of requests alone, and not on what they were answered: else the e-value of a block
        would not be one. Counts of which more failed than there were requests are no block yet: failures of a series
        that is read before that of its requests.
        """
        sums = np.add.reduceat(self._pending, self._starts, axis=-1)
        firsts = self._pending[..., self._starts]
        trials = np.where(self._pairs, firsts, sums)
        possible = ~self._pairs | (sums - firsts <= firsts)
        return np.asarray((trials.min(axis=0) > 0) & (trials.sum(axis=0) >= least) & possible.all(axis=0))

    def _bet(self, where: Flags, passed: Array) -> None:
        """Bet on the counts since the last block, where they are one; `where` is of shape (judges, metrics)."""
        block = np.where(np.repeat(where, self._widths, axis=1), self._pending, 0.0)
        self._pending -= block
        for group in self._groups:
            group.bet(block, passed)

    def _read(self, stable: Mapping[str, Any], canary: Mapping[str, Any]) -> Array:
        """Cumulative cells of both arms; those of a metric that is missing stand still."""
        read = self._last.copy()
        for arm, counters in enumerate((canary, stable)):
            for name, cells in counters.items():
                read[arm, :, self._places[name]] = cells
        return read

    def _difference(self, read: Array) -> Array:
        since = read - self._last
        if since.min() < 0:
            for place in self._places.values():
                fell = (since[..., place] < 0).any(axis=-1, keepdims=True)
                since[..., place] = np.where(fell, read[..., place], since[..., place])
        self._last = read
        self._totals += since
        return since

    def _choose_tests(self) -> None:
        """Groups of the metrics that can be compared by now, from what was known before this look."""
        for graded in (False, True):
            ready = []
            for metric in (one for one in self._waiting if one.graded is graded):
                known = self._known[metric.name][0]
                comparison = metric.compare(known, self.scales)
                if comparison is not None:
                    ready.append(Member(metric, comparison, known))
            # Hits of graded metrics are shares of a trial, each metric's its own; they cannot be joined.
            for members in [[one] for one in ready] if graded else [ready] if ready else []:
                self._form(members)

    def _form(self, members: list[Member]) -> Group:
        places = [self._places[metric.name] for metric, _, _ in members]
        columns = [self.evidence.names.index(metric.name) for metric, _, _ in members]
        # Harm is the mean of all metrics' e-values.
        needed = self.policy.needed + math.log(len(self.policy.metrics))
        group = Group(members, places, columns, self.size, needed, self._dispersions, is_alone=self.policy.is_alone)
        # A metric without tests of no harm keeps no step waiting; the others write theirs at each look.
        self.evidence.log_harmless[:, columns] = np.inf
        self._groups.append(group)
        self._waiting = [metric for metric in self._waiting if metric.name not in group.names]
        return group

    def _weigh(self) -> None:
        evidence = self.evidence
        for group in self._groups:
            group.weigh(evidence.log_harm, evidence.log_harmless)
        for place, metric in self._paired:
            counts = self._totals[0, :, self._places[metric.name]].astype(int).tolist()
            limit = metric.tolerance
            evidence.log_harm[:, place] = [paired.log_excess(hits, pairs, limit) for pairs, hits in counts]
            shown = np.array([paired.log_shortfall(hits, pairs, limit) for pairs, hits in counts])
            evidence.log_harmless[:, place] = shown[:, None]
        self.log_harm = log_mean(evidence.log_harm)
        self.log_peak = np.maximum(self.log_peak, self.log_harm)

    @property
    def requests(self) -> Array:
        """Requests of the canary so far, by the policy's first metric."""
        metric = self.policy.metrics[0]
        cells = self._totals[0, :, self._places[metric.name]]
        return np.asarray(cells[:, 0] if metric.pairs else cells.sum(axis=-1))

    def is_harmless(self) -> Flags:
        """Whether every metric's non-inferiority is shown at the present step's margins, of shape (judges,)."""
        shown = self.evidence.log_harmless[self._every, :, self.step]
        return np.asarray(shown.min(axis=-1) >= self.policy.needed_to_promote)

    def undispersed(self) -> list[str]:
        """Why the dispersion of the stable version's replicas was not measured, where it was not."""
        reasons = (dispersion.why_not for group in self._groups for dispersion in group.dispersions)
        return list(dict.fromkeys(reason for reason in reasons if reason))

    def dispersion_of(self, name: str) -> float:
        """What a metric's evidence of harm is divided by at most; 1 where it is not known."""
        group = self._group_of(name)
        return 1.0 if group is None else float(group.dispersions[group.names.index(name)].spread.max())

    def live_dispersion(self) -> tuple[float, str]:
        """Return the largest φ that was measured since the shift began, and of which metric; 1 where none was."""
        found = [
            (group.live_phi(self.evidence.names.index(name)), name) for group in self._groups for name in group.names
        ]
        return max(found, default=(1.0, ""))

    def past_of(self, name: str) -> tuple[float, bool]:
        """Return how many seconds of servers a metric's dispersion is known from, and whether there were bursts."""
        group = self._group_of(name)
        if group is None:
            return 0.0, False
        known = group.dispersions[group.names.index(name)]
        return known.known_seconds, bool(known.has_bursts.any())

    def _group_of(self, name: str) -> Group | None:
        return next((group for group in self._groups if name in group.names), None)

    def least_rate(self, name: str) -> float | None:
        """Return the least failure rate of a judge's canary that is expected to be shown by now, of a batch of one.

        Args:
            name: of an error rate.

        Returns:
            None where no rate would have been shown.
        """
        column = self.evidence.names.index(name)
        group = self._group_of(name)
        # The evidence is the mean over all metrics; the others are expected to show nothing.
        return group.least_rate(column, self.policy.needed + math.log(len(self.evidence.names))) if group else None

    def _decide(self, *, paused: bool) -> None:
        policy = self.policy
        harmful, is_over = self.log_harm >= policy.needed, self.now - self.paused >= policy.max_duration
        harmless = self.is_harmless()
        running = (self.phase == RUNNING) | (self.phase == ADVANCE)
        step_done = harmless if policy.ramp == "evidence" else self._is_due()
        due = harmful if paused else step_done | harmful | is_over
        if not (due & running).any():
            self.phase = np.where(running, RUNNING, self.phase)
            return
        last, requests = self.step == len(policy.shares) - 1, self.requests
        enough = (requests >= policy.min_requests) & (self.now >= policy.min_duration)
        # What stands lower outweighs what stands above it.
        verdict = np.full(self.size, RUNNING)
        if not paused:
            verdict[is_over] = INCONCLUSIVE
            verdict[step_done & ~last] = ADVANCE
            verdict[step_done & last & harmless & enough] = PROMOTE
        verdict[harmful] = ROLLBACK
        self.phase = np.where(running, verdict, self.phase)
        advanced = running & (verdict == ADVANCE)
        if advanced.any():
            self.step = self.step + advanced
            self.step_began = np.where(advanced, self.now, self.step_began)
            self.step_requests = np.where(advanced, requests, self.step_requests)
            self.begin_step(advanced)

    def _is_due(self) -> Flags:
        """Whether the present step has had its part of the requests and of the time, of shape (judges,)."""
        policy, shares = self.policy, np.array(self.policy.shares)
        part = policy.min_requests * shares[self.step] / shares.sum()
        due = self.step_began + policy.min_duration / len(shares)
        return np.asarray((self.requests - self.step_requests >= part) & (self.now >= due))

    def begin_step(self, where: Flags) -> None:
        """Bet afresh, as versions break when their traffic grows; `where` says for which judges.

        A block has one split of traffic: what was counted in the last step, however little, is one, or is left out
        where an arm had no request.
        """
        self._bet(self._is_block(1) & where[:, None], np.zeros(self.size))
        self._pending[:, where] = 0
        mass = np.where(where, STEP_MASS / max(len(self.policy.shares) - 1, 1), 0.0)
        for group in self._groups:
            group.restart(mass)

    def to_dict(self) -> dict[str, Any]:
        """The state, as JSON."""
        arrays = ("step", "phase", "now", "paused", "step_began", "step_requests", "log_harm", "log_peak")
        return {
            **{name: getattr(self, name).tolist() for name in arrays},
            "total": self._totals.tolist(), "last": self._last.tolist(), "pending": self._pending.tolist(),
            "known": {name: cells.tolist() for name, cells in self._known.items()},
            "groups": [group.to_dict() for group in self._groups],
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `to_dict` stopped, bit for bit."""
        for name in ("step", "phase", "now", "paused", "step_began", "step_requests", "log_harm", "log_peak"):
            setattr(self, name, np.array(state[name]))
        self._totals, self._last, self._pending = (np.array(state[name]) for name in ("total", "last", "pending"))
        self._known = {name: np.array(cells) for name, cells in state["known"].items()}
        by_name = {metric.name: metric for metric in self._waiting}
        for saved in state["groups"]:
            members = []
            for name, known in zip(saved["names"], saved["known"], strict=True):
                comparison = by_name[name].compare(np.array(known), self.scales)
                assert comparison is not None  # noqa: S101 - it was chosen from the same cells
                members.append(Member(by_name[name], comparison, np.array(known)))
            self._form(members).restore(saved)
        self._weigh()
