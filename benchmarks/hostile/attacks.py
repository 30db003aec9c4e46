"""Attacks on one endpoint through the gateway, and what they cost the clients beside them."""

from __future__ import annotations

import contextlib
import gzip
import json
import math
import resource
import socket
import statistics
import threading
import time
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Attacker = Callable[["Place", threading.Event], None]


UNFINISHED = "24 unfinished bodies of 15 MiB"
_PART = 2**20


class Place(NamedTuple):
    """The endpoint: host and port of the gateway, and the path."""

    host: str
    port: int
    path: str

    @classmethod
    def of(cls, url: str) -> Place:
        """Return the place of an address that answers requests."""
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        return cls(parts.hostname, parts.port, parts.path)

    def connect(self, source: str = "") -> socket.socket:
        """Open a connection, from an address of this machine's."""
        return socket.create_connection((self.host, self.port), timeout=30, source_address=(source, 0))

    def head(self, length: int, kind: str = "application/json", more: str = "") -> bytes:
        """Return a request's head."""
        return (
            f"POST {self.path} HTTP/1.1\r\nhost: {self.host}\r\ncontent-type: {kind}\r\n"
            f"content-length: {length}\r\n{more}\r\n"
        ).encode()


def sends(body: bytes, kind: str = "application/json", more: str = "", pause: float = 0.1) -> Attacker:
    """Return an attacker that sends a body again and again, ten times a second at most."""

    def attack(place: Place, over: threading.Event) -> None:
        while not over.wait(pause):
            with contextlib.suppress(OSError), place.connect() as connection:
                connection.sendall(place.head(len(body), kind, more) + body)
                connection.settimeout(5)
                connection.recv(65536)

    return attack


def breaks_off(place: Place, over: threading.Event) -> None:
    """Say a thousand bytes, send twelve, and go."""
    while not over.wait(0.02):
        with contextlib.suppress(OSError), place.connect() as connection:
            connection.sendall(place.head(1000) + b'{"inputs": [')


def holds(connections: int, first: Callable[[Place], bytes], then: bytes, pause: float = 1.0) -> Attacker:
    """Return an attacker that opens connections, sends the first part, and then a little each second."""

    def attack(place: Place, over: threading.Event) -> None:
        with contextlib.ExitStack() as held:
            opened = []
            for _ in range(connections):
                if over.is_set():
                    return
                with contextlib.suppress(OSError):
                    connection = held.enter_context(place.connect())
                    connection.settimeout(0.5)
                    connection.sendall(first(place))
                    opened.append(connection)
            while not over.wait(pause):
                for connection in opened:
                    with contextlib.suppress(OSError):
                        connection.sendall(then)

    return attack


