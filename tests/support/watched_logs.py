"""Reads the logs of the servers that tests start: an error that the test does not expect fails it."""

from __future__ import annotations

import re
import time
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

_WRITTEN_SECONDS = 0.2

_folders: list[Path] = []
_late: list[str] = []
"""PREFECT_AWAY once a test has expected it: a worker gives up its server minutes later, when another test runs."""

_read: dict[Path, int] = {}
_now: list[str] = []
"""What the test that runs expects: it may end servers of its own before it ends itself."""


def expect(patterns: Iterable[str]) -> None:
    """Name what the test that begins makes its servers log."""
    _now[:] = patterns


def watch(folder: Path) -> None:
    """Read the logs of this folder from now on."""
    _folders.append(folder)


def unwatch(folder: Path) -> None:
    """Read them for the last time, after the servers were ended, the Prefect server perhaps before those that use it.

    The worker's log is left out: a scheduled run that was cut off by the end fails there, as it should.

    Raises:
        AssertionError: there is an error that no test has been failed for.
    """
    _folders.remove(folder)
    problems = [one for one in unexpected([folder], (PREFECT_AWAY, *_now)) if one[0] != "worker.log"]
    assert not problems, report(problems)


def unexpected(folders: Iterable[Path], expected: Iterable[str]) -> list[tuple[str, str]]:
    """The errors since they were last read, each with the name of its log."""
    patterns = [*expected, *_late, *ALWAYS]
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
    """What was written since it was last read; an error that is being written is read once it is whole."""
    start = _read.get(file, 0)
    if start > file.stat().st_size:
        # A log that was rotated away begins anew.
        start = 0
    text = _from(file, start)
    while find_errors(text.decode(errors="replace")):
        time.sleep(_WRITTEN_SECONDS)
        if (more := _from(file, start)) == text:
            break
        text = more
    _read[file] = start + len(text)
    return text.decode(errors="replace")


def _from(file: Path, start: int) -> bytes:
    with file.open("rb") as opened:
        opened.seek(start)
        return opened.read()


def check() -> None:
    """Fail where a server has logged what its test does not expect.

    Raises:
        AssertionError: it has; with the errors.
    """
    _late.extend(pattern for pattern in _now if pattern == PREFECT_AWAY)
    problems = unexpected(_folders, _now)
    _now.clear()
    assert not problems, report(problems)
