"""Find errors in the logs of the stack's programs: lines of level ERROR or worse, and tracebacks.

The formats are those of Prefect, Python's logging, uvicorn, MLflow and Envoy.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PREFECT_DATES = {"PREFECT_LOGGING_FORMATTERS_STANDARD_DATEFMT": "%Y-%m-%d %H:%M:%S"}
"""Prefect writes the time of day alone; with this in its environment the date too."""

PASSING = (
    # Prefect's server on SQLite cannot write a batch of events that it has already: one that was delivered again.
    r"dropping \d+ events[\s\S]*NOT NULL constraint failed: events\.occurred",
    # Prefect's worker was ended while it looked for cancelled runs by polling.
    r"FlowRunCancellingObserver\._handle_polling_task_done[\s\S]*CancelledError$",
    # A schedule was removed, and its coming runs with it, while Prefect's worker was about to start one of them.
    r"Failed to update state of flow run '[\s\S]*Flow run with id \S+ not found",
)
"""Errors that the program itself puts right."""

_READ_BYTES = 256 * 1024
_TIME = r"(\d{4})[-/](\d\d)[-/](\d\d)[ T](\d\d):(\d\d):(\d\d)"
_STAMP = re.compile(_TIME)
_BEGINS = re.compile(rf"\[?{_TIME}|\d\d:\d\d:\d\d[.,]\d+ |[A-Z]{{4,8}}:\s|\S+:\d+: \w+Warning: ")
_LEVEL = re.compile(
    r"\| (ERROR|CRITICAL)\s*\|"  # Prefect
    r"|^(ERROR|CRITICAL):"  # uvicorn
    r"|^[\d/\-]+ [\d:,.]+ (ERROR|CRITICAL)\b"  # Python's logging, MLflow
    r"|\]\[(error|critical)\]\["  # Envoy
)
_OF_A_RUN = re.compile(r"\| (Flow|Task) run '")
_TRACEBACK = re.compile(r"^\W*Traceback \(most recent call last\)|^\W*\+ Exception Group Traceback")


@dataclass(frozen=True)
class LoggedError:
    """An error in a log.

    Attributes:
        at: when it was written; None where the log has no dates.
        text: the whole record, with its traceback.
    """

    at: datetime | None
    text: str

    @property
    def passes(self) -> bool:
        """Whether the program puts it right by itself."""
        return any(re.search(pattern, self.text) for pattern in PASSING)

    @property
    def is_of_a_run(self) -> bool:
        """Whether a flow run or one of its tasks has failed, which Prefect itself shows."""
        return _OF_A_RUN.search(self.text.splitlines()[0]) is not None

    @property
    def summary(self) -> str:
        """The first line, and the last one of a traceback: the exception."""
        lines = [line.strip() for line in self.text.splitlines() if line.strip()]
        return lines[0] if len(lines) == 1 else f"{lines[0]} … {lines[-1]}"


def find_errors(text: str) -> list[LoggedError]:
    """Return the errors in a log's text, the oldest first."""
    found = []
    at: datetime | None = None
    for record in _records(text):
        stamp = _STAMP.search(record.splitlines()[0])
        if stamp is not None:
            # Logs have this machine's local time.
            at = datetime.strptime("".join(stamp.groups()), "%Y%m%d%H%M%S").astimezone()
        lines = record.splitlines()
        if _LEVEL.search(lines[0]) or any(_TRACEBACK.search(line) for line in lines):
            found.append(LoggedError(at, record))
    return found


def recent_errors(path: Path, since: datetime) -> list[LoggedError]:
    """Return the errors of a program itself in its log's last 256 KiB, since a moment.

    Errors that pass by themselves, and those of flow runs, are left out. A file that is not there has none.
    """
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _READ_BYTES))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return []
    recent = [error for error in find_errors(text) if error.at is not None and error.at >= since]
    return [error for error in recent if not error.passes and not error.is_of_a_run]


def _records(text: str) -> Iterator[str]:
    """Yield each line that begins a record, with the lines that continue it."""
    record: list[str] = []
    for line in text.splitlines():
        if record and _BEGINS.match(line):
            yield "\n".join(record)
            record = []
        if record or line.strip():
            record.append(line)
    if record:
        yield "\n".join(record)
