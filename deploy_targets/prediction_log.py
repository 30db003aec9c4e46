"""Reading the prediction log that `serving/` writes: Arrow streams, one folder a revision.

A stream that is still being written, or whose process was killed, is read up to its last whole batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from typing import IO

    from headgate.records import Window

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
        ("endpoint", pa.string()),
        ("revision", pa.string()),
    ]
)
"""One row a request; `request` and `response` are the bodies as they were sent, `seconds` is null where not known."""

SHIPPED_HOUR = "%Y%m%d%H"
"""The folder of what serving/ship.py brought to storage, by the first row's hour: `<endpoint>/<revision>/<hour>/`."""


def read(folder: Path, endpoint: str, revision: str, window: Window) -> Iterator[pa.RecordBatch]:
    """The rows of one revision's log within a window, oldest file first, in batches of `SCHEMA`."""
    for path in sorted(folder.glob("*.arrows")):
        yield from rows(_whole_batches(path, window.start.timestamp()), endpoint, revision, window)


def rows(written: Iterable[pa.RecordBatch], endpoint: str, revision: str, window: Window) -> Iterator[pa.RecordBatch]:
    """What a server wrote within a window, in batches of `SCHEMA`."""
    start, end = (
        pa.scalar(window.start, SCHEMA.field("time").type),
        pa.scalar(window.end, SCHEMA.field("time").type),
    )
    for batch in written:
        inside = pc.and_(pc.greater_equal(batch["time"], start), pc.less(batch["time"], end))
        kept = batch.filter(inside)
        if kept.num_rows:
            constant = [pa.array([name] * kept.num_rows, pa.string()) for name in (endpoint, revision)]
            yield pa.RecordBatch.from_arrays([*kept.columns, *constant], schema=SCHEMA)


def batches(stream: IO[bytes] | pa.NativeFile) -> Iterator[pa.RecordBatch]:
    """The whole batches of a stream that may end in the middle of one."""
    try:
        reader = pa.ipc.open_stream(stream)
        while True:
            yield reader.read_next_batch()
    except (StopIteration, pa.ArrowInvalid):
        return


def _whole_batches(path: Path, since: float) -> Iterator[pa.RecordBatch]:
    """What is whole of a file that was written to since then."""
    try:
        if path.stat().st_mtime < since:
            return
        with path.open("rb") as file:
            yield from batches(file)
    except OSError:
        # The writer has rotated it away.
        return
