"""One engine for every comparison of two rates: half-plane e-processes, many at a time.

Each look is a block of counts (n_c, x_c, n_s, x_s), c the canary and s the stable version. A test has the null
hypothesis p_c ≤ ρ p_s + δ (side +1), or p_c ≥ ρ p_s + δ (side -1). For an alternative (a, b) that depends on
earlier looks only, the e-value of a block is

    E = (a/c°)^x_c ((1-a)/(1-c°))^(n_c-x_c) · (b/s°)^x_s ((1-b)/(1-s°))^(n_s-x_s),
    (c°, s°) = argmin  ω KL(a‖c) + (1-ω) KL(b‖s)  on the line c = ρ s + δ,   ω = n_c / (n_c + n_s).

The projection makes ω E[L_c] + (1-ω) E[L_s] ≤ 1 for one request of each arm anywhere in the null hypothesis, which
is convex; the inequality of the arithmetic and geometric means carries that over to a whole block (Turner, Ly,
Grünwald, "Generic E-variables for Exact Sequential k-Sample Hypotheses that allow for Optional Stopping", arXiv
2106.02693, here with margins). Blocks multiply, each with its own exposure, so changing the weights changes nothing.
By Ville's inequality the product exceeds 1/α with probability at most α, however often one looks.

b is the stable version's running rate. a is the canary's own shrunk rate, or one of seven others: for harm, log-odds
offsets beyond the line; for non-inferiority, rates around b, as a good canary is like the stable version. The eight
products are mixed, evenly where requests are independent. A fault that begins late is met by giving each product
fresh mass as time goes by: M_t = (M_{t-1} + π_t) E_t, with Σ π_t ≤ 1. Dividing log E by φ ≥ 1 (tempering) keeps an
e-value by Jensen's inequality, and pays for requests that fail together. It multiplies by φ what a mixture's weights
cost, too; so for harm the fixed alternatives get a φ-th of their weights then, and the canary's own rate, which finds
any of them in time, the rest.

Where failures come in bursts, the growth of a product is limited (`EProcesses.limit`): E is replaced by min(E, l), and
l depends on earlier blocks only, so what was an e-value is one.

Arrays have the axes (judge, test, alternative): one release is a batch of one, a simulation a batch of thousands.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np

from monitoring.judge.dispersion import BURST_SECONDS
from monitoring.judge.projection import TINY, project

Array = np.ndarray[Any, np.dtype[np.float64]]

OFFSETS = np.array([0.1, 0.25, 0.5, 1.0, 1.75, 2.75, 4.0])
"""Log-odds beyond the line; the last one is 50 times the odds."""

GAPS = np.array([0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0])
"""How far from the line to b, in log-odds; 1 is b itself."""

_PRIOR_WEIGHT = 50.0
"""Requests that the prior rate of the stable version counts for."""

_SHRINK = 20.0
"""Requests at the stable version's rate that the canary is credited with before its own count."""

_AT_ONCE, _IN_A_BURST = 0.45, 0.45
"""Parts of the needed evidence by which a product may grow at once, and in BURST_SECONDS, where there are bursts. Their
sum is less than 1, so one burst is not enough; a verdict takes three blocks and 12 seconds at least."""


