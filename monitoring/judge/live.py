"""How much the stable version's counts vary while the canary is judged.

Its past may be unknown, or calmer than the present. Its counts since the shift began show both: windows of
BURST_SECONDS are compared with the rate of the minute that they belong to, so a rate that changes from minute to
minute, which both versions share, is no dispersion. The evidence of harm of each block is divided by the φ of the
blocks before it, where that is more than what the past says (`Group`); evidence that is divided by a number of at least
1 that earlier blocks determine is still an e-value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from monitoring.judge.dispersion import BURST_SECONDS, more_than_chance, pearson

if TYPE_CHECKING:
    from monitoring.judge.engine import Array

_WINDOWS = 6
"""Windows that are compared with their common rate."""
_KEPT = 0.9
"""Part of what was measured that is kept when a minute is added: half of it after seven minutes."""
_DEVIATIONS = 3.0
"""By how many standard deviations φ has to be above 1: fewer than for the past, as a minute is little to go by."""


class LiveDispersion:
    """φ of the stable version's counts since the shift began.

    Args:
        size: judges.
        tests: of each.

    Attributes:
        phi: at least 1, of shape (judges, tests); 1 until it is above 1 by more than chance.
    """

    def __init__(self, size: int, tests: int) -> None:
        self.phi = np.ones((size, tests))
        self._open, self._seconds = np.zeros((2, size, tests)), np.zeros(size)
        self._closed, self._number = np.zeros((2, _WINDOWS, size, tests)), np.zeros(size, int)
        self._sums = np.zeros((3, size, tests))

    def add(self, seconds: Array, hits: Array, trials: Array) -> None:
        """Add a look's counts.

        Args:
            seconds: since the look before, of shape (judges,).
            hits: of shape (judges, tests).
            trials: as hits.
        """
        self._open += (hits, trials)
        self._seconds = self._seconds + seconds
        ended = np.flatnonzero(self._seconds >= BURST_SECONDS)
        if not len(ended):
            return
        self._closed[:, self._number[ended], ended] = self._open[:, ended]
        self._open[:, ended], self._seconds[ended] = 0.0, 0.0
        self._number[ended] += 1
        whole = np.flatnonzero(self._number == _WINDOWS)
        if not len(whole):
            return
        self._number[whole] = 0
        shape = (1, _WINDOWS, -1)
        squares, freedom, noise = (
            part.reshape(len(whole), -1) for part in pearson(*(part[:, whole].reshape(shape) for part in self._closed))
        )
        self._sums[:, whole] *= np.array([_KEPT, _KEPT, _KEPT**2])[:, None, None]
        self._sums[:, whole] += (squares, freedom, noise)
        squares, freedom, noise = self._sums[:, whole]
        self.phi[whole] = more_than_chance(squares, freedom, noise, _DEVIATIONS)

    def to_dict(self) -> dict[str, Any]:
        """The state, as JSON."""
        return {
            "phi": self.phi.tolist(), "open": self._open.tolist(), "seconds": self._seconds.tolist(),
            "closed": self._closed.tolist(), "number": self._number.tolist(), "sums": self._sums.tolist(),
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `to_dict` stopped, bit for bit."""
        self.phi = np.array(state["phi"])
        self._open, self._seconds = np.array(state["open"]), np.array(state["seconds"])
        self._closed, self._number = np.array(state["closed"]), np.array(state["number"])
        self._sums = np.array(state["sums"])
