"""What is kept of a training sample: a profile of each column, and some rows for the page that people look at."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from headgate.home import unfinished, write_atomically
from monitoring.drift.columns import sample_of
from monitoring.drift.profile import Profile, dump, load, profile

if TYPE_CHECKING:
    from pathlib import Path

    from monitoring.drift.columns import Columns

_VERSION = 1
"""Of the stored form; one of another version is made anew."""


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
            found = profile(table.column(name))
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
        """What was kept, or None where nothing was, or only half of it."""
        try:
            stored = json.loads((folder / "profiles.json").read_text())
            sample = pq.read_table(folder / "sample.parquet")
        except (OSError, ValueError, pa.ArrowException):
            return None
        if stored["version"] != _VERSION:
            return None
        profiles = {name: load(text) for name, text in stored["profiles"].items()}
        return cls(stored["rows"], profiles, stored["passed_over"], sample)
