"""The prediction log: one row a request, written as Arrow streams by a thread off the request path.

Memory is bounded: when the disk cannot keep up, or is full, rows are dropped and counted, and requests go on. Large
rows have memory of their own, so that a client with large bodies drops no rows of others. Files rotate by size and
age, and the oldest go when the folder has had its share of the disk. The schema is that of
`deploy_targets.prediction_log`, less the two columns that the reader knows.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
import zlib
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa

from headgate_server.redact import redact
from headgate_server.settings import KEEP_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

logger = logging.getLogger("headgate_server")

SCHEMA = pa.schema(
    [
        ("request_id", pa.string()),
        ("time", pa.timestamp("us", tz="UTC")),
        ("status", pa.int16()),
        ("seconds", pa.float32()),
        ("mirrored", pa.bool_()),
        ("content_type", pa.string()),
        ("request", pa.binary()),
        ("response", pa.binary()),
    ]
)

FLUSH_SECONDS = 0.25
MAX_PENDING_BYTES = 64 * 2**20
"""Of the rows that are not written yet; three quarters of it are for large ones."""
_LARGE = 64 * 2**10
ROTATE_BYTES = 32 * 2**20
ROTATE_SECONDS = 600.0
_ROW_OVERHEAD = 200
_ALL = 2**32
_FIRST_ERROR = 400


class Row(NamedTuple):
    """One request and its answer; `time` is microseconds since 1970."""

    request_id: str
    time: int
    status: int
    seconds: float
    mirrored: bool
    content_type: str
    request: bytes
    response: bytes


class PredictionLog:
    """A writer for one process.

    Args:
        folder: where its files go; it is made when it is missing.
        dropped: called with the number of rows that could not be kept.
        sample: the share of requests that are kept; the same ones by every revision, as the request's id decides.
        hidden: fields whose values are not kept.
        keep: bytes that the folder may have.

    Attributes:
        types: by which the server reads a CSV's columns, for the log's readers; set it before the first row.
    """

    def __init__(
        self, folder: Path, dropped: Callable[[int], None], *, sample: float = 1.0, hidden: Collection[str] = (),
        keep: int = KEEP_BYTES,
    ) -> None:  # fmt: skip
        self.types: dict[str, str] | None = None
        self._folder = folder
        self._dropped = dropped
        self._below = round(sample * _ALL)
        self._hidden = frozenset(hidden)
        self._keep = keep
        self._pending: list[Row] = []
        self._pending_bytes = {True: 0, False: 0}
        """Of large rows, and of others."""
        self._wake = threading.Event()
        self._stopping = False
        self._writer: pa.ipc.RecordBatchStreamWriter | None = None
        self._path: Path | None = None
        self._opened = 0.0
        self._thread = threading.Thread(target=self._run, name="prediction-log", daemon=True)
        self._thread.start()

    def add(self, row: Row) -> None:
        """Take a row; it is on disk about a quarter of a second later. Never blocks and never raises."""
        if self._below < _ALL and zlib.crc32(row.request_id.encode()) >= self._below:
            return
        size = len(row.request) + len(row.response) + _ROW_OVERHEAD
        is_large = size > _LARGE
        if self._pending_bytes[is_large] > MAX_PENDING_BYTES * (0.75 if is_large else 0.25):
            self._dropped(1)
            return
        self._pending.append(row)
        self._pending_bytes[is_large] += size

    def close(self) -> None:
        """Write what is pending and end the file."""
        self._stopping = True
        self._wake.set()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        while not self._stopping:
            self._wake.wait(FLUSH_SECONDS)
            self._flush()
        self._flush()
        self._end_file()

    def _flush(self) -> None:
        rows, self._pending, self._pending_bytes = self._pending, [], {True: 0, False: 0}
        if not rows:
            return
        if self._hidden:
            rows = [self._redacted(row) for row in rows]
        try:
            self._write(pa.RecordBatch.from_arrays(
                [pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), SCHEMA, strict=True)],
                schema=SCHEMA,
            ))  # fmt: skip
        except (OSError, pa.ArrowException) as error:
            self._dropped(len(rows))
            logger.warning("prediction log: %d rows dropped: %s", len(rows), error)
            self._abandon_file()

    def _redacted(self, row: Row) -> Row:
        # An error may quote the value that it is about.
        response = redact(row.response, self._hidden) if row.status < _FIRST_ERROR else b""
        return row._replace(request=redact(row.request, self._hidden, row.content_type), response=response)

    def _write(self, batch: pa.RecordBatch) -> None:
        if self._writer is None or self._path is None:
            self._open_file()
        assert self._writer is not None and self._path is not None  # noqa: PT018, S101 - just opened
        self._writer.write_batch(batch)
        self._sink.flush()
        self._batches += 1
        if self._path.stat().st_size > ROTATE_BYTES or time.monotonic() - self._opened > ROTATE_SECONDS:
            self._end_file()
            self._remove_oldest()

    def _open_file(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._path = self._folder / f"{time.time_ns()}-{os.getpid()}.arrows"
        self._sink = self._path.open("wb")
        known = {} if self.types is None else {"types": json.dumps(self.types)}
        self._writer = pa.ipc.new_stream(self._sink, SCHEMA.with_metadata(known))
        self._opened = time.monotonic()
        self._batches = 0

    def _end_file(self) -> None:
        if self._writer is None:
            return
        try:
            self._writer.close()
            self._sink.close()
        except (OSError, pa.ArrowException) as error:
            logger.warning("prediction log: %s is not ended: %s", self._path, error)
        self._writer = None

    def _abandon_file(self) -> None:
        """Leave a file that could not be written to; its whole batches can be read, and the next batch has its own."""
        self._writer = None
        if self._path is not None and not self._batches:
            self._path.unlink(missing_ok=True)

    def _remove_oldest(self) -> None:
        files = sorted(self._folder.glob("*.arrows"))
        # A worker that has little to write goes on with the last of its files, however old it is.
        last = {path.stem.rpartition("-")[2]: path for path in files}
        written = {path for pid, path in last.items() if os.path.exists(f"/proc/{pid}")}  # noqa: PTH110
        # Another worker may be removing the same ones.
        sizes = {path: path.stat().st_size for path in files if path.exists()}
        excess = sum(sizes.values()) - self._keep
        for path, size in sizes.items():
            if excess <= 0:
                return
            if path in written:
                continue
            path.unlink(missing_ok=True)
            excess -= size
