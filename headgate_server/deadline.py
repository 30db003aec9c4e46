"""End a worker when one of its requests misses its deadline; headgate_server/workers.py starts another one.

A model or a parser that never returns blocks a thread, the event loop or the interpreter, and none of these can be
interrupted. If the event loop still runs, the late request gets 503, and the worker answers its other requests before
it ends. If not, the standard library's faulthandler ends the process from a thread that needs no interpreter, and
writes the traceback of every thread.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import sys
import time
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger("headgate_server")

_TICK_SECONDS = 0.25
_GRACE_SECONDS = 1.0
"""Between the deadline, at which a request is answered with 503, and the end of a worker that cannot do so; and for
requests that were on their way into a connection of this worker when it stopped to accept."""


class LateError(Exception):
    """The model has not answered a request within its deadline."""


class Asked:
    """A request that a thread works on, or that waits for one.

    Attributes:
        request_id: its id.
        since: when it came, and then when a thread began with it, by `time.monotonic`.
        is_begun: whether one did.
        answer: what is waited for.
        is_late: whether it has missed its deadline.
    """

    __slots__ = ("answer", "is_begun", "is_late", "request_id", "since")
    answer: asyncio.Future[Any]

    def __init__(self, request_id: str) -> None:
        self.request_id, self.since = request_id, time.monotonic()
        self.is_begun = self.is_late = False

    def begin(self) -> None:
        """Note that a thread begins with it; in that thread."""
        self.since, self.is_begun = time.monotonic(), True


class Deadline:
    """Knows the requests of this process that threads work on, or will.

    Args:
        seconds: within which a request is answered.
        stop_accepting: makes the process take no more connections.
        end: ends the process; it does not return.
    """

    def __init__(self, seconds: float, stop_accepting: Callable[[], None], end: Callable[[], None]) -> None:
        self._seconds, self._stop_accepting, self._end = seconds, stop_accepting, end
        self._asked: dict[int, Asked] = {}
        self.in_progress = 0
        self.is_ending = False

    def add(self, asked: Asked) -> None:
        """Watch a request."""
        self._asked[id(asked)] = asked

    def remove(self, asked: Asked) -> None:
        """Watch it no more: it is answered."""
        del self._asked[id(asked)]

    def retire(self) -> None:
        """Answer the requests that are there, accept no more connections, and end the process."""
        self.is_ending = True

    async def watch(self) -> None:
        """Look at the requests four times a second, as long as the event loop runs."""
        try:
            while not self.is_ending:
                # Begun anew each time: it is what ends a process whose event loop has stopped since.
                faulthandler.dump_traceback_later(self._seconds + _GRACE_SECONDS, exit=True, file=sys.stderr)
                await asyncio.sleep(_TICK_SECONDS)
                self._look()
            await self._answer_the_others()
        finally:
            faulthandler.cancel_dump_traceback_later()

    def _look(self) -> None:
        before = time.monotonic() - self._seconds
        for asked in [one for one in self._asked.values() if one.since <= before]:
            asked.is_late = True
            # A request that no thread has begun is only waiting: the server is overloaded, and nothing hangs.
            if asked.is_begun:
                self.is_ending = True
                logger.error(
                    "request %s has had no answer for %g s (HEADGATE_DEADLINE): it is answered with 503, and another "
                    "worker takes the place of this one", asked.request_id, self._seconds,
                )  # fmt: skip
            asked.answer.cancel()

    async def _answer_the_others(self) -> None:
        faulthandler.dump_traceback_later(_GRACE_SECONDS + self._seconds, exit=True, file=sys.stderr)
        self._stop_accepting()
        await asyncio.sleep(_GRACE_SECONDS)
        while self.in_progress:
            self._look()
            await asyncio.sleep(_TICK_SECONDS)
        self._end()


def end_at_once(code: int) -> NoReturn:
    """End the process without waiting for its threads, of which one does not come back."""
    sys.stderr.flush()
    os._exit(code)
