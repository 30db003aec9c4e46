"""Refusing models whose files name an address with a password: they go into bundles, images and MLflow as they are."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from headgate.credentials import redact
from headgate.errors import RequirementsError
from images.pip_file import REQUIREMENTS, PipFile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_METADATA = ("MLmodel", "conda.yaml", "python_env.yaml")
"""What MLflow writes beside a model, and people add indexes to."""
_PASSWORD = re.compile(r"(?i)\bhttps?://[^/\s'\"@]+@|[a-z][a-z0-9+.-]*://[^/\s:@'\"]*:[^/\s@'\"]+@")
"""Of an index or a download also a user alone, who is a token; `git+ssh://git@host` has none."""


def refuse_passwords(model: Path) -> None:
    """Refuse a model's folder in which packages are named by an address with a password.

    Raises:
        RequirementsError: one is, and the message has the file and the line without it; or a file that
            requirements.txt includes cannot be read.
    """
    for name, line in _lines(model):
        if _PASSWORD.search(line):
            raise RequirementsError(
                f"the model's {name} has an address with a password: {redact(line)}",
                fix="take the user and the password out and log the model again: its files are in bundles, images and "
                "MLflow; uv takes those of an index from ~/.netrc where releases run",
            )


def _lines(model: Path) -> Iterator[tuple[str, str]]:
    for name in _METADATA:
        if (path := model / name).is_file():
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                yield name, line.strip()
    asked = PipFile.read(model)
    for line in asked.lines:
        yield REQUIREMENTS, line
    for line in asked.all_lines():
        yield REQUIREMENTS, line
