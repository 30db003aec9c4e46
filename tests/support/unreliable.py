"""A platform's API as it is on a bad day, before any target."""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

from headgate.errors import HeadgateError, TargetUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

FAULTS = ("throttled", "failed", "timed out and done", "yes and nothing", "yes and late")
_CHANGES = ("deploy", "route", "retire")
_LATE_SECONDS = 0.7


class Unreliable:
    """A target each of whose changes goes wrong once in each way before it is made as it was asked for.

    Args:
        target: what is behind the API.
    """

    def __init__(self, target: Any) -> None:
        self._target = target
        self._calls: Counter[str] = Counter()
        self.seen: Counter[tuple[str, str]] = Counter()

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._target, name)
        return self._unreliably(name, attribute) if name in _CHANGES else attribute

    def _unreliably(self, name: str, change: Callable[..., None]) -> Callable[..., None]:
        def call(*args: Any, **kwargs: Any) -> None:
            turn = self._calls[name] % (len(FAULTS) + 1)
            self._calls[name] += 1
            if turn == len(FAULTS):
                change(*args, **kwargs)
                return
            fault = FAULTS[turn]
            self.seen[name, fault] += 1
            if fault == "timed out and done":
                change(*args, **kwargs)
            if fault in {"throttled", "failed", "timed out and done"}:
                raise TargetUnavailableError(f"{name} {fault}")
            if fault == "yes and late":
                threading.Timer(_LATE_SECONDS, self._late, (change, args, kwargs)).start()

        return call

    @staticmethod
    def _late(change: Callable[..., None], args: Any, kwargs: Any) -> None:
        try:
            change(*args, **kwargs)
        except HeadgateError:
            # What was asked for meanwhile, and made, does not allow it any more.
            return
