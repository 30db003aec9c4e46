"""A model's server of a test's own that ends its answers in each way in which an answer can end."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterator


def _whole(status: str) -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\n{{}}".encode()


_WHOLE = {
    "ok": _whole("200 OK"), "400": _whole("400 Bad Request"), "409": _whole("409 Conflict"),
    "429": _whole("429 Too Many Requests"),
    "500": _whole("500 Internal Server Error"), "503": _whole("503 Service Unavailable"),
    "504": _whole("504 Gateway Timeout"),
}  # fmt: skip
_LAST = {
    "until close": b"HTTP/1.1 200 OK\r\n\r\n{}",
    "ok and close": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}",
    "413 and close": b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}",
}
"""Whole answers after which the connection ends."""
_HALF = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf"
_HALF_CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n"
_BEGUN = {
    "close": _HALF, "close chunked": _HALF_CHUNKED, "reset": _HALF, "stall": _HALF,
    "garbage": _HALF_CHUNKED + b"this is no chunk\r\n",
    "half a head": b"HTTP/1.1 200 OK\r\ncontent-", "no head": b"this is no answer\r\n\r\n",
}  # fmt: skip
"""What is sent of an answer that does not come to its end."""
_WAITING, _RESETTING = {"stall", "mute"}, {"reset", "gone by reset"}


class Cutting:
    """A server on a port of this machine.

    Attributes:
        plan: for each of the next requests one of: ok, 400, 409, 429, 500, 503, 504, until close, ok and close, and
            413 and close, which are whole answers; close, close chunked, reset, garbage and stall, which end after the
            headers of a 200; half a head, no head, mute, gone and gone by reset, which end before. `ok` once the plan
            is used up.
        received: by what each request was answered.
        ping: what a health check gets.
        early: whether answers are sent before the requests' bodies are read.
    """

    def __init__(self) -> None:
        self.plan: list[str] = []
        self.received: list[str] = []
        self.ping, self.early = "ok", False
        self._lock, self._connections = threading.Lock(), set[socket.socket]()
        self._port = 0
        self.start()

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> Self:
        """Listen, at the same port as before."""
        self._listener = socket.create_server(("127.0.0.1", self._port))
        self._port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, args=(self._listener,), daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Refuse connections, and end those that there are."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        with self._lock:
            for connection in self._connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with self._lock:
                    self._connections.add(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        # The gateway may close it at any moment, as it does where an answer takes too long.
        with suppress(OSError), connection, connection.makefile("rb") as reader:
            while head := _head(reader):
                what = self.ping if head.startswith(b"GET /ping") else self._take()
                length = _length(head)
                if not self.early:
                    reader.read(length)
                connection.sendall({**_WHOLE, **_LAST, **_BEGUN}.get(what, b""))
                if self.early and what not in _LAST:
                    reader.read(length)
                if what in _WHOLE:
                    continue
                if what in _WAITING:
                    reader.read(1)
                if what in _RESETTING:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                break
        with self._lock:
            self._connections.discard(connection)

    def _take(self) -> str:
        with self._lock:
            what = self.plan.pop(0) if self.plan else "ok"
            self.received.append(what)
        return what


def _head(reader: socket.SocketIO) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        piece = reader.read(1)
        if not piece:
            return b""
        head += piece
    return head


def _length(head: bytes) -> int:
    lines = head.lower().split(b"\r\n")
    return next((int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:")), 0)


@contextmanager
def cutting() -> Iterator[Cutting]:
    """Have such a server until the block ends."""
    server = Cutting()
    try:
        yield server
    finally:
        server.stop()
