"""Ask whether this server is ready: for Docker's health check, by an exit code, and for the parent of the workers."""

from __future__ import annotations

import http.client
import socket
import sys
import time
from typing import TYPE_CHECKING

from headgate_server.settings import Settings

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

_SECONDS = 4
_LOOK_SECONDS = 5.0


class _Connection(http.client.HTTPConnection):
    """A connection to the server's port or Unix socket."""

    def __init__(self, settings: Settings) -> None:
        super().__init__("127.0.0.1", settings.port, timeout=_SECONDS)
        self._path = settings.socket

    def connect(self) -> None:
        if self._path is None:
            super().connect()
            return
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_SECONDS)
        self.sock.connect(str(self._path))


def is_ready(settings: Settings) -> bool:
    """Return whether /ping is answered with 200 within four seconds."""
    connection = _Connection(settings)
    try:
        connection.request("GET", "/ping")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def watch(
    ask: Callable[[], bool], give_up: Callable[[float], None], patience: Callable[[], float], over: threading.Event
) -> None:
    """Ask every five seconds, until `over` is set.

    Args:
        ask: whether it is healthy.
        give_up: called with the seconds for which it was not healthy, when these are more than its patience.
        patience: seconds within which it may be healthy again by itself.
        over: ends it.
    """
    unhealthy, before = 0.0, time.monotonic()
    while not over.wait(_LOOK_SECONDS):
        is_healthy, now = ask(), time.monotonic()
        # While the whole machine was paused, nobody could answer.
        unhealthy = 0.0 if is_healthy else unhealthy + min(now - before, _LOOK_SECONDS + _SECONDS)
        before = now
        if unhealthy > patience():
            give_up(unhealthy)
            unhealthy = 0.0


def main() -> int:
    """0 where /ping is 200."""
    return int(not is_ready(Settings.from_env()))


if __name__ == "__main__":
    sys.exit(main())
