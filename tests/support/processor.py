"""How long something takes a processor, whatever else this process and this machine do."""

from __future__ import annotations

import gc
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass
class Taken:
    """Seconds of a processor; 0 until the block has ended."""

    seconds: float = 0.0


_WORK, _USUAL_SECONDS, _LONG_SECONDS = 10**6, 0.06, 0.3
"""Additions, how long they take a usual processor, and what is short on any."""


def at_usual_pace(seconds: float) -> float:
    """Return how long it would have taken a usual processor; a virtual one may be slower by times for a while."""
    if seconds < _LONG_SECONDS:
        return seconds
    began, total = time.thread_time(), 0
    for number in range(_WORK):
        total += number
    return seconds / max((time.thread_time() - began) / _USUAL_SECONDS, 1.0)


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
