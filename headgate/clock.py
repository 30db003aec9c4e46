"""The clock of every wait and deadline, which a test replaces by one that does not wait.

The durations of single requests and of programs in other processes are measured with `time` itself.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator


class Clock(Protocol):
    """What waits need; the units are seconds."""

    def monotonic(self) -> float:
        """Return a moment that only ever grows."""

    def time(self) -> float:
        """Return the seconds since 1970, which processes and machines agree on."""

    def sleep(self, seconds: float) -> None:
        """Return once so many seconds have passed."""


_clock: Clock = time


def monotonic() -> float:
    """Return seconds from an unknown moment on: for deadlines within this process."""
    return _clock.monotonic()


def now() -> float:
    """Return the seconds since 1970: for deadlines that other processes read."""
    return _clock.time()


def sleep(seconds: float) -> None:
    """Wait."""
    _clock.sleep(seconds)


@contextmanager
def using(other: Clock) -> Iterator[None]:
    """Have every wait of this process use another clock, in all of its threads."""
    global _clock  # noqa: PLW0603 - the one clock of this process
    before, _clock = _clock, other
    try:
        yield
    finally:
        _clock = before
