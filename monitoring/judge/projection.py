"""The projection of an alternative on a null hypothesis whose line is not the diagonal, where it has no closed form."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from monitoring.judge.engine import Array

TINY = 1e-9
"""How near to 0 and to 1 a rate may be."""

_NEAR, _EXACT = 3e-3, 1e-8
_FREE_STEPS, _NEWTON_STEPS = 8, 70


def project(
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
    lowest, highest = np.maximum(np.minimum(*ends), TINY / 2), np.maximum(*ends)
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
    return s, (s - lowest) / (highest - lowest + TINY**2)
