"""What a revision answered within a window, one column at a time: kept files, and the log where they end."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from headgate.errors import MonitorError
from headgate.records import Window
from monitoring.parquet import ParquetFile, UnreadableError, reading
from monitoring.predictions.typed import FIXED, INPUT, OUTPUT, alike, answered, is_kept, typed

if TYPE_CHECKING:
    import io
    from collections.abc import Callable

    from monitoring.predictions.store import Captured, PredictionStore, Stored


_T = TypeVar("_T")
_LATER = {"readable"}
"""Fixed columns that files of earlier releases do not have."""


class _Part(NamedTuple):
    """A table of the window: a file of the store, or the newest rows in memory."""

    names: frozenset[str]
    rows: pa.Array
    file: tuple[Stored, ParquetFile] | None
    table: pa.Table | None
    repeated: int
    unreadable_requests: int


class FileLostError(MonitorError):
    """A file of the window turned out to be unreadable; the window is there without it (`Predictions.whole`)."""


class Predictions:
    """The rows that clients got an answer to.

    A column is called as the field is that clients send, or `prediction`; of a field that is called like a part of the
    answer, the answer's is read.

    Args:
        store: of the endpoint; without it the log alone is read.
        captured: reads the endpoint's log.
        revision: whose answers.
        window: their time.
        copies: also those that no client saw, of mirrored requests.

    Attributes:
        revision: whose answers.
        num_rows: of every column.
        repeated: rows of requests whose ids were there before.
        unreadable: files that cannot be read, and why.
        unreadable_requests: requests that clients got an answer to and whose bodies cannot be read; no rows.
    """

    def __init__(
        self, store: PredictionStore | None, captured: Captured, revision: str, window: Window, *,
        copies: bool = False,
    ) -> None:  # fmt: skip
        self._store, self._copies = store, copies
        self.revision = revision
        self.unreadable: dict[str, str] = {}
        since = min(max(store.until(), window.start), window.end) if store else window.start
        newest = captured(Window(start=since, end=window.end))
        tail = typed(batch for some in newest if (batch := some.filter(pc.equal(some["revision"], revision))).num_rows)
        # Where the log of the newest rows is gone, they were rescued before.
        until = since if tail.num_rows else window.end
        files = store.files(revision, Window(start=window.start, end=window.end)) if store else []
        kept = [file for file in files if file.start < since or (file.rescued and not tail.num_rows)]
        self._parts = [part for file in kept if (part := self._part_of(file, Window(start=window.start, end=until)))]
        self._parts.append(
            _part(tail, Window(start=since, end=window.end), tail.column_names, copies=copies, table=tail)
        )
        self._count()
        self._stored_as = {
            stored.removeprefix(prefix): stored
            for prefix in (INPUT, OUTPUT)
            for part in self._parts if len(part.rows)
            for stored in sorted(part.names) if stored.startswith(prefix)
        }  # fmt: skip

    @property
    def column_names(self) -> list[str]:
        """The inputs, then the parts of the answer."""
        return list(self._stored_as)

    @property
    def parts_of_answer(self) -> list[str]:
        """The names of the answer's columns."""
        return [name for name, stored in self._stored_as.items() if stored.startswith(OUTPUT)]

    @property
    def answers(self) -> dict[str, pa.ChunkedArray]:
        """The columns of the answer.

        Raises:
            MonitorError: a file cannot be read.
        """
        return {name: self.column(name) for name in self.parts_of_answer}

    def whole(self, work: Callable[[], _T]) -> _T:
        """Do what reads columns, and do it again without each file that turns out to be unreadable meanwhile.

        Args:
            work: reads columns, or their number, and has no other effect.
        """
        while True:
            try:
                return work()
            except FileLostError:
                # There is one file less each time.
                continue

    def column(self, name: str) -> pa.ChunkedArray:
        """One of them, of all rows; null where a request did not have it, or only files had it that are lost.

        Raises:
            FileLostError: a file cannot be read; from now on the window has no rows of it.
        """
        return alike([self._read(part, self._stored_as[name]) for part in self._parts])

    def of_requests(self, ids: pd.Series[str], names: list[str]) -> pd.DataFrame:
        """The rows of some requests.

        Args:
            ids: the requests'.
            names: columns as they are stored (monitoring/predictions/typed.py).

        Raises:
            MonitorError: a file cannot be read.
        """
        wanted = pa.array(ids, pa.string())
        found = []
        for part in self._parts:
            rows = pc.is_in(self._read(part, "request_id"), value_set=wanted)
            table = pa.table({name: self._read(part, name).filter(rows) for name in names})
            found.append(table.to_pandas())
        # The types of an answer may differ from file to file.
        rows_of_all: pd.DataFrame = pd.concat([some for some in found if len(some)] or found[:1], ignore_index=True)
        return rows_of_all

    def _open(self, file: Stored) -> io.BufferedIOBase:
        assert self._store is not None  # noqa: S101 - it named the file
        return self._store.open(file.path)

    def _count(self) -> None:
        self.num_rows = sum(len(part.rows) for part in self._parts)
        self.repeated = sum(part.repeated for part in self._parts)
        self.unreadable_requests = sum(part.unreadable_requests for part in self._parts)

    def _part_of(self, file: Stored, window: Window) -> _Part | None:
        try:
            with reading(), self._open(file) as opened:
                parquet = ParquetFile(opened)
                names = parquet.column_names
                fixed = parquet.read(opened, [name for name in FIXED.names if name in names or name not in _LATER])
                wanted = pa.schema([FIXED.field(name) for name in fixed.column_names])
                return _part(fixed.cast(wanted), window, names, copies=self._copies, file=(file, parquet))
        except UnreadableError as error:
            self.unreadable[file.path] = str(error)
            return None

    def _read(self, part: _Part, stored: str) -> pa.ChunkedArray:
        if stored not in part.names:
            return pa.chunked_array([pa.nulls(len(part.rows))])
        if part.table is not None:
            return part.table[stored].take(part.rows)
        assert part.file is not None  # noqa: S101 - it is one of the two
        stored_file, described = part.file
        try:
            with reading(), self._open(stored_file) as opened:
                column = described.read(opened, [stored]).column(0)
                if stored not in FIXED.names and not is_kept(column.type):
                    why = f"its column {stored!r} is {column.type}, and no number, text or moment"
                    raise UnreadableError(why)  # noqa: TRY301
                if pa.types.is_temporal(column.type):
                    # A time zone that is not known shows when a moment is written down.
                    column.slice(0, 1).cast(pa.string())
                return column.take(part.rows)
        except UnreadableError as error:
            self.unreadable[stored_file.path] = str(error)
            self._parts.remove(part)
            self._count()
            raise FileLostError(
                f"{stored_file.path} cannot be read: {error}", fix="restore the file, or remove it"
            ) from error


def _part(
    fixed: pa.Table, window: Window, names: list[str], *, copies: bool,
    file: tuple[Stored, ParquetFile] | None = None, table: pa.Table | None = None,
) -> _Part:  # fmt: skip
    start, end = (pa.scalar(moment, fixed.schema.field("time").type) for moment in (window.start, window.end))
    inside = pc.and_(pc.greater_equal(fixed["time"], start), pc.less(fixed["time"], end))
    # Arrow's own indices_nonzero ends the process where a column has no chunk.
    counted = pc.fill_null(pc.and_(answered(fixed, copies=copies), inside), fill_value=False).to_numpy()
    unreadable = 0
    if "readable" in names:
        readable = fixed["readable"].to_numpy()
        unreadable = int(np.count_nonzero(counted & (readable == False)))  # noqa: E712 - or null
        counted = counted & (readable == True)  # noqa: E712 - or null
    rows = pa.array(np.flatnonzero(counted))
    seen = fixed.take(rows)
    first = seen.filter(pc.equal(seen["row"], 0))["request_id"]
    repeated = len(first) - pc.count_distinct(first).as_py()
    return _Part(frozenset(names), rows, file, table, repeated, unreadable)
