"""Memory, CPU time and restarts of two versions' servers during a shift.

A leak is memory that grows with the requests. Requests are counted in blocks; in each block the canary's memory grows
by more than is allowed, or it does not. A new server grows at first too (caches, allocators, files that are read when
they are needed), so a good one may do so in a quarter of the blocks. That it does in more is shown by the e-value of
`monitoring.judge.paired`, which holds however often one looks. Memory that rises and falls is a leak only where its
growth since the shift began is more than is allowed too. One more process of a server, such as a second worker, has
memory of its own: what was read before is not compared with what is read after.

Platforms that measure by themselves say one number a minute, minutes late, and the same one at several looks. Only the
first look that has a reading takes it; what repeats it is no evidence. So a block lasts until both versions have a new
reading, and what is counted between two readings belongs to the later one.
"""

from __future__ import annotations

import itertools
import math
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from headgate.units import format_bytes, format_percent, rough_percent
from monitoring.judge.paired import disagreement_e_value

if TYPE_CHECKING:
    from collections.abc import Iterable

    from headgate.records import Usage
    from headgate.spec import ReleaseSpec

MEMORY, RESTARTS = "memory", "restarts"
BLOCKS = 20
"""So many blocks are as many requests as the release file wants at least."""
_LEAST = 20
"""Requests of a block."""
_GOOD_PART = 0.25
"""In so many blocks a good version may grow by more than is allowed."""
_PART_OF_BUDGET = 0.1
"""The chance of a false verdict is a tenth of the judge's, and comes on top of it."""
_NEAR = 0.95
"""With so much of its limit a server is about to be ended by the platform."""
_RESTARTS = 2
_READINGS = 2


class Memory(NamedTuple):
    """The memory of the server with most: bytes, or a part of what it was given."""

    amount: float
    is_part: bool

    @classmethod
    def of(cls, usage: Usage) -> Memory | None:
        """Return what the platform says: bytes where it says both; None where it says neither."""
        if usage.memory is not None:
            return cls(usage.memory, is_part=False)
        return cls(usage.memory_part, is_part=True) if usage.memory_part is not None else None

    def __str__(self) -> str:
        return f"{rough_percent(self.amount)} of what it was given" if self.is_part else format_bytes(self.amount)


