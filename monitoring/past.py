"""The stable version's past: what its servers logged in the last hours, as counts of one second each.

How much these vary says how much the evidence of a release is worth: monitoring/judge/dispersion.py.
"""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headgate.records import Window

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime

    from monitoring.judge.engine import Array

LONGEST_SECONDS = 6 * 3600
MOST_ROWS = 2_000_000
READ_SECONDS = 3.0
"""A log that has more rows, or takes longer to read, is read less far back."""

_SERVER = b"server"
"""In the metadata of a log's batch: which of the version's servers wrote it (deploy_targets/prediction_log.py)."""

_FIRST_SLICE_SECONDS = 600
_MOST_CELLS = 4_000_000
"""Of the counts of one metric, by second and server; fewer seconds are used where there are more."""

_SERVER_ERROR, _CLIENT_ERROR = 500, 400
_COLUMNS = ("time", "status", "seconds", "mirrored")
_REQUESTS, _ERRORS, _CLIENT_ERRORS, _BUCKETS = range(4)


class Past:
    """Counts of one version by second and server.

    Args:
        end: after the last second.
        bounds: of latency buckets, in seconds.

    Attributes:
        seconds: how many are counted, the newest.
    """

    def __init__(self, end: datetime, bounds: Sequence[float]) -> None:
        self.seconds = 0
        self._start, self._bounds = end.timestamp() - LONGEST_SECONDS, np.array(bounds)
        self._width = _BUCKETS + len(bounds) + 1
        self._by_server: dict[str, Array] = {}

    @property
    def servers(self) -> int:
        """How many servers the log names; 1 where it names none."""
        return max(len(self._by_server), 1)

    def add(self, server: str, rows: pa.Table) -> None:
        """Count a server's rows, of the columns time, status, seconds and mirrored; those of copies are left out."""
        rows = rows.filter(pc.invert(pc.fill_null(rows["mirrored"], False)))  # noqa: FBT003 - pyarrow's
        second = np.floor(rows["time"].cast("int64").to_numpy() / 1e6 - self._start).astype(int)
        inside = (second >= 0) & (second < LONGEST_SECONDS)
        status, took = pc.fill_null(rows["status"], 0).to_numpy()[inside], rows["seconds"].to_numpy()[inside]
        second = second[inside]
        if server not in self._by_server:
            self._by_server[server] = np.zeros((LONGEST_SECONDS, self._width), np.float32)
        counts = self._by_server[server]
        is_error, is_known = status >= _SERVER_ERROR, ~np.isnan(took)
        np.add.at(counts[:, _REQUESTS], second, 1)
        np.add.at(counts[:, _ERRORS], second[is_error], 1)
        np.add.at(counts[:, _CLIENT_ERRORS], second[(status >= _CLIENT_ERROR) & ~is_error], 1)
        np.add.at(counts, (second[is_known], _BUCKETS + np.searchsorted(self._bounds, took[is_known])), 1)

    def errors(self) -> Array:
        """Requests and answers of 5xx, of shape (seconds, servers, 2)."""
        return self._cells([_REQUESTS, _ERRORS])

    def client_errors(self) -> Array:
        """Requests and answers of 4xx, of shape (seconds, servers, 2)."""
        return self._cells([_REQUESTS, _CLIENT_ERRORS])

    def latency(self) -> Array:
        """Requests by bucket, of shape (seconds, servers, buckets)."""
        return self._cells(list(range(_BUCKETS, self._width)))

    def _cells(self, columns: list[int]) -> Array:
        seconds = min(self.seconds, _MOST_CELLS // (self.servers * len(columns)))
        parts = [counts[LONGEST_SECONDS - seconds :, columns] for counts in self._by_server.values()]
        return np.stack(parts, axis=1).astype(float) if parts else np.zeros((0, 1, len(columns)))


def read_past(
    captured: Callable[[Window], Iterable[pa.RecordBatch]], revision: str, end: datetime, bounds: Sequence[float],
    *, clock: Callable[[], float] = time.monotonic,
) -> Past:  # fmt: skip
    """Read a version's log backwards, in slices that double, until one of the limits.

    Args:
        captured: the log of all versions, of a window.
        revision: whose rows are counted.
        end: of what is read; later rows may not be there yet.
        bounds: of latency buckets, in seconds.
        clock: in seconds.
    """
    past, length, began, rows = Past(end, bounds), _FIRST_SLICE_SECONDS, clock(), 0
    # As many rows again as there are, twice, may be in the next slice.
    while past.seconds < LONGEST_SECONDS and 3 * rows <= MOST_ROWS:
        seconds = min(past.seconds + length, LONGEST_SECONDS)
        window = Window(start=end - timedelta(seconds=seconds), end=end - timedelta(seconds=past.seconds))
        by_server: dict[str, list[pa.RecordBatch]] = {}
        for batch in captured(window):
            if batch.num_rows and batch["revision"][0].as_py() == revision:
                server = (batch.schema.metadata or {}).get(_SERVER, b"").decode()
                by_server.setdefault(server, []).append(batch.select(_COLUMNS).replace_schema_metadata())
            if clock() - began > READ_SECONDS:
                return past
        for server, batches in by_server.items():
            table = pa.Table.from_batches(batches)
            rows += table.num_rows
            past.add(server, table)
        past.seconds, length = seconds, 2 * length
    return past
