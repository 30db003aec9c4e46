"""The Unix sockets on which the local target's servers listen: one a server, in a folder that only its owner may enter.

A socket's name is a digest of its program's, as endpoints have names of up to 60 letters and a socket's path has 107
bytes. So each HEADGATE_HOME that is short enough for supervisord's own socket is short enough for every server's.
"""

from __future__ import annotations

import hashlib
import os
import stat
from typing import TYPE_CHECKING

from headgate.errors import HomeError
from headgate.home import SOCKET_PATH_BYTES, require_short

if TYPE_CHECKING:
    from pathlib import Path

    from headgate.home import Home

_FOLDER, _OTHERS = 0o700, 0o077
_DIGITS = 16


class Sockets:
    """The sockets of one HEADGATE_HOME.

    Args:
        home: the folder; it need not have any yet.
    """

    def __init__(self, home: Home) -> None:
        self._home = home

    def path(self, program: str) -> Path:
        """Return the path of a program's socket.

        Raises:
            HomeError: HEADGATE_HOME is too long for it.
        """
        path = self._home.sockets / f"{hashlib.sha256(program.encode()).hexdigest()[:_DIGITS]}.sock"
        require_short(path, SOCKET_PATH_BYTES)
        return path

    def prepare(self) -> None:
        """Make the folder, and require that only this user can enter it.

        Raises:
            HomeError: it cannot be made, is no folder, or another user owns it or may enter it.
        """
        folder = self._home.sockets
        try:
            folder.mkdir(mode=_FOLDER, exist_ok=True)
            found = folder.lstat()
        except OSError as error:
            raise HomeError(
                f"the folder of the servers' sockets, {folder}, cannot be made: {error.strerror or error}",
                fix="headgate up, with HEADGATE_HOME set to a folder that this user may write to",
            ) from error
        if not stat.S_ISDIR(found.st_mode):
            raise HomeError(f"{folder} is no folder; servers have their sockets there", fix=f"remove {folder}")
        if found.st_uid != os.geteuid():
            raise HomeError(
                f"{folder}, where servers have their sockets, belongs to user {found.st_uid} and not to "
                f"user {os.geteuid()}, who runs this",
                fix="run headgate as the owner of HEADGATE_HOME, or set HEADGATE_HOME to a folder of your own",
            )
        if (mode := stat.S_IMODE(found.st_mode)) & _OTHERS:
            raise HomeError(
                f"{folder}, where servers have their sockets, has mode {mode:o}; others may enter it, at most 700 is "
                "allowed",
                fix=f"chmod 700 {folder}; where that changes nothing, HEADGATE_HOME is on a file system without modes",
            )

    def remove(self, program: str) -> None:
        """Remove a program's socket, which a server leaves that was killed; what is no socket stays."""
        _remove(self.path(program))

    def remove_all(self) -> None:
        """Remove every socket; no server may be running."""
        if self._home.sockets.is_dir():
            for path in self._home.sockets.iterdir():
                _remove(path)


def _remove(path: Path) -> None:
    try:
        if stat.S_ISSOCK(path.lstat().st_mode):
            path.unlink()
    except FileNotFoundError:
        # Its server, which has just ended, was quicker.
        return
