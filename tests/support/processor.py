"""How long something takes a processor, whatever else this machine does; and how patient a test is with a slow one."""

from __future__ import annotations

import gc
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass
class Taken:
    """Seconds of a processor; 0 until the block has ended."""

    seconds: float = 0.0


_WORK, _USUAL_SECONDS, _LONG_SECONDS = 10**6, 0.06, 0.3
"""Additions, how long they take a usual processor, and what is short on any."""


_SLOWEST = 4.0
"""How many times slower than usual a virtual machine was seen to be."""


def patient(seconds: float) -> float:
    """Return how long a test waits for what takes a usual machine at most so many seconds."""
    return seconds * _SLOWEST


def slowness(clock: Callable[[], float] = time.monotonic) -> float:
    """Return how many times longer than a usual processor this one takes now: at least 1, at most 4.

    `time.monotonic` also counts what other processes take of it, `time.thread_time` does not.
    """
    began, total = clock(), 0
    for number in range(_WORK):
        total += number
    return min(max((clock() - began) / _USUAL_SECONDS, 1.0), _SLOWEST)


def at_usual_pace(seconds: float) -> float:
    """Return how long it would have taken a usual processor; a virtual one may be slower by times for a while."""
    return seconds if seconds < _LONG_SECONDS else seconds / slowness(time.thread_time)


@contextmanager
def measured() -> Iterator[Taken]:
    """Measure this thread alone, without collections of the garbage of tests before."""
    taken = Taken()
    gc.disable()
    began = time.thread_time()
    try:
        yield taken
    finally:
        taken.seconds = at_usual_pace(time.thread_time() - began)
        gc.enable()
