"""What a revision answered within a window, one column at a time: kept files, and the log where they end."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from headgate.errors import MonitorError
from headgate.records import Window
from monitoring.predictions.typed import INPUT, OUTPUT, alike, answered, typed

if TYPE_CHECKING:
    import io

    from monitoring.predictions.store import Captured, PredictionStore, Stored


class _Part(NamedTuple):
    """A table of the window: a file of the store, or the newest rows in memory."""

    names: frozenset[str]
    rows: pa.Array
    file: Stored | None
    table: pa.Table | None


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
    """

    def __init__(
        self, store: PredictionStore | None, captured: Captured, revision: str, window: Window, *,
        copies: bool = False,
    ) -> None:  # fmt: skip
        self._store, self._copies = store, copies
        self.revision = revision
        self.unreadable: dict[str, str] = {}
        self.repeated = 0
        since = min(max(store.until(), window.start), window.end) if store else window.start
        newest = captured(Window(start=since, end=window.end))
        tail = typed(batch for some in newest if (batch := some.filter(pc.equal(some["revision"], revision))).num_rows)
        # Where the log of the newest rows is gone, they were rescued before.
        until = since if tail.num_rows else window.end
        files = store.files(revision, Window(start=window.start, end=window.end)) if store else []
        kept = [file for file in files if file.start < since or (file.rescued and not tail.num_rows)]
        self._parts = [part for file in kept if (part := self._part_of(file, Window(start=window.start, end=until)))]
        self._parts.append(self._part(tail, Window(start=since, end=window.end), tail.column_names, None, tail))
        self.num_rows = sum(len(part.rows) for part in self._parts)
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

    def column(self, name: str) -> pa.ChunkedArray:
        """One of them, of all rows; null where a request did not have it.

        Raises:
            MonitorError: a file cannot be read.
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

    def _part_of(self, file: Stored, window: Window) -> _Part | None:
        try:
            with self._open(file) as opened:
                parquet = pq.ParquetFile(opened)
                names = parquet.schema_arrow.names
                fixed = parquet.read(columns=["time", "status", "mirrored", "request_id", "row"])
        except (OSError, pa.ArrowException) as error:
            self.unreadable[file.path] = str(error).splitlines()[0]
            return None
        return self._part(fixed, window, names, file, None)

    def _part(
        self, fixed: pa.Table, window: Window, names: list[str], file: Stored | None, table: pa.Table | None
    ) -> _Part:
        start, end = (pa.scalar(moment, fixed.schema.field("time").type) for moment in (window.start, window.end))
        inside = pc.and_(pc.greater_equal(fixed["time"], start), pc.less(fixed["time"], end))
        # Arrow's own indices_nonzero ends the process where a column has no chunk.
        rows = pa.array(np.flatnonzero(pc.and_(answered(fixed, copies=self._copies), inside).to_numpy()))
        seen = fixed.take(rows)
        first = seen.filter(pc.equal(seen["row"], 0))["request_id"]
        self.repeated += len(first) - pc.count_distinct(first).as_py()
        return _Part(frozenset(names), rows, file, table)

    def _read(self, part: _Part, stored: str) -> pa.ChunkedArray:
        if stored not in part.names:
            return pa.chunked_array([pa.nulls(len(part.rows))])
        if part.table is not None:
            return part.table[stored].take(part.rows)
        assert part.file is not None  # noqa: S101 - it is one of the two
        try:
            with self._open(part.file) as opened:
                return pq.read_table(opened, columns=[stored]).column(0).take(part.rows)
        except (OSError, pa.ArrowException) as error:
            raise MonitorError(
                f"{part.file.path} cannot be read: {error}", fix="restore the file, or remove it"
            ) from error
