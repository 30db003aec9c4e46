"""What the processes of one run of the tests share: folders, and in the ring one local stack."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from filelock import FileLock

from support.stack import begin_stack, end_stack, running_stack

if TYPE_CHECKING:
    from support.stack import Stack

_BASE = pytest.StashKey[Path]()
_TOLD = "headgate_shared"


def begin(config: pytest.Config) -> None:
    """Make the folder of all processes; pytest-xdist tells it to those that run the tests (`tell`)."""
    if hasattr(config, "workerinput"):
        config.stash[_BASE] = Path(config.workerinput[_TOLD])
        return
    config.stash[_BASE] = made = Path(tempfile.mkdtemp(prefix="hg-"))
    config.add_cleanup(lambda: shutil.rmtree(made, ignore_errors=True))
    config.add_cleanup(lambda: _end(made))


def tell(node: Any) -> None:
    """Tell a process of pytest-xdist, before it starts, where that folder is."""
    node.workerinput[_TOLD] = str(node.config.stash[_BASE])


def folder(config: pytest.Config, name: str) -> Path:
    """Return a folder that all processes of this run have."""
    made = config.stash[_BASE] / name
    made.mkdir(exist_ok=True)
    return made


def stack(config: pytest.Config) -> Stack:
    """Return the one stack of this run; the first process that asks starts it, and its tests read its logs."""
    root = folder(config, "s")
    with FileLock(f"{root}.lock"):
        if not _mark(root).exists():
            begin_stack(root)
            _mark(root).touch()
    return running_stack(root)


def _end(made: Path) -> None:
    if _mark(made / "s").exists():
        end_stack(made / "s")


def _mark(root: Path) -> Path:
    return root / "started-by-tests"
