"""Reading the prediction log that `serving/` writes: Arrow streams, one folder a revision.

A stream that is still being written, or whose process was killed, is read up to its last whole batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

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


def read(folder: Path, endpoint: str, revision: str, window: Window) -> Iterator[pa.RecordBatch]:
    """The rows of one revision's log within a window, oldest file first, in batches of `SCHEMA`."""
    start, end = (
        pa.scalar(window.start, SCHEMA.field("time").type),
        pa.scalar(window.end, SCHEMA.field("time").type),
    )
    for path in sorted(folder.glob("*.arrows")):
        for batch in _whole_batches(path, window.start.timestamp()):
            inside = pc.and_(pc.greater_equal(batch["time"], start), pc.less(batch["time"], end))
            rows = batch.filter(inside)
            if rows.num_rows:
                constant = [pa.array([name] * rows.num_rows, pa.string()) for name in (endpoint, revision)]
                yield pa.RecordBatch.from_arrays([*rows.columns, *constant], schema=SCHEMA)


def _whole_batches(path: Path, since: float) -> Iterator[pa.RecordBatch]:
    """What is whole of a file that was written to since then."""
    try:
        if path.stat().st_mtime < since:
            return
        with path.open("rb") as file:
            reader = pa.ipc.open_stream(file)
            while True:
                yield reader.read_next_batch()
    except (StopIteration, pa.ArrowInvalid, OSError):
        # The end of the stream, or of what its writer has finished; or the writer has rotated it away.
        return
