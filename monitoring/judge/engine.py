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

Arrays have the axes (judge, test, alternative): one release is a batch of one, a simulation a batch of thousands.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]

OFFSETS = np.array([0.1, 0.25, 0.5, 1.0, 1.75, 2.75, 4.0])
"""Log-odds beyond the line; the last one is 50 times the odds."""

GAPS = np.array([0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0])
"""How far from the line to b, in log-odds; 1 is b itself."""

_PRIOR_WEIGHT = 50.0
"""Requests that the prior rate of the stable version counts for."""

_SHRINK = 20.0
"""Requests at the stable version's rate that the canary is credited with before its own count."""

_TINY = 1e-9
_NEAR, _EXACT = 3e-3, 1e-8
_FREE_STEPS, _NEWTON_STEPS = 8, 70


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
    """

    def __init__(self, tests: Hypotheses, size: int = 1) -> None:
        self.tests = tests
        shape = (size, len(tests))
        self._seen = np.zeros((len(Block._fields), *shape))
        self._alternatives = len(OFFSETS) + 1
        self._log_products = np.full((*shape, self._alternatives), -np.inf)
        self._reserve = np.ones(shape)
        self._pending = np.broadcast_to(tests.starts, shape).copy()
        self.temper(np.ones(len(tests)))
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

    def temper(self, phi: Array) -> None:
        """Say how much more than independent requests counts vary; before the first block.

        Args:
            phi: at least 1, of shape (tests,).
        """
        self._phi = phi[:, None]
        fixed = np.where(self.tests.near, 1.0, 1 / phi)[:, None] / self._alternatives
        weights = np.repeat(fixed, self._alternatives, axis=1)
        weights[:, -1] = 1 - weights[:, :-1].sum(axis=1)
        self._log_weights = np.log(weights)

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
        self._log_products = np.logaddexp(self._log_products, fresh) + log_e / self._phi

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
        a = np.empty((*b.shape, self._alternatives))
        np.divide(odds, 1 + odds, out=a[..., :-1])
        a[..., -1] = np.where(self._upward, np.maximum(plug_in, line), np.minimum(plug_in, line))
        a = _inside(a)
        # A line outside of (0, 1) leaves nothing to bet on.
        possible = exact == line
        if not (everywhere := possible.all()):
            a = np.where(possible[..., None], a, line[..., None])
        total = block.canary + block.stable
        omega = block.canary / np.maximum(total, _TINY)
        omega, b3 = omega[..., None], b[..., None]
        null_stable = omega * a + (1 - omega) * b3
        null_canary = null_stable.copy()
        at, (rho, delta) = self._general, self._line
        if len(rho):
            if not everywhere:
                # Any line will do where no bet is made.
                somewhere = possible[:, at, None]
                rho, delta = np.where(somewhere, rho, 1.0), np.where(somewhere, delta, 0.0)
            s, self._root = _project(a[:, at], b3[:, at], omega[:, at], rho, delta, self._root)
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
            "root": None if self._root is None else self._root.tolist(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `to_dict` stopped, bit for bit."""
        self._seen = np.array(state["seen"])
        self._log_products = np.array(state["log_products"], dtype=float)
        self._log_products[np.isnan(self._log_products)] = -np.inf
        self._reserve, self._pending = np.array(state["reserve"]), np.array(state["pending"])
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


def _project(
    a: Array, b: Array, omega: Array, rho: Array, delta: Array, start: Array | None = None
) -> tuple[Array, Array]:
    """The stable version's rate s at the least divergence on the line c = ρ s + δ.

    The divergence is convex in s, and its minimum lies between b and the s at which c = a. Its derivative times
    s (1-s) c (1-c) is a cubic; Halley's method on that, from where between its ends the root was in the last look, or
    else from the root that it has where rates are small. Where that does not settle, steps that leave a shrinking
    bracket are halved into it.

    Returns:
        s, and where between the ends it is, from 0 to 1.
    """
    ends = b, (a - delta) / rho
    # Where a is below δ, the line has no such point, and the minimum is between 0 and b.
    lowest, highest = np.maximum(np.minimum(*ends), _TINY / 2), np.maximum(*ends)
    low, high, of_canary, of_stable = lowest, highest, omega * rho, 1 - omega
    of_both, rho_squared = of_canary * rho, rho * rho
    if start is None:
        square, linear = rho * (of_canary + of_stable), of_canary * (delta - a) + of_stable * (delta - b * rho)
        root = np.sqrt(np.maximum(linear**2 + 4 * square * of_stable * b * delta, 0))
        s = np.minimum(np.maximum((root - linear) / (2 * square), low), high)
    else:
        s = low + start * (high - low)
    for step in range(_NEWTON_STEPS):
        c = rho * s + delta
        canary, stable = c * (1 - c), s * (1 - s)
        above, before = of_canary * (c - a), of_stable * (s - b)
        lean_c, lean_s = rho * (1 - 2 * c), 1 - 2 * s
        value = above * stable + before * canary
        slope = of_both * stable + above * lean_s + of_stable * canary + before * lean_c
        bend = of_both * lean_s - above + of_stable * lean_c - rho_squared * before
        step_down = slope**2 - value * bend
        # Nothing is where the line leaves (0, 1), and there is no bet.
        following = s - value * slope / (step_down + (step_down == 0))
        if step < _FREE_STEPS:
            # The error of a step is about the cube of its length, on the scale on which rates near 0 or 1 differ. The
            # length is Newton's: Halley's is short at an extreme of the derivative, too, far from any root.
            done = (np.abs(value) <= _NEAR * np.minimum(stable, canary) * np.abs(slope)).all()
            s = np.minimum(np.maximum(following, low), high)
        else:
            low, high = np.where(value < 0, s, low), np.where(value > 0, s, high)
            # The value's sign is noise at the root itself, so a bracket is worth no more than this.
            inside = (following >= low * (1 - _EXACT)) & (following <= high * (1 + _EXACT))
            following = np.where(inside, following, (low + high) / 2)
            done = (np.abs(following - s) <= _EXACT * s).all()
            s = following
        if done:
            break
    return s, (s - lowest) / (highest - lowest + _TINY**2)


def _log_mass(mass: Array) -> Array:
    """The logarithm; of no mass so low that adding it changes nothing."""
    return np.log(np.maximum(mass, 1e-300))


def _inside(rate: Array) -> Array:
    return np.minimum(np.maximum(rate, _TINY), 1 - _TINY)


def _finite(array: Array) -> Any:  # noqa: ANN401 - nested lists
    return np.where(np.isfinite(array), array.astype(object), np.array(None)).tolist()