class UsageWatch:
    """Reads what both versions use, look by look.

    Args:
        spec: `judge.memory`, `runtime.memory` and the strategy's requests.
        subject: how the canary is named in messages.
    """

    def __init__(self, spec: ReleaseSpec, subject: str) -> None:
        self._allowed = spec.judge.memory.max_growth if spec.judge.memory is not None else None
        self._requests, self._subject = max(spec.strategy.min_requests, BLOCKS * _LEAST), subject
        self._needed = 1 / (spec.judge.false_rollback * _PART_OF_BUDGET)
        self._limit = spec.runtime.resources.memory
        self._canary, self._stable = _Arm(), _Arm()
        self._blocks = self._grew = self._above = 0

    def look(self, stable: Usage | None, canary: Usage | None, requests: tuple[int, int]) -> None:
        """Take one reading.

        Args:
            stable: the stable revision's; None where its target does not say.
            canary: the canary's.
            requests: that each has answered since the shift began, the stable revision's first.
        """
        if canary is None or stable is None:
            return
        self._stable.take(stable, requests[0])
        is_new = self._canary.take(canary, requests[1])
        if not is_new or not self._are_alike():
            return
        memory, other, limit = self._canary.memory, self._stable.memory, self._near_limit()
        self._above = self._above + 1 if memory.amount >= limit > other.amount else 0
        if self._allowed is None or self._canary.since_block < self._requests / BLOCKS or not self._stable.is_new:
            return
        self._blocks += 1
        self._grew += self._canary.growth > max(self._stable.growth, 0.0) + self._allowed / self._requests
        self._canary.begin_block()
        self._stable.begin_block()

    def _are_alike(self) -> bool:
        """Whether the memory of both is known, as numbers that can be compared."""
        canary, stable = self._canary, self._stable
        return canary.is_known and stable.is_known and canary.memory.is_part == stable.memory.is_part

    def _near_limit(self) -> float:
        """The memory with which a server is about to be ended."""
        if self._canary.memory.is_part:
            return _NEAR
        return self._limit * _NEAR if self._limit else math.inf

    @property
    def e_value(self) -> float:
        """The evidence that the canary's memory grows with its requests by more than is allowed."""
        return disagreement_e_value(self._grew, self._blocks, _GOOD_PART)

    def problem(self) -> tuple[str, str]:
        """Return why the canary is to be taken back and what shows it; two empty texts while nothing does."""
        canary, stable = self._canary, self._stable
        if self._above >= _READINGS:
            # Without a limit nothing is above it.
            limit = "" if canary.memory.is_part else f" of the {format_bytes(self._limit or 0)} of runtime.memory"
            return f"its memory is {canary.memory}{limit} (stable version: {stable.memory})", MEMORY
        if canary.restarts >= _RESTARTS and canary.restarts > stable.restarts:
            return f"its server was started again {canary.restarts} times (stable version: {stable.restarts})", RESTARTS
        if self._allowed is not None and canary.grew > self._allowed and self.e_value >= self._needed:
            grew, steady = canary.growth_in_words(), stable.growth_in_words()
            allowed = f"{format_percent(self._allowed)} in {self._requests} is allowed"
            shown = f"e-value {self.e_value:.3g} of {self._needed:g} needed"
            return f"its memory grew from {grew}, and {allowed} (stable version: {steady}); {shown}", MEMORY
        return "", ""

    def alarms(self) -> tuple[str, ...]:
        """What people should know, and what decides nothing yet."""
        if not 0 < self._canary.restarts < _RESTARTS:
            return ()
        return (f"the server of {self._subject} was started again (stable version: {self._stable.restarts} times)",)

    def to_dict(self) -> dict[str, Any]:
        """Return the state, as JSON."""
        return {
            "canary": self._canary.to_dict(), "stable": self._stable.to_dict(),
            "blocks": self._blocks, "grew": self._grew, "above": self._above,
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `to_dict` stopped."""
        self._canary.restore(state["canary"])
        self._stable.restore(state["stable"])
        self._blocks, self._grew, self._above = state["blocks"], state["grew"], state["above"]


def count_restarts(readings: Iterable[tuple[str, ...]]) -> int:
    """Return how often a server was started again; one more server is no restart.

    Args:
        readings: the servers' names, reading by reading.
    """
    return sum(
        max(0, len(set(after) - set(before)) - max(0, len(after) - len(before)))
        for before, after in itertools.pairwise(readings)
    )


class _Arm:
    """One version: its memory at first, at the block's begin and now, and its restarts."""

    def __init__(self) -> None:
        self.first = self.memory = Memory(0, is_part=False)
        self.requests = self.restarts = 0
        self.is_new = False
        """Whether memory was read since the block began."""
        self._servers: tuple[str, ...] | None = None
        self._most = 0
        self._block: tuple[float, int] = (0, 0)
        self._at: datetime | None = None

    def take(self, usage: Usage, requests: int) -> bool:
        """Take a reading; return whether it has memory, and is another than the last one."""
        if usage.at is not None and self._at is not None and usage.at <= self._at:
            return False
        restarts = count_restarts([self._servers, usage.servers]) if self._servers is not None else 0
        self.restarts += restarts
        are_more = self._servers is not None and len(usage.servers) > self._most
        self._most = max(self._most, len(usage.servers))
        self._servers, self._at, memory = usage.servers, usage.at, Memory.of(usage)
        if memory is None:
            return False
        self.is_new = self.is_known and memory.is_part == self.memory.is_part
        if not self.is_new:
            self.first, self._block = memory, (memory.amount, requests)
        elif are_more:
            self.first, self._block = memory, (memory.amount, self._block[1])
        elif restarts:
            self._block = (memory.amount, self._block[1])
        self.memory, self.requests = memory, requests
        return True

    @property
    def is_known(self) -> bool:
        return self.first.amount > 0

    @property
    def since_block(self) -> int:
        return self.requests - self._block[1]

    @property
    def growth(self) -> float:
        """In this block, as a part of the memory at first, for each request."""
        return (self.memory.amount - self._block[0]) / self.first.amount / max(self.since_block, 1)

    @property
    def grew(self) -> float:
        """Since the shift began, as a part of the memory at first."""
        return self.memory.amount / self.first.amount - 1 if self.is_known else 0.0

    def growth_in_words(self) -> str:
        return f"{self.first} to {self.memory} in {self.requests} requests"

    def begin_block(self) -> None:
        self._block, self.is_new = (self.memory.amount, self.requests), False

    def to_dict(self) -> dict[str, Any]:
        """Return the state, as JSON."""
        return {
            "first": list(self.first), "memory": list(self.memory), "requests": self.requests,
            "restarts": self.restarts, "is_new": self.is_new, "most": self._most, "block": list(self._block),
            "servers": None if self._servers is None else list(self._servers),
            "at": None if self._at is None else self._at.isoformat(),
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `to_dict` stopped."""
        self.first, self.memory = Memory(*state["first"]), Memory(*state["memory"])
        self.requests, self.restarts, self.is_new = state["requests"], state["restarts"], state["is_new"]
        self._most, self._block = state["most"], tuple(state["block"])
        self._servers = None if state["servers"] is None else tuple(state["servers"])
        self._at = None if state["at"] is None else datetime.fromisoformat(state["at"])
