"""Parquet files that others may have written: read within bounds, or refused with the reason.

A file of a few kilobytes can stand for a billion rows, as equal values are kept once, and damaged bytes make any
number of any. So what a file says of itself is held against its size before a value is read. Texts are read as places
in their dictionary, and become texts when it is known how long they are together. Whatever Arrow raises is one error.

What remains: a page may be larger than the file says, by at most 2 GiB, a list within one row may have any number of
parts, and a fault of Arrow's own could end the process.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import types

if TYPE_CHECKING:
    import io
    from collections.abc import Iterator, Sequence

FREE, TIMES = 16 * 2**20, 256
"""A file may be 16 MiB and 256 times its size in memory; measured: at most 40 times for logs of equal requests."""
MOST_COLUMNS = 5_000
_CELL = 8
"""Bytes that a value takes, whatever its type; texts are counted apart."""
_MOST_NAMED = 2**20
"""Of the parts of a file, and of the letters of a name, that its description may have."""
_RAISED = (
    OSError,
    ValueError,
    NotImplementedError,
    TypeError,
    LookupError,
    ArithmeticError,
    MemoryError,
    RecursionError,
    pa.ArrowException,
)
_SHOWN = 300


class UnreadableError(Exception):
    """A file that cannot be read; the text says why, on one line."""


class ParquetFile:
    """What a file says of itself; it is read once, and each `read` opens the file anew.

    Args:
        source: its path, or the opened file.

    Attributes:
        column_names: in the file's order.
        num_rows: of every column.

    Raises:
        UnreadableError: it is none, or would take too much memory.
    """

    def __init__(self, source: Path | io.BufferedIOBase) -> None:
        with reading():
            size = _size(source)
            described = pq.ParquetFile(
                source, thrift_string_size_limit=_MOST_NAMED * 64, thrift_container_size_limit=_MOST_NAMED
            ).metadata
            self._described, self._allowed = described, FREE + TIMES * size
            self._require_bounds(size)
            self._schema = _known(described.schema.to_arrow_schema())
            self.column_names: list[str] = list(map(str, self._schema.names))
            self.num_rows: int = described.num_rows

    @property
    def schema(self) -> pa.Schema:
        """Names and types, as they are read."""
        return self._schema

    def read(self, source: Path | io.BufferedIOBase, names: Sequence[str] | None = None) -> pa.Table:
        """Read some columns, or all.

        Args:
            source: the same file.
            names: of the columns.

        Raises:
            UnreadableError: there is no such column or there are two, or they cannot be read.
        """
        with reading():
            wanted = self.column_names if names is None else list(names)
            for name in wanted:
                if (times := self.column_names.count(name)) != 1:
                    raise UnreadableError(f"it has {times or 'no'} column{'s' * (times > 1)} {name!r}")
            texts = [name for name in wanted if _is_text(self._schema.field(name).type)]
            # Without a name all columns are read.
            file = pq.ParquetFile(source, metadata=self._described, read_dictionary=texts)
            found = file.read(columns=None if names is None else wanted).select(wanted)
            if found.num_rows != self.num_rows:
                raise UnreadableError(f"it says that it has {self.num_rows} rows, and has {found.num_rows}")
            columns = [self._plain(name, found.column(name)) for name in wanted]
            return pa.table(columns, schema=pa.schema([self._schema.field(n) for n in wanted], self._schema.metadata))

    def _plain(self, name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
        """The values of a column that was read as places in a dictionary."""
        kind = self._schema.field(name).type
        if not types.is_dictionary(column.type):
            column.validate(full=True)
            return column if column.type == kind else column.cast(kind)
        column.validate(full=True)
        length = 0
        for chunk in column.chunks:
            sizes = pc.binary_length(chunk.dictionary)
            length += pc.sum(pc.take(sizes, chunk.indices).cast(pa.int64())).as_py() or 0
        self._require(length, f"the texts of {name!r} together")
        return column.cast(kind)

    def _require_bounds(self, size: int) -> None:
        described = self._described
        columns, rows = described.num_columns, described.num_rows
        if columns > MOST_COLUMNS:
            raise UnreadableError(f"it has {columns} columns, and at most {MOST_COLUMNS} are read")
        if rows < 0:
            raise UnreadableError(f"it says that it has {rows} rows")
        # Not by column: PyArrow 25 ends the process where the description of one has a fault.
        groups = [described.row_group(place) for place in range(described.num_row_groups)]
        self._require(sum(max(group.total_byte_size, 0) for group in groups), f"what is compressed in {size} bytes")
        rows = max(rows, sum(max(group.num_rows, 0) for group in groups))
        self._require(rows * columns * _CELL, f"the {rows} rows of {columns} columns that a file of {size} bytes names")

    def _require(self, needed: int, what: str) -> None:
        if needed > self._allowed:
            raise UnreadableError(
                f"{what} would take {needed / 2**20:.0f} MiB, and {self._allowed / 2**20:.0f} are allowed"
            )


@contextmanager
def reading() -> Iterator[None]:
    """Make one error of whatever reading a file may raise."""
    try:
        yield
    except _RAISED as error:
        raise UnreadableError(_on_one_line(str(error) or type(error).__name__)) from error


def _known(schema: pa.Schema) -> pa.Schema:
    """Return a schema in which texts are of the types that all of Arrow's functions take."""
    plain = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}
    fields = [field.with_type(plain.get(field.type, field.type)) for field in schema]
    return pa.schema(fields, schema.metadata)


def _on_one_line(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text.strip().splitlines()[0])[:_SHOWN]


def _size(source: Path | io.BufferedIOBase) -> int:
    if isinstance(source, Path):
        return source.stat().st_size
    size = source.seek(0, os.SEEK_END)
    source.seek(0)
    return size


def _is_text(kind: pa.DataType) -> bool:
    return bool(
        types.is_string(kind) or types.is_binary(kind) or types.is_large_string(kind) or types.is_large_binary(kind)
    )
