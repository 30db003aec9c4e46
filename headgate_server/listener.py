"""Listen on a Unix socket that only its owner may use."""

from __future__ import annotations

import os
import socket
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_NO_RIGHTS_BUT = 0o600


@contextmanager
def listening_at(path: Path) -> Iterator[socket.socket]:
    """Bind a socket of mode 0600, and remove it at the end.

    A socket that is there is replaced, without asking whether it is answered: one server is told to listen at a path,
    and the workers of one that was killed may go on for as long as their last requests take.

    Args:
        path: of at most 107 bytes, in a folder that only this user may write to.

    Raises:
        OSError: the path is too long, its folder is not there, or there is a file that is no socket.
    """
    _make_way(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # By umask and not by chmod: at no moment may others write to it. No other thread runs yet.
        before = os.umask(0o777 & ~_NO_RIGHTS_BUT)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        made = path.lstat()
        # As uvicorn's own: workers are other processes.
        listener.set_inheritable(True)
        try:
            yield listener
        finally:
            _remove(path, made)
    finally:
        listener.close()


def _make_way(path: Path) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise FileExistsError("there is a file that is no socket; remove it")
    path.unlink()


def _remove(path: Path, made: os.stat_result) -> None:
    """Remove the socket, unless a server that was started meanwhile has put its own in its place."""
    try:
        found = path.lstat()
        # A file system gives the number of a file that is gone to the next one.
        if os.path.samestat(found, made) and found.st_ctime_ns == made.st_ctime_ns:
            path.unlink()
    except FileNotFoundError:
        return
