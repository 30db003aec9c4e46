"""Reads the logs of the servers that tests start: an error that the test does not expect fails it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from headgate.stack.logs import find_errors

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

MARKER = "expects_errors"
"""`@pytest.mark.expects_errors("pattern", …)` names what a test makes its servers log."""

ALWAYS = (
    # The models of behaviour.py raise on purpose.
    "ValueError: x is not to my liking",
    # A run that waits for an approval, as Prefect logs it.
    r"Finished in state Suspended\(type=PAUSED\)",
    # Releases and checks fail by what a test releases, which it asserts. Of reconcile nothing is expected to fail.
    r"^[^\n]*\| (Flow run '(?!reconcile)|Task run ')",
)
PREFECT_AWAY = "FlowRunCancellingObserver|EventsWorker|ConnectionRefusedError|All connection attempts failed"
"""What a worker logs while the Prefect server that it has talked to is away."""

_folders: list[Path] = []
_read: dict[Path, int] = {}


def watch(folder: Path) -> None:
    """Read the logs of this folder from now on."""
    _folders.append(folder)


def unwatch(folder: Path) -> None:
    """Read them for the last time: what ends a server may show here only.

    Raises:
        AssertionError: there is an error that no test has been failed for.
    """
    _folders.remove(folder)
    problems = unexpected([folder], ())
    assert not problems, report(problems)


def unexpected(folders: Iterable[Path], expected: Iterable[str]) -> list[tuple[str, str]]:
    """The errors since they were last read, each with the name of its log."""
    patterns = [*expected, *ALWAYS]
    return [
        (file.name, error.text)
        for folder in folders
        for file in sorted(folder.glob("*.log"))
        for error in find_errors(_news(file))
        if not error.passes and not any(re.search(pattern, error.text) for pattern in patterns)
    ]


def report(problems: list[tuple[str, str]]) -> str:
    lines = [f"{name}: {text[-1500:]}" for name, text in problems[:5]]
    return f"{len(problems)} unexpected errors in servers' logs (see tests/support/watched_logs.py)\n" + "\n".join(
        lines
    )


def _news(file: Path) -> str:
    """What was written since it was last read."""
    size = file.stat().st_size
    # A log that was rotated away begins anew.
    start = _read.get(file, 0) if _read.get(file, 0) <= size else 0
    _read[file] = size
    with file.open("rb") as opened:
        opened.seek(start)
        return opened.read(size - start).decode(errors="replace")


def check(expected: Iterable[str]) -> None:
    """Fail where a server has logged what its test does not expect.

    Raises:
        AssertionError: it has; with the errors.
    """
    problems = unexpected(_folders, expected)
    assert not problems, report(problems)
