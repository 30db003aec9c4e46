"""Secrets that a container is given as files: one a variable, named in HEADGATE_SECRETS."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import MutableMapping

FOLDER = Path("/run/secrets/headgate")
NAMES = "HEADGATE_SECRETS"
LOAD_FAILED = 3


def into(environ: MutableMapping[str, str], folder: Path = FOLDER) -> None:
    """Read the files into the variables of their names; the process ends with 3 where one is missing."""
    for name in filter(None, environ.get(NAMES, "").split(",")):
        try:
            environ[name] = (folder / name).read_text(encoding="utf-8", errors="surrogateescape")
        except OSError as error:
            sys.stderr.write(f"the secret {name} cannot be read ({error.strerror}): headgate up makes it anew\n")
            sys.exit(LOAD_FAILED)
