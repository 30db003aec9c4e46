"""A light client: prepared bytes over keep-alive sockets, so that the server is what is measured."""

from __future__ import annotations

import json
import re
import socket
import statistics
import threading
import time
from typing import NamedTuple
from urllib.parse import urlsplit

_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
_REVISION = re.compile(rb"x-headgate-revision: (\S+)", re.IGNORECASE)


class Answer(NamedTuple):
    """One answer; times are of `time.perf_counter`."""

    sent: float
    received: float
    status: int
    revision: str


class Connection:
    """One keep-alive connection, to a port or at a Unix socket, that sends the same request again and again."""

    def __init__(self, url: str, body: object, at: str = "") -> None:
        parts = urlsplit(url)
        content = json.dumps(body).encode()
        if at:
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.connect(at)
        else:
            self._socket = socket.create_connection((parts.hostname, parts.port))
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        head = (
            f"POST {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(content)}\r\n\r\n"
        )
        self._request = head.encode() + content

    def ask(self) -> Answer:
        """Send the request and read its answer."""
        sent = time.perf_counter()
        self._socket.sendall(self._request)
        received = b""
        while (end := received.find(b"\r\n\r\n")) < 0:
            received += self._read()
        head = received[:end]
        length = _LENGTH.search(head)
        missing = (int(length[1]) if length else 0) - (len(received) - end - 4)
        while missing > 0:
            missing -= len(self._read())
        revision = _REVISION.search(head)
        return Answer(sent, time.perf_counter(), int(head[9:12]), revision[1].decode() if revision else "")

    def _read(self) -> bytes:
        chunk = self._socket.recv(65536)
        if not chunk:
            raise ConnectionError("closed by the server")
        return chunk

    def close(self) -> None:
        """End it."""
        self._socket.close()


class Load:
    """Connections that ask without pause, each in its thread, until the block ends."""

    def __init__(self, url: str, body: object, connections: int, rate: float = 0.0, at: str = "") -> None:
        self._url, self._body, self._at = url, body, at
        self._pause = connections / rate if rate else 0.0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(connections)]
        self.answers: list[Answer] = []
        self.errors: list[str] = []

    def __enter__(self) -> Load:  # noqa: PYI034 - scripts need no Self
        self.began = time.perf_counter()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self.seconds = time.perf_counter() - self.began

    def _run(self) -> None:
        connection = Connection(self._url, self._body, self._at)
        due = time.perf_counter()
        while not self._stop.is_set():
            try:
                self.answers.append(connection.ask())
            except OSError as error:
                self.errors.append(repr(error))
                connection.close()
                connection = Connection(self._url, self._body, self._at)
            due += self._pause
            if self._pause and (ahead := due - time.perf_counter()) > 0:
                time.sleep(ahead)
        connection.close()

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.answers) / self.seconds

    def milliseconds(self, quantile: float) -> float:
        """A quantile of the time from request to answer."""
        times = [answer.received - answer.sent for answer in self.answers]
        return statistics.quantiles(times, n=1000)[round(quantile * 1000) - 1] * 1000


def run(url: str, body: object, connections: int, seconds: float, at: str = "") -> Load:
    """Load a server for a while; `at` is the Unix socket where it listens, if at one."""
    with Load(url, body, connections, at=at) as load:
        time.sleep(seconds)
    if load.errors or any(answer.status != 200 for answer in load.answers):
        raise RuntimeError(f"{url}: {load.errors[:3]} {[a for a in load.answers if a.status != 200][:3]}")
    return load
