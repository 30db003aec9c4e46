"""Secrets of containers: files in memory, of which each container has its own at /run/secrets/headgate.

Docker shows a container's environment to everybody who may ask the daemon, and keeps it on disk. So a container is
given the names of its secrets, and a folder of /dev/shm that its server reads them from when it starts
(headgate_server/mounted_secrets.py). The folder is there as long as the container is, through restarts of it; after a
restart of the machine, `headgate up` makes it anew.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from headgate.errors import RevisionFailedError
from headgate.home import unfinished
from headgate.references import UnresolvedError, resolve
from headgate.stack import Supervisor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headgate.home import Home

FOLDER = "/run/secrets/headgate"
"""Where a container has them (headgate_server/mounted_secrets.py)."""
NAMES = "HEADGATE_SECRETS"
"""The variable with their names, separated by commas."""
LABEL = "io.headgate.secrets"
"""The container's label with the references, as JSON, and no values."""
_MEMORY = Path("/dev/shm")  # noqa: S108 - what is made there is its owner's alone


def folder_of(home_id: str, endpoint: str, revision: str) -> Path:
    """Return a container's folder; it need not exist."""
    return _MEMORY / f"headgate-{home_id}-{os.geteuid()}" / f"{endpoint}--{revision}"


def write(home: Home, folder: Path, references: Mapping[str, str], owner: tuple[int, int]) -> None:
    """Read the secrets and write them where the container finds them.

    Args:
        home: of the stack, whose environment `env:` looks in.
        folder: of the container.
        references: by variable.
        owner: user and group of the container's server, which alone may read them.

    Raises:
        RevisionFailedError: one cannot be had, or this machine cannot keep files in memory.
    """
    try:
        values = resolve(references, Supervisor(home).inherited() or {}, home.root)
        _make(folder.parent)
        _make(folder)
        for name, value in values.items():
            path = folder / name
            own = unfinished(path)
            own.unlink(missing_ok=True)
            descriptor = os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
            with open(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:  # noqa: PTH123 - Path.open takes no mode
                file.write(value)
            os.chown(own, *owner)
            own.replace(path)
        os.chown(folder, *owner)
    except UnresolvedError as error:
        raise RevisionFailedError(str(error), fix="docs/operating.md, Secrets, has what a reference may be") from error
    except OSError as error:
        raise RevisionFailedError(f"{folder} cannot be made: {error}", fix="see what /dev/shm is there") from error


def remove(folder: Path) -> None:
    """Remove a container's secrets; nothing happens where there are none."""
    shutil.rmtree(folder, ignore_errors=True)


def references_of(labels: Mapping[str, str]) -> dict[str, str]:
    """Return the references that a container was made with."""
    found: dict[str, str] = json.loads(labels.get(LABEL, "{}"))
    return found


def _make(folder: Path) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    state = folder.lstat()
    is_ours = state.st_uid == os.geteuid() or os.geteuid() == 0
    if folder.is_symlink() or not is_ours or state.st_mode & 0o077:
        raise UnresolvedError(f"{folder} is not a folder of this user alone; remove it")
