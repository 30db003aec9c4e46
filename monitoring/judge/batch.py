"""The judge's arithmetic, for many judges at a time: counters in, evidence and phases out; no words.

`SequentialJudge` is a batch of one that speaks. A simulation, or a process that watches many endpoints, uses the
batch itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from monitoring.judge import paired
from monitoring.judge.engine import Array, log_mean
from monitoring.judge.group import Group, Member
from monitoring.judge.metrics import Disagreement, ErrorRate, Metric, MetricError, PredictionShift, margin_scales

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Flags = np.ndarray[Any, np.dtype[np.bool_]]

RUNNING, ADVANCE, ROLLBACK, PROMOTE, INCONCLUSIVE = range(5)

ARMS = ("canary", "stable")

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

    def __post_init__(self) -> None:
        names = [metric.name for metric in self.metrics]
        if not names or len(set(names)) < len(names):
            raise MetricError(f"a policy has metrics, each with a name of its own, not {names}")
        if all(isinstance(metric, PredictionShift) for metric in self.metrics):
            raise MetricError("a shift of predictions alone never shows that there is no harm; add ErrorRate, say")
        if not (0 < self.alpha < 1 and 0 < self.alpha_promote < 1):
            raise MetricError(
                f"alpha and alpha_promote are between 0 and 1, not {self.alpha:g}, {self.alpha_promote:g}"
            )
        if not self.shares or list(self.shares) != sorted(set(self.shares)) or not 0 < self.shares[0] <= 1:
            raise MetricError(f"shares rise from above 0, not {self.shares}")
        if self.ramp not in {"evidence", "schedule"}:
            raise MetricError(f"ramp is `evidence` or `schedule`, not {self.ramp!r}")

    @property
    def needed(self) -> float:
        """Log evidence at which the canary is taken back."""
        return -math.log(self.alpha)

    @property
    def needed_to_promote(self) -> float:
        """Log evidence of non-inferiority, for each test."""
        return -math.log(self.alpha_promote)


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
        self._totals, self._last = (np.zeros((len(ARMS), size, ends[-1])) for _ in range(2))
        self._known = {metric.name: np.zeros((1, metric.cells)) for metric in policy.metrics}
        self._groups: list[Group] = []
        self._waiting: list[Metric] = [one for one in policy.metrics if not isinstance(one, Disagreement)]
        self._paired = [(at, one) for at, one in enumerate(policy.metrics) if isinstance(one, Disagreement)]
        self._history: Mapping[str, Array] = {}

    @property
    def total(self) -> dict[str, dict[str, Array]]:
        """By arm and metric, the cells that were counted since the shift began, of shape (judges, cells)."""
        return {
            arm: {name: cells[:, place] for name, place in self._places.items()}
            for arm, cells in zip(ARMS, self._totals, strict=True)
        }

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
        self._last = self._read(stable, canary)

    def observe(
        self, at: Array | float, stable: Mapping[str, Any], canary: Mapping[str, Any], *, paused: bool = False
    ) -> Array:
        """Take one look.

        Args:
            at: seconds since the shift began; a clock that was set back stands still.
            stable: by metric, cumulative counters of shape (cells,) or (judges, cells). A metric that is missing, or
                an arm without requests, is waited for. A counter that fell began again at zero.
            canary: the same.
            paused: stay in the present step; only harm ends it, and the time does not count towards the end.

        Returns:
            The phase of each judge; one that has decided stays so.
        """
        now = np.maximum(self.now, at)
        passed, self.now = now - self.now, now
        fresh = self._difference(self._read(stable, canary))
        if self._waiting:
            self._choose_tests()
        for group in self._groups:
            group.bet(fresh, passed)
        for metric in self._waiting:
            self._known[metric.name] += fresh[1, :, self._places[metric.name]].sum(axis=0)
        self._weigh()
        if paused:
            self.paused = self.paused + passed
        self._decide(paused=paused)
        return self.phase

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
        group = Group(members, places, columns, self.size, self._history)
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
        return np.asarray(cells[:, 0] if isinstance(metric, ErrorRate | Disagreement) else cells.sum(axis=-1))

    def is_harmless(self) -> Flags:
        """Whether every metric's non-inferiority is shown at the present step's margins, of shape (judges,)."""
        shown = self.evidence.log_harmless[self._every, :, self.step]
        return np.asarray(shown.min(axis=-1) >= self.policy.needed_to_promote)

    def undispersed(self) -> list[str]:
        """Why the dispersion of the stable version's replicas was not measured, where it was not."""
        reasons = (dispersion.why_not for group in self._groups for dispersion in group.dispersions)
        return list(dict.fromkeys(reason for reason in reasons if reason))

    def dispersion_of(self, name: str) -> float:
        """The largest φ of a metric's tests."""
        for group in self._groups:
            if name in group.names:
                return float(group.dispersions[group.names.index(name)].phi.max())
        return 1.0

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

    def begin_step(self, where: Array) -> None:
        """Bet afresh, as versions break when their traffic grows; `where` says for which judges."""
        mass = np.where(where, STEP_MASS / max(len(self.policy.shares) - 1, 1), 0.0)
        for group in self._groups:
            group.restart(mass)

    def to_dict(self) -> dict[str, Any]:
        """The state, as JSON."""
        arrays = ("step", "phase", "now", "paused", "step_began", "step_requests", "log_harm", "log_peak")
        return {
            **{name: getattr(self, name).tolist() for name in arrays},
            "total": self._totals.tolist(), "last": self._last.tolist(),
            "known": {name: cells.tolist() for name, cells in self._known.items()},
            "groups": [group.to_dict() for group in self._groups],
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `to_dict` stopped, bit for bit."""
        for name in ("step", "phase", "now", "paused", "step_began", "step_requests", "log_harm", "log_peak"):
            setattr(self, name, np.array(state[name]))
        self._totals, self._last = np.array(state["total"]), np.array(state["last"])
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
