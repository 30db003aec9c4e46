"""How a platform hands over its counters: late, one number a minute, each series at a time of its own, twice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

Array = np.ndarray[Any, Any]
Counters = dict[str, Array]


@dataclass(frozen=True)
class Reading:
    """What stands between the counters of two versions and the judge. The default changes nothing.

    Attributes:
        point: seconds of traffic in one number of a series; 0 where a look reads the counters themselves.
        late: seconds from the end of a point until its first series can be read.
        torn: the series of a point become readable at different times, at most these seconds apart. Requests and
            failures of each version are one series each.
        failures_late: seconds by which failures become readable after requests, in addition.
        settle: seconds; a target that waits reads only points that ended at least so long ago.
        alternate: the stable version's counters change in odd looks only, and the canary's in even ones.
        copies: how often each request is counted.
    """

    point: float = 0.0
    late: float = 0.0
    torn: float = 0.0
    failures_late: float = 0.0
    settle: float = 0.0
    alternate: bool = False
    copies: int = 1

    @property
    def is_direct(self) -> bool:
        """Whether counters are readable at once and all together."""
        return not (self.point or self.late or self.torn or self.failures_late or self.settle)


DIRECT = Reading()
"""A look reads the counters themselves."""


class _Point(NamedTuple):
    """Counts of one span of time: when it ended, and for each arm and metric the counts and when they are readable."""

    ended: float
    cells: list[Counters]
    readable: list[Counters]


class Reader:
    """Read counters of many replications as a platform shows them.

    Args:
        reading: how it does.
        rng: chance, for the times at which series become readable.
    """

    def __init__(self, reading: Reading, rng: np.random.Generator) -> None:
        self._reading, self._rng = reading, rng
        self._points: list[_Point] = []
        self._ended, self._looks = 0.0, 0
        self._counted: list[Counters] = [{}, {}]
        self._shown: list[Counters] = [{}, {}]

    def read(self, at: float, totals: list[Counters]) -> list[Counters]:
        """Return what can be read of both arms.

        Args:
            at: seconds since the shift began.
            totals: the stable version's cumulative counters and the canary's, by metric, of shape (size, cells).
        """
        reading = self._reading
        self._looks += 1
        if reading.is_direct:
            shown = [dict(arm) for arm in totals]
        else:
            if at >= self._ended + reading.point:
                self._end_point(at, totals)
            shown = self._readable(at, totals)
        if reading.alternate:
            waits = self._looks % 2
            # The canary's counters stand still in odd looks, the stable version's in even ones.
            shown[waits] = self._shown[waits] or {name: 0 * cells for name, cells in shown[waits].items()}
        self._shown = shown
        return [{name: cells * reading.copies for name, cells in arm.items()} for arm in shown]

    def _end_point(self, at: float, totals: list[Counters]) -> None:
        reading = self._reading
        fresh = [_less(arm, before) for arm, before in zip(totals, self._counted, strict=True)]
        readable: list[Counters] = []
        for arm in fresh:
            times: Counters = {}
            for name, cells in arm.items():
                times[name] = np.asarray(at + reading.late + self._rng.random(cells.shape) * reading.torn)
                if name != "latency":
                    times[name][:, 1] += reading.failures_late
            readable.append(times)
        self._points.append(_Point(at, fresh, readable))
        self._ended = at
        self._counted = [dict(arm) for arm in totals]

    def _readable(self, at: float, totals: list[Counters]) -> list[Counters]:
        shown = [
            {name: np.zeros(cells.shape) + before.get(name, 0) for name, cells in arm.items()}
            for arm, before in zip(totals, self._shown, strict=True)
        ]
        waiting = []
        for point in self._points:
            if point.ended + self._reading.settle > at:
                waiting.append(point)
                continue
            is_whole = True
            for arm, cells, times in zip(shown, point.cells, point.readable, strict=True):
                for name in cells:
                    now = times[name] <= at
                    arm[name] += np.where(now, cells[name], 0)
                    cells[name] = np.where(now, 0, cells[name])
                    is_whole = is_whole and bool(now.all())
            if not is_whole:
                waiting.append(point)
        self._points = waiting
        return shown


def _less(arm: Mapping[str, Array], before: Mapping[str, Array]) -> Counters:
    return {name: cells - before.get(name, 0) for name, cells in arm.items()}