def never_ends(size: int) -> Attacker:
    """Return an attacker that sends a body but for its last byte, and hangs up at the end."""

    def attack(place: Place, over: threading.Event) -> None:
        with contextlib.suppress(OSError), place.connect() as connection:
            connection.settimeout(1)
            connection.sendall(place.head(size + 1))
            for _ in range(size // _PART):
                if over.is_set():
                    return
                connection.sendall(b" " * _PART)
            over.wait()

    return attack


def reads_slowly(rows: int, columns: list[str]) -> Attacker:
    """Return an attacker that asks for a large answer and reads a byte a second of it."""
    body = json.dumps({"dataframe_split": {"columns": columns, "data": [[1.0] * len(columns)] * rows}}).encode()

    def attack(place: Place, over: threading.Event) -> None:
        with contextlib.suppress(OSError), place.connect() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            connection.sendall(place.head(len(body)) + body)
            while not over.wait(1):
                connection.recv(1)

    return attack


def attacks(columns: list[str]) -> dict[str, list[Attacker]]:
    """Return every attack by its name, as the attackers that it has.

    Args:
        columns: of the model's signature.
    """
    many = [f"k{number}" for number in range(1000)]
    strangers = [{f"n{number}": 1} for number in range(5000)]
    head = f"POST / HTTP/1.1\r\nhost: x\r\n{'x-a: b' * 10}"
    return {
        "60 kB of commas as CSV": [sends(b"," * 60_000, "text/csv")] * 4,
        "records with 5,000 names": [sends(json.dumps({"instances": strangers}).encode())] * 4,
        "1,000 columns": [sends(json.dumps({"dataframe_split": {"columns": many, "data": [[1] * 1000]}}).encode())] * 4,
        "JSON 10,000 deep": [sends(b'{"inputs":' + b"[" * 10_000 + b"]" * 10_000 + b"}")] * 4,
        "NaN and 1e999": [sends(b'{"inputs": [NaN, 1e999, -Infinity]}')] * 4,
        "2 MB of commas as CSV": [sends(b"," * 2_000_000, "text/csv")] * 4,
        "2 MB of blanks as text": [sends(b" " * 2_000_000, "text/plain")] * 4,
        "a gzip bomb": [sends(gzip.compress(bytes(50_000_000)), more="content-encoding: gzip\r\n")] * 4,
        "uploads that break off": [breaks_off] * 4,
        "20 unfinished bodies of 60 MB": [never_ends(60_000_000)] * 20,
        UNFINISHED: [never_ends(2**24 - _PART)] * 24,
        "500 half-sent heads": [holds(500, lambda _: head.encode(), b"x")],
        "50 bodies of a byte a second": [holds(50, lambda place: place.head(99), b" ")],
        "20 readers of a byte a second": [reads_slowly(2_000, columns)] * 20,
    }


@contextlib.contextmanager
def under(attackers: list[Attacker], place: Place) -> Iterator[None]:
    """Attack meanwhile."""
    over = threading.Event()
    threads = [threading.Thread(target=attacker, args=(place, over), daemon=True) for attacker in attackers]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join(30)


class Clients:
    """Well-behaved clients: four that keep their connections, and one that connects anew for each request.

    Args:
        place: whom they ask.
        body: of each request.
        keeps: of each client, whether it keeps its connection.
        source: the address that they have.
    """

    def __init__(
        self, place: Place, body: bytes, keeps: tuple[bool, ...] = (True, True, True, True, False), source: str = ""
    ) -> None:
        self._place, self._request = place, place.head(len(body)) + body
        self._keeps, self._source = keeps, source
        self._connections: list[socket.socket | None] = [None] * len(keeps)
        self.seconds: list[float] = []
        self.lost: list[str] = []

    def run(self, seconds: float) -> None:
        """Ask 25 times a second each; a second run begins with the connections of the first, and counts anew."""
        self.seconds, self.lost = [], []
        over = threading.Event()
        threads = [threading.Thread(target=self._ask, args=(client, over)) for client in range(len(self._keeps))]
        for thread in threads:
            thread.start()
        time.sleep(seconds)
        over.set()
        for thread in threads:
            thread.join()

    def _ask(self, client: int, over: threading.Event) -> None:
        connection = self._connections[client]
        while not over.wait(0.04):
            began = time.perf_counter()
            try:
                connection = connection or self._place.connect(self._source)
                connection.sendall(self._request)
                status = _status(connection)
                if status == 200:
                    self.seconds.append(time.perf_counter() - began)
                else:
                    self.lost.append(str(status))
            except OSError as error:
                self.lost.append(repr(error))
                keeps_now = False
            else:
                keeps_now = self._keeps[client]
            if connection is not None and not keeps_now:
                connection.close()
                connection = None
        self._connections[client] = connection

    def p99(self) -> float:
        """Return milliseconds; infinity where fewer than two requests were answered."""
        return math.inf if len(self.seconds) < 2 else statistics.quantiles(self.seconds, n=100)[98] * 1000


def _status(connection: socket.socket) -> int:
    received = b""
    while (end := received.find(b"\r\n\r\n")) < 0:
        received += _some(connection)
    head = received[:end].decode("latin-1").lower()
    missing = int(head.partition("content-length: ")[2].partition("\r\n")[0] or 0) - (len(received) - end - 4)
    while missing > 0:
        missing -= len(_some(connection))
    return int(head.split()[1])


def _some(connection: socket.socket) -> bytes:
    if chunk := connection.recv(65536):
        return chunk
    raise ConnectionError("closed by the gateway")


def allow_many_connections() -> None:
    """Let this process have as many sockets as the system allows it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
