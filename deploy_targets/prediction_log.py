"""Reading the prediction log that `headgate_server/` writes: Arrow streams, one folder a revision.

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
"""One row a request; `request` and `response` are the bodies as they were sent, `seconds` is null where not known.

A batch's metadata may have `types`: the pandas types of a CSV's columns by name, as JSON, by which the server reads it;
and `server`: which of a revision's servers wrote it.
"""

SERVER = b"server"

_PENDING_SECONDS = 60.0
"""A row is written at most so long after its time."""

SHIPPED_HOUR = "%Y%m%d%H"
"""The folder of what headgate_server/ship.py stored, by the first row's hour: `<endpoint>/<revision>/<hour>/`."""


def read(folder: Path, endpoint: str, revision: str, window: Window) -> Iterator[pa.RecordBatch]:
    """The rows of one revision's log within a window, oldest file first, in batches of `SCHEMA`."""
    for path in sorted(folder.glob("*.arrows")):
        if not _begins_after(path, window.end.timestamp()):
            yield from rows(_whole_batches(path, window.start.timestamp()), endpoint, revision, window)


def rows(
    written: Iterable[pa.RecordBatch], endpoint: str, revision: str, window: Window, server: str = ""
) -> Iterator[pa.RecordBatch]:  # fmt: skip
    """What a server wrote within a window, in batches of `SCHEMA`.

    Args:
        written: batches without the last two columns.
        endpoint: of all of them.
        revision: the same.
        window: rows of another time are left out.
        server: its name, where there are several.
    """
    start, end = (
        pa.scalar(window.start, SCHEMA.field("time").type),
        pa.scalar(window.end, SCHEMA.field("time").type),
    )
    for batch in written:
        inside = pc.and_(pc.greater_equal(batch["time"], start), pc.less(batch["time"], end))
        kept = batch.filter(inside)
        if kept.num_rows:
            constant = [pa.array([name] * kept.num_rows, pa.string()) for name in (endpoint, revision)]
            metadata = {**(batch.schema.metadata or {}), **({SERVER: server.encode()} if server else {})}
            schema = SCHEMA.with_metadata(metadata) if metadata else SCHEMA
            yield pa.RecordBatch.from_arrays([*kept.columns, *constant], schema=schema)


def batches(stream: IO[bytes] | pa.NativeFile) -> Iterator[pa.RecordBatch]:
    """The whole batches of a stream that may end in the middle of one."""
    try:
        reader = pa.ipc.open_stream(stream)
        while True:
            yield reader.read_next_batch()
    except (StopIteration, pa.ArrowInvalid):
        return


def _begins_after(path: Path, end: float) -> bool:
    """Whether a file was opened so long after `end` that no row of before is in it: its name begins with the time."""
    opened = path.name.partition("-")[0]
    return opened.isdecimal() and int(opened) / 1e9 > end + _PENDING_SECONDS


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
