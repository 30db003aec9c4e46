"""What is kept of a training sample: a profile of each column, and some rows for the page that people look at."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow.parquet as pq

from headgate.home import unfinished, write_atomically
from monitoring.drift.columns import sample_of
from monitoring.drift.profile import Categories, Profile, dump, load, profile
from monitoring.parquet import ParquetFile, UnreadableError, reading

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

    from monitoring.drift.columns import Columns

_VERSION = 3
"""Of the stored form. 1 had no buckets of values, 1 and 2 had lists of numbers; any other version is made anew."""


@dataclass(frozen=True)
class Reference:
    """A training sample, read once.

    Attributes:
        rows: of the whole sample.
        profiles: of each column that can be compared.
        passed_over: the other columns, and why.
        sample: some of its rows.
    """

    rows: int
    profiles: dict[str, Profile]
    passed_over: dict[str, str]
    sample: pa.Table

    @classmethod
    def of(cls, table: Columns) -> Reference:
        """From a table, one column at a time."""
        profiles, passed_over = {}, {}
        for name in table.column_names:
            column = table.column(name)
            try:
                with reading():
                    found = profile(column)
            except UnreadableError as error:
                found = f"cannot be compared ({error})"
            if isinstance(found, str):
                passed_over[name] = found
            elif not found.used:
                passed_over[name] = "has no values"
            else:
                profiles[name] = found
        return cls(table.num_rows, profiles, passed_over, sample_of(table, list(profiles)))

    def save(self, folder: Path) -> None:
        """Keep it; the folder is made when it is missing."""
        folder.mkdir(parents=True, exist_ok=True)
        # Others may read or write the same: endpoints share references.
        pq.write_table(self.sample, written := unfinished(folder / "sample.parquet"))
        written.replace(folder / "sample.parquet")
        stored = {
            "version": _VERSION, "rows": self.rows, "passed_over": self.passed_over,
            "profiles": {name: dump(found) for name, found in self.profiles.items()},
        }  # fmt: skip
        # Last, and whole: a reference without it is none.
        write_atomically(folder / "profiles.json", json.dumps(stored))

    @classmethod
    def load(cls, folder: Path) -> Reference | None:
        """What was kept, or None where nothing was, only half of it, or too little for a comparison."""
        try:
            stored = json.loads((folder / "profiles.json").read_text())
            sample = ParquetFile(kept := folder / "sample.parquet").read(kept)
        except (OSError, ValueError, UnreadableError):
            return None
        if stored["version"] not in {1, 2, _VERSION}:
            return None
        profiles = {name: load(text) for name, text in stored["profiles"].items()}
        if any(isinstance(found, Categories) and found.rest and not found.buckets for found in profiles.values()):
            return None
        return cls(stored["rows"], profiles, stored["passed_over"], sample)