@dataclass(frozen=True)
class Hypotheses:
    """What is tested; arrays of shape (tests,).

    Attributes:
        rho: the line's slope, at least 1.
        delta: its intercept, as a share of requests.
        side: +1 for the null hypothesis "the canary is at most at the line", -1 for "at least".
        prior: the rate that is expected before anything is seen.
        starts: the share of the mass that bets from the first look on; the rest is for restarts.
        near: whether the alternatives are rates around the stable version's own.
    """

    rho: Array
    delta: Array
    side: Array
    prior: Array
    starts: Array
    near: np.ndarray[Any, np.dtype[np.bool_]]

    def __len__(self) -> int:
        return len(self.rho)

    @property
    def is_general(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Whether the projection has no closed form."""
        return np.asarray((self.rho != 1) | (self.delta != 0))

    @classmethod
    def join(cls, parts: list[Hypotheses]) -> Hypotheses:
        """All tests of several, in order."""
        names = [field.name for field in fields(cls)]
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def take(self, order: np.ndarray[Any, np.dtype[np.int64]]) -> Hypotheses:
        """The tests in another order."""
        return Hypotheses(*(getattr(self, field.name)[order] for field in fields(self)))


class Block(NamedTuple):
    """Counts since the last look; arrays of shape (judges, tests)."""

    canary_hits: Array
    canary: Array
    stable_hits: Array
    stable: Array


class Bets(NamedTuple):
    """The alternative and its projection on the null hypothesis; arrays of shape (judges, tests, alternatives)."""

    canary: Array
    stable: Array
    null_canary: Array
    null_stable: Array


class EProcesses:
    """The e-processes of a set of tests, for a batch of judges.

    Args:
        tests: what is tested.
        size: how many judges.

    Attributes:
        alternatives: of each test; the last is the canary's own rate.
    """

    def __init__(self, tests: Hypotheses, size: int = 1) -> None:
        self.tests = tests
        shape = (size, len(tests))
        self._seen = np.zeros((len(Block._fields), *shape))
        self.alternatives = len(OFFSETS) + 1
        self._log_products = np.full((*shape, self.alternatives), -np.inf)
        self._reserve = np.ones(shape)
        self._pending = np.broadcast_to(tests.starts, shape).copy()
        self._least = np.ones(shape)
        self.temper(np.ones(len(tests)), np.ones(len(tests)))
        self.limit(np.full(len(tests), np.inf))
        # Log-odds from the line: a multiple of the way to b, or a step of its own.
        near = tests.near[:, None]
        self._gaps, self._steps = np.where(near, GAPS, 0.0), np.where(near, 0.0, tests.side[:, None] * OFFSETS)
        self._upward = tests.side > 0
        general = np.flatnonzero(tests.is_general)
        # A slice where that is all of them in between: it needs no copies.
        together = len(general) > 0 and general[-1] - general[0] == len(general) - 1
        self._general = slice(general[0], general[-1] + 1) if together else general
        self._line = tests.rho[general, None], tests.delta[general, None]
        self._root: Array | None = None

    @property
    def log_values(self) -> Array:
        """Evidence against each null hypothesis, as natural logarithms, of shape (judges, tests)."""
        betting = np.logaddexp.reduce(self._log_products, axis=-1)
        return np.asarray(np.logaddexp(betting, _log_mass(self._reserve)))

    def restart(self, mass: Array) -> None:
        """Give every product fresh mass with the next block: a fault that begins now is met at full strength.

        Args:
            mass: of shape (judges, tests) or what broadcasts to it; no more is given than is left.
        """
        self._pending = np.minimum(self._pending + mass, self._reserve)

    def spend(self, part: Array, where: Array) -> None:
        """Give out a part of the mass that is left, as time goes by.

        Args:
            part: for each judge, of shape (judges,).
            where: which tests restart at all, of shape (tests,).
        """
        self._pending = self._pending + (self._reserve - self._pending) * part[:, None] * where

    def temper(self, phi: Array, spread: Array, per_second: float = np.inf) -> None:
        """Say how much more than independent requests counts vary; before the first block.

        Args:
            phi: at least 1, of shape (tests,).
            spread: the same for harm, at least phi.
            per_second: requests a second of the canary at which `spread` holds; `spread` - 1 is proportional to them,
                up to this rate.
        """
        near = self.tests.near
        self._phi, self._spread, self._per_second = phi, np.where(near, phi, spread), per_second
        self._measured = np.broadcast_to(self._spread, (len(self._log_products), len(phi)))
        self._divisor = np.maximum(self._measured, self._least)[..., None]
        fixed = np.where(near, 1.0, 1 / self._spread)[:, None] / self.alternatives
        weights = np.repeat(fixed, self.alternatives, axis=1)
        weights[:, -1] = 1 - weights[:, :-1].sum(axis=1)
        self._log_weights = np.log(weights)

    def limit(self, needed: Array) -> None:
        """Let a burst of BURST_SECONDS alone never reach an e-value; before the first block.

        A product may grow by _AT_ONCE of what is needed at once, and by _IN_A_BURST of it in BURST_SECONDS more.

        Args:
            needed: the logarithm of the e-value, of shape (tests,); infinite where there is no limit.
        """
        self._needed = needed[:, None]
        self._is_limited = np.isfinite(self._needed)
        self._budget = np.broadcast_to(_AT_ONCE * self._needed, self._log_products.shape).copy()
        self._seconds = np.zeros(len(self._log_products))

    def pass_time(self, seconds: Array, canary_per_second: Array) -> None:
        """Note the time since the last call, and how busy the canary has been.

        Args:
            seconds: of shape (judges,).
            canary_per_second: requests of the canary in the next block, of shape (judges,).
        """
        self._seconds = self._seconds + seconds
        if self._is_limited.any():
            refill = _IN_A_BURST / BURST_SECONDS * np.where(self._is_limited, self._needed, 0.0)
            fuller = self._budget + refill * seconds[:, None, None]
            self._budget = np.minimum(fuller, _AT_ONCE * self._needed)
        if np.isfinite(self._per_second):
            part = np.minimum(canary_per_second / self._per_second, 1.0)[:, None]
            self._measured = np.maximum(self._phi, 1 + (self._spread - 1) * part)
        self._divisor = np.maximum(self._measured, self._least)[..., None]

    def at_least(self, phi: Array) -> None:
        """Divide the evidence of harm of the blocks to come by so much at least.

        Args:
            phi: from earlier blocks only, at least 1, of shape (judges, tests).
        """
        self._least = np.where(self.tests.near, 1.0, phi)

    def could_have_grown(self, test: int, log_value: float) -> bool:
        """Whether the limit allows the first judge's test to have this log e-value by now."""
        needed = float(self._needed[test, 0])
        return bool(log_value <= needed * (_AT_ONCE + _IN_A_BURST * self._seconds[0] / BURST_SECONDS))

    def needed(self, test: int, log_value: float) -> Array:
        """Return what the fixed alternatives of a test need, without restarts, for the test to have this log e-value.

        Args:
            test: its place.
            log_value: of the mixture.

        Returns:
            Log e-values before tempering, of shape (alternatives - 1,).
        """
        weights = self._log_weights[test, :-1] + np.log(self.tests.starts[test])
        return np.asarray((log_value - weights) * self._divisor[0, test])

    def observe(self, block: Block) -> None:
        """Take one block of counts.

        Args:
            block: one in which the canary has no request changes no evidence; one without stable requests can
                only show that the canary is below δ, which is what the stable version may do at no failures.
        """
        self.multiply(log_e_values(self.bets(block), block))
        self.learn(block)

    def learn(self, block: Block) -> None:
        """Remember counts, for the bets to come; those from before the release, too, which are no evidence."""
        self._seen += block

    def multiply(self, log_e: Array) -> None:
        """Bet, with fresh mass where some is pending.

        Args:
            log_e: of shape (judges, tests, alternatives).
        """
        fresh = _log_mass(self._pending)[..., None] + self._log_weights
        self._reserve = self._reserve - self._pending
        self._pending = np.zeros(self._pending.shape)
        growth = np.minimum(log_e / self._divisor, self._budget)
        self._budget = np.minimum(self._budget - np.where(self._is_limited, growth, 0.0), _AT_ONCE * self._needed)
        self._log_products = np.logaddexp(self._log_products, fresh) + growth

    def bets(self, block: Block) -> Bets:
        """The alternatives, from earlier looks only, and their projections for this block's exposure."""
        tests = self.tests
        canary_hits, canary, stable_hits, stable = self._seen
        b = _inside((stable_hits + _PRIOR_WEIGHT * tests.prior) / (stable + _PRIOR_WEIGHT))
        exact = tests.rho * b + tests.delta
        line = _inside(exact)
        log_line = np.log(line / (1 - line))
        gap = np.log(b / (1 - b)) - log_line
        odds = np.exp(log_line[..., None] + gap[..., None] * self._gaps + self._steps)
        plug_in = (canary_hits + _SHRINK * b) / (canary + _SHRINK)
        a = np.empty((*b.shape, self.alternatives))
        np.divide(odds, 1 + odds, out=a[..., :-1])
        a[..., -1] = np.where(self._upward, np.maximum(plug_in, line), np.minimum(plug_in, line))
        a = _inside(a)
        # A line outside of (0, 1) leaves nothing to bet on.
        possible = exact == line
        if not (everywhere := possible.all()):
            a = np.where(possible[..., None], a, line[..., None])
        total = block.canary + block.stable
        omega = block.canary / np.maximum(total, TINY)
        omega, b3 = omega[..., None], b[..., None]
        null_stable = omega * a + (1 - omega) * b3
        null_canary = null_stable.copy()
        at, (rho, delta) = self._general, self._line
        if len(rho):
            if not everywhere:
                # Any line will do where no bet is made.
                somewhere = possible[:, at, None]
                rho, delta = np.where(somewhere, rho, 1.0), np.where(somewhere, delta, 0.0)
            s, self._root = project(a[:, at], b3[:, at], omega[:, at], rho, delta, self._root)
            null_stable[:, at], null_canary[:, at] = s, rho * s + delta
        if not everywhere:
            null_stable = np.where(possible[..., None], null_stable, b3)
            null_canary = np.where(possible[..., None], null_canary, a)
        return Bets(a, b3, null_canary, null_stable)

    def to_dict(self) -> dict[str, Any]:
        """The state, as JSON."""
        return {
            "seen": self._seen.tolist(),
            "log_products": _finite(self._log_products),
            "reserve": self._reserve.tolist(),
            "pending": self._pending.tolist(),
            "divisor": self._divisor.tolist(),
            "budget": _finite(self._budget),
            "seconds": self._seconds.tolist(),
            "root": None if self._root is None else self._root.tolist(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `to_dict` stopped, bit for bit."""
        self._seen = np.array(state["seen"])
        self._log_products = np.array(state["log_products"], dtype=float)
        self._log_products[np.isnan(self._log_products)] = -np.inf
        self._reserve, self._pending = np.array(state["reserve"]), np.array(state["pending"])
        self._divisor, self._seconds = np.array(state["divisor"]), np.array(state["seconds"])
        self._budget = np.array(state["budget"], dtype=float)
        self._budget[np.isnan(self._budget)] = np.inf
        self._root = None if state["root"] is None else np.array(state["root"])


def log_e_values(bets: Bets, block: Block) -> Array:
    """The log e-value of one block under each alternative, of shape (judges, tests, alternatives)."""
    a, b, c, s = bets
    canary_hits, canary, stable_hits, stable = (part[..., None] for part in block)
    return np.asarray(
        canary_hits * np.log(a / c)
        + (canary - canary_hits) * np.log((1 - a) / (1 - c))
        + stable_hits * np.log(b / s)
        + (stable - stable_hits) * np.log((1 - b) / (1 - s))
    )


def log_mean(values: Array) -> Array:
    """The logarithm of the mean of exponentials, over the last axis: an average of e-values is one."""
    return np.asarray(np.logaddexp.reduce(values, axis=-1) - np.log(values.shape[-1]))


def _log_mass(mass: Array) -> Array:
    """The logarithm; of no mass so low that adding it changes nothing."""
    return np.log(np.maximum(mass, 1e-300))


def _inside(rate: Array) -> Array:
    return np.minimum(np.maximum(rate, TINY), 1 - TINY)


def _finite(array: Array) -> Any:  # noqa: ANN401 - nested lists
    return np.where(np.isfinite(array), array.astype(object), np.array(None)).tolist()
