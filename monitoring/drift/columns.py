"""A table that is read one column at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
import pyarrow as pa
from pyarrow import types

from headgate.errors import MonitorError
from monitoring.parquet import ParquetFile, UnreadableError, reading

if TYPE_CHECKING:
    from pathlib import Path

SAMPLE = 10_000
"""Rows that Evidently's page shows; it takes 82 s for a million and 1.7 s for these."""


class Columns(Protocol):
    """What a check needs of a table; an Arrow table is one."""

    @property
    def column_names(self) -> list[str]:
        """In the table's order."""
        ...

    @property
    def num_rows(self) -> int:
        """Of every column."""
        ...

    def column(self, name: str, /) -> pa.ChunkedArray:
        """One of them."""
        ...


class ParquetColumns:
    """A Parquet file, or a folder of them, of which no more than one column is in memory.

    Args:
        path: of the file, or of the folder.

    Raises:
        MonitorError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        try:
            with reading():
                self._files = {file: ParquetFile(file) for file in ([path] if path.is_file() else _within(path))}
                if not self._files:
                    raise UnreadableError("there is no Parquet file in it")  # noqa: TRY301
                first = next(iter(self._files.values()))
                self.column_names: list[str] = first.column_names
                self.num_rows: int = sum(file.num_rows for file in self._files.values())
        except UnreadableError as error:
            raise _unreadable(path, error) from error
        self._path, self._schema = path, first.schema
        if twice := sorted({name for name in self.column_names if self.column_names.count(name) > 1}):
            raise _unreadable(path, UnreadableError(f"it has the column {twice[0]!r} twice"))

    def column(self, name: str) -> pa.ChunkedArray:
        """Read a column; one that is nested cannot be compared, and is not read.

        Raises:
            MonitorError: it cannot be read.
        """
        kind = self._schema.field(name).type
        if types.is_nested(kind):
            return pa.chunked_array([], kind)
        try:
            with reading():
                parts = [_of(file, path, name, kind) for path, file in self._files.items()]
                return pa.chunked_array([chunk for part in parts for chunk in part.chunks], kind)
        except UnreadableError as error:
            raise _unreadable(self._path, error) from error


def _within(folder: Path) -> list[Path]:
    """The files of a folder, but for those that begin with a dot or an underscore, which are of those who write it."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in files if not any(part[0] in "._" for part in path.relative_to(folder).parts))


def _of(file: ParquetFile, path: Path, name: str, kind: pa.DataType) -> pa.ChunkedArray:
    """A file's column, of the first one's type; null where it has none."""
    if name not in file.column_names:
        return pa.chunked_array([pa.nulls(file.num_rows, kind)])
    return file.read(path, [name]).column(0).cast(kind)


def _unreadable(path: Path, error: UnreadableError) -> MonitorError:
    return MonitorError(f"{path} cannot be read: {error}", fix="name a Parquet file, or a folder of them")


def sample_of(table: Columns, names: list[str]) -> pa.Table:
    """At most `SAMPLE` rows of some columns, drawn once and for all."""
    dice = np.random.default_rng(0)
    chosen = pa.array(np.sort(dice.choice(table.num_rows, min(table.num_rows, SAMPLE), replace=False)))
    return pa.table({name: table.column(name).take(chosen) for name in names})
