"""Clocks that tests move, for the waits and deadlines of one process; other processes have the real time."""

from __future__ import annotations

import time
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, TypeVar

from headgate import clock

if TYPE_CHECKING:
    from collections.abc import Iterator


class Ahead:
    """Is ahead of the real time by what a test has skipped; waits last as long as they do."""

    def __init__(self) -> None:
        self._skipped, self._lock = 0.0, Lock()

    def monotonic(self) -> float:
        return time.monotonic() + self._skipped

    def time(self) -> float:
        return time.time() + self._skipped

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def skip(self, seconds: float) -> None:
        """Let so much time have passed."""
        with self._lock:
            self._skipped += seconds


class Waitless(Ahead):
    """Stands still, and skips every wait: for what waits for nothing outside of this process."""

    def __init__(self) -> None:
        super().__init__()
        # Whole seconds, so that sums of seconds are exact.
        self._began = float(int(time.monotonic())), time.time()

    def monotonic(self) -> float:
        return self._began[0] + self._skipped

    def time(self) -> float:
        return self._began[1] + self._skipped

    def sleep(self, seconds: float) -> None:
        self.skip(seconds)


Kind = TypeVar("Kind", bound=Ahead)


@contextmanager
def using(made: Kind) -> Iterator[Kind]:
    """Have this process use a clock."""
    with clock.using(made):
        yield made
