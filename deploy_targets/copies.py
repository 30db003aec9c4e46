"""Which rows of a cloud's own log are copies, and of which requests.

A platform that mirrors logs copies as it does requests, so the target keeps when a revision received them. Copies end a
while after a platform was told to end them, so what tells them from requests is when the revision was first given live
ones.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa

from deploy_targets.prediction_log import SCHEMA

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from headgate.records import Window

_ROWS = 2000


class Copies(NamedTuple):
    """When a revision received copies and no live requests; `end` is None until it is given some."""

    start: datetime
    end: datetime | None

    @classmethod
    def parse(cls, text: str) -> Copies | None:
        """From what `str` made of one; None where there is nothing."""
        start, _, end = text.partition(" ")
        if not start:
            return None
        return cls(datetime.fromisoformat(start), datetime.fromisoformat(end) if end else None)

    def __str__(self) -> str:
        return f"{self.start.isoformat()} {self.end.isoformat() if self.end else ''}".rstrip()

    @classmethod
    def begun(cls, known: Copies | None) -> Copies:
        """From now on, unless it is so already."""
        return known if known is not None and known.end is None else cls(datetime.now(UTC), None)

    def ended(self) -> Copies:
        """Until now, unless it was so before."""
        return self if self.end is not None else self._replace(end=datetime.now(UTC))

    def has(self, moment: datetime) -> bool:
        """Whether what it received then was a copy."""
        return self.start <= moment and (self.end is None or moment < self.end)

    def meets(self, window: Window) -> bool:
        """Whether it received any within a window."""
        return self.start < window.end and (self.end is None or self.end > window.start)


class Row(NamedTuple):
    """One captured request."""

    request_id: str
    time: datetime
    status: int
    content_type: str
    request: bytes
    response: bytes


def batches(
    endpoint: str,
    rows: Mapping[str, Callable[[], Iterable[Row]]],
    window: Window,
    copies: Mapping[str, Copies],
    mirrored: str | None,
) -> Iterator[pa.RecordBatch]:
    """Batches of `SCHEMA`; `seconds` is not known.

    Args:
        endpoint: whose.
        rows: reads a revision's rows within the window.
        window: of times.
        copies: which revisions received copies, and when.
        mirrored: the revision that receives some now.
    """
    if not any(name in copies and copies[name].meets(window) for name in rows):
        for name, read in rows.items():
            yield from _batches(endpoint, name, read(), mirrored=False)
        return
    found = {name: list(read()) for name, read in rows.items()}
    going_on = mirrored if mirrored is not None and mirrored in copies and copies[mirrored].meets(window) else None
    until = _until_when_both_are_there(found, going_on, window)
    originals = _Originals()
    for name, some in found.items():
        live = [row for row in some if not _is_copy(name, row, copies)]
        originals.add(live)
        yield from _batches(endpoint, name, [row for row in live if row.time <= until], mirrored=False)
    for name, some in found.items():
        made = [row for row in some if row.time <= until and _is_copy(name, row, copies)]
        yield from _batches(endpoint, name, map(originals.named, made), mirrored=True)


def _batches(endpoint: str, revision: str, rows: Iterable[Row], *, mirrored: bool) -> Iterator[pa.RecordBatch]:
    walk = iter(rows)
    while some := list(islice(walk, _ROWS)):
        columns = {name: [getattr(row, name) for row in some] for name in Row._fields}
        columns |= {
            "seconds": [None] * len(some), "mirrored": [mirrored] * len(some),
            "endpoint": [endpoint] * len(some), "revision": [revision] * len(some),
        }  # fmt: skip
        yield pa.RecordBatch.from_pydict(columns, schema=SCHEMA)


class _Originals:
    """Live requests, to name their copies after.

    Few platforms document whether a copy has its original's id. Where it has not, the original is the one with
    the same body that is nearest in time, which is the same question to ask of both versions.
    """

    def __init__(self) -> None:
        self._ids: set[str] = set()
        self._by_body: defaultdict[bytes, list[Row]] = defaultdict(list)

    def add(self, rows: Iterable[Row]) -> None:
        """Take live requests."""
        for row in rows:
            self._ids.add(row.request_id)
            self._by_body[row.request].append(row)

    def named(self, copy: Row) -> Row:
        """A copy with its original's id; as it is where there is none."""
        alike = self._by_body.get(copy.request)
        if copy.request_id in self._ids or not alike:
            return copy
        nearest = min(alike, key=lambda row: abs(row.time - copy.time))
        alike.remove(nearest)
        return copy._replace(request_id=nearest.request_id)


def _is_copy(revision: str, row: Row, copies: Mapping[str, Copies]) -> bool:
    return revision in copies and copies[revision].has(row.time)


def _until_when_both_are_there(rows: Mapping[str, Sequence[Row]], mirrored: str | None, window: Window) -> datetime:
    """Files come late, one variant's before another's; a copy that is late shall not look like one that was lost."""
    if mirrored is None:
        return window.end
    others = [row.time for other, found in rows.items() for row in found if other != mirrored]
    newest = max((row.time for row in rows.get(mirrored, ())), default=window.start)
    return min(window.end, newest, max(others, default=window.start))
