"""Which tests a command runs, how long each group may take, and what the machine lacks for them.

`--ring` is what `make test` runs: the unit tests, but for those that tests/ring.txt leaves to the rest, and of the
others those that it names, which have every real part once; they get the mark `ring`. `--share 2/5` runs the second of
five parts of the rest, `--changed HEAD` the unit tests that what is not committed may concern (support/changed.py).
Without any of them every test runs.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pytest

MARK = "ring"
LEFT_OUT = "!"
"""What a line of tests/ring.txt begins with that leaves unit tests to the rest."""
NAMED = Path(__file__).parents[1] / "ring.txt"
BUDGETS = Path(__file__).parents[2] / "docs" / "contributing.md"
TOO_LONG = 1.5
"""A group that takes so many times its budget is named."""

PARTS = {
    "PostgreSQL": ("initdb", "postgresql"),
    "Docker": ("dockerd", "docker.io iptables"),
    "a registry of images": ("docker-registry", "docker-registry"),
    "Prometheus": ("prometheus", "prometheus"),
    "Chromium": ("chromium", "chromium"),
    "a C compiler": ("gcc", "gcc libc6-dev"),
}
"""What tests use besides Python's packages: a program of each, and Debian's packages that have it."""


def named() -> list[str]:
    """Return the patterns of test ids in tests/ring.txt; one that begins with `!` is of unit tests outside the ring."""
    lines = (line.strip() for line in NAMED.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def is_quick(nodeid: str, patterns: Iterable[str]) -> bool:
    """Whether a test belongs to the ring."""
    if nodeid.startswith("tests/unit/"):
        return not any(fnmatchcase(nodeid, pattern[1:]) for pattern in patterns if pattern.startswith(LEFT_OUT))
    return any(fnmatchcase(nodeid, pattern) for pattern in patterns)


def share_of(nodeid: str, shares: int) -> int:
    """Return which share of the rest a test belongs to, from 1 on; the same on every machine."""
    return int.from_bytes(hashlib.sha256(nodeid.encode()).digest()[:8]) % shares + 1


def choose(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the ring, and leave out the tests that the command does not run."""
    ring, share, patterns = config.getoption("ring"), config.getoption("share"), named()
    number, shares = parse_share(share) if share else (0, 1)
    since = config.getoption("changed")
    concerned = set(_concerned(since)) if since else None
    kept, left = [], []
    for item in items:
        quick = is_quick(item.nodeid, patterns)
        if quick:
            item.add_marker(MARK)
        in_share = share is not None and not quick and share_of(item.nodeid, shares) == number
        wanted = (ring and quick) or in_share or not (ring or share)
        if concerned is not None:
            wanted = item.nodeid.partition("::")[0] in concerned
        (kept if wanted else left).append(item)
    items[:] = kept
    config.hook.pytest_deselected(items=left)


def _concerned(since: str) -> list[str]:
    # It takes a while to import, and few commands need it.
    from support.changed import UnitTests, changed_files

    return UnitTests().concerned(changed_files(since))


def parse_share(text: str) -> tuple[int, int]:
    """Return K and N of `K/N`.

    Raises:
        ValueError: it is not written so, or K is not one of 1 to N.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise ValueError(f"--share is {text!r}, and has to be K/N with K from 1 to N, such as 2/5")
    return int(found[1]), int(found[2])


def missing_parts() -> list[str]:
    """What this machine lacks, each with the command that installs it."""
    return [
        f"{part} (apt-get install {packages})"
        for part, (program, packages) in PARTS.items()
        if not shutil.which(program) and not [*Path("/usr/lib/postgresql").glob(f"*/bin/{program}")]
    ]


def group_of(nodeid: str) -> str:
    """Return the group of a test: its folder, such as `tests/flows`."""
    parts = Path(nodeid.partition("::")[0]).parts
    return "/".join(parts[:2])


def budgets() -> dict[str, int]:
    """Return the seconds of work that each group may take in the ring, from the table of docs/contributing.md."""
    table = re.findall(r"^\| `(tests/\w+)` \|[^|]*\| (\d+) \|$", BUDGETS.read_text(encoding="utf-8"), re.MULTILINE)
    return {group: int(seconds) for group, seconds in table}


def over_budget(seconds: dict[str, float]) -> list[str]:
    """Return a line for each group that took half as much again as its budget, or more."""
    known = budgets()
    return [
        f"{group} took {taken:.0f} s of work; its budget in docs/contributing.md is {known[group]} s"
        for group, taken in sorted(seconds.items())
        if group in known and taken > TOO_LONG * known[group]
    ]
