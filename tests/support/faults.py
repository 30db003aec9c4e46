"""What goes wrong with a cloud's API, on purpose: before a call has an effect, after it, or instead of it."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class Fault(StrEnum):
    """How a call fails."""

    THROTTLED = "throttled"
    BROKEN = "broken"
    """A server error, and nothing happened."""
    CUT_OFF = "cut off"
    """It happened, and the answer is lost."""
    EXPIRED = "expired"
    DENIED = "denied"
    QUOTA = "quota"
    IGNORED = "ignored"
    """It is answered with success, and nothing happened."""
    PAGE = "page"
    """Something in between answers with success, and nothing happened; `Faults.page` is what."""
    CLOSED = "closed"
    """It happened, and the connection is closed without an answer."""


class FaultError(Exception):
    """The double turns it into what its cloud would say."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault)
        self.fault = fault


@dataclass
class Faults:
    """What is to fail, and which calls there were."""

    calls: list[str] = field(default_factory=list)
    page: tuple[bytes, str] = (b"<!DOCTYPE html><html><body>Sign in</body></html>", "text/html")
    """The body and its content type."""
    _meanwhile: dict[str, Callable[[], object]] = field(default_factory=dict)
    _planned: dict[str, list[Fault]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def plan(self, operation: str, fault: Fault, times: int = 1) -> None:
        """Have the next calls of an operation (`*` is any) fail."""
        with self._lock:
            self._planned.setdefault(operation, []).extend([fault] * times)

    def meanwhile(self, operation: str, act: Callable[[], object]) -> None:
        """Have somebody else act right before the next call of an operation is carried out."""
        with self._lock:
            self._meanwhile[operation] = act

    def clear(self) -> None:
        with self._lock:
            self._planned.clear()
            self._meanwhile.clear()
            self.calls.clear()

    def counted(self) -> Counter[str]:
        with self._lock:
            return Counter(self.calls)

    def around(self, operation: str, act: Callable[[], Any], nothing: Any) -> Any:
        """Carry a call out, or not; `nothing` is what success looks like.

        Raises:
            FaultError: it was to fail.
        """
        with self._lock:
            self.calls.append(operation)
            planned = self._planned.get(operation) or self._planned.get("*") or []
            fault = planned.pop(0) if planned else None
            other = self._meanwhile.pop(operation, None)
        if other is not None:
            other()
        if fault is None:
            return act()
        if fault is Fault.IGNORED:
            return nothing
        if fault in {Fault.CUT_OFF, Fault.CLOSED}:
            act()
        raise FaultError(fault)
