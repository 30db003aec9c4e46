"""Ten thousand connections from one address, each opened anew when the gateway closes it."""

from __future__ import annotations

import contextlib
import multiprocessing
import resource
import selectors
import socket
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.sharedctypes import Synchronized
    from multiprocessing.synchronize import Event

    from attacks import Place

CONNECTIONS = 10_000
ADDRESS, OTHER_ADDRESS = "127.0.0.2", "127.0.0.3"
"""The attacker's, and that of a new client. Linux has all of 127.0.0.0/8 on the loopback device."""
SILENT, HALF_A_HEAD, IDLE = "silent", "half a head", "idle after a request"
KINDS = (SILENT, HALF_A_HEAD, IDLE)

_SPARE_FILES = 200
_AT_A_TIME = 100
"""Connections that are opened before what the gateway says is read again."""
_IN_A_SECOND = {IDLE: 250}
"""New connections of a kind in a second, where each asks the model; the others come as fast as they can."""
_PORT_WHEN_CONNECTED = 24
"""IP_BIND_ADDRESS_NO_PORT: a port may be used once for each address that is connected to."""
_FILL_SECONDS = {IDLE: 50}
"""How long they may take to be there, 5 s where it is not said: less than the gateway lets such a connection stay."""
_FREE_AT_ONCE = b"\1\0\0\0\0\0\0\0"
"""SO_LINGER of no seconds, after which the port can be used again."""


@contextlib.contextmanager
def crowd(kind: str, place: Place, body: bytes) -> Iterator[int]:
    """Hold the connections meanwhile, in a process of its own, as this one measures.

    Args:
        kind: SILENT, HALF_A_HEAD or IDLE.
        place: the endpoint.
        body: of the good request with which an idle connection began.

    Yields:
        How many there are: all, or those that the gateway lets in within _FILL_SECONDS.
    """
    head = f"POST {place.path} HTTP/1.1\r\nhost: {place.host}\r\n".encode()
    said = {SILENT: b"", HALF_A_HEAD: head, IDLE: place.head(len(body)) + body}[kind]
    context = multiprocessing.get_context("spawn")
    stop, held = context.Event(), context.Value("i", 0)
    process = context.Process(
        target=_hold, args=(place.host, place.port, said, _IN_A_SECOND.get(kind), stop, held), daemon=True
    )
    process.start()
    try:
        until = time.monotonic() + _FILL_SECONDS.get(kind, 5)
        while held.value < CONNECTIONS and time.monotonic() < until and process.is_alive():
            time.sleep(0.05)
        assert process.is_alive(), "the attacker ended; its error is above"
        yield held.value
    finally:
        stop.set()
        process.join(20)
        if process.is_alive():
            process.kill()
            process.join()


def allow_files(files: int) -> None:
    """Let this process open so many files.

    Raises:
        SystemExit: the system allows fewer.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < files:
        raise SystemExit(f"{files} open files are needed, and a process here may have {most}; raise it: ulimit -Hn")
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, most))


def _hold(host: str, port: int, said: bytes, in_a_second: int | None, stop: Event, count: Synchronized[int]) -> None:
    allow_files(CONNECTIONS + _SPARE_FILES)
    began, opened = time.monotonic(), 0
    held: dict[int, socket.socket] = {}
    with selectors.EpollSelector() as selector:
        while not stop.is_set():
            may = _AT_A_TIME
            if in_a_second is not None:
                may = min(may, int((time.monotonic() - began) * in_a_second) - opened)
            for _ in range(min(may, CONNECTIONS - len(held))):
                with contextlib.suppress(OSError):
                    one = _connect(host, port, said)
                    held[one.fileno()] = one
                    selector.register(one, selectors.EVENT_READ)
                opened += 1
            for key, _ in selector.select(0.01):
                one = held[key.fd]
                if _is_closed(one):
                    selector.unregister(one)
                    held.pop(key.fd).close()
            count.value = len(held)
    for one in held.values():
        one.close()


def _connect(host: str, port: int, said: bytes) -> socket.socket:
    one = socket.socket()
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _FREE_AT_ONCE)
        one.settimeout(1)
        one.setsockopt(socket.SOL_IP, _PORT_WHEN_CONNECTED, 1)
        one.bind((ADDRESS, 0))
        one.connect((host, port))
        one.sendall(said)
        one.setblocking(False)  # noqa: FBT003 - the name of the standard library
    except OSError:
        one.close()
        raise
    return one


def _is_closed(one: socket.socket) -> bool:
    try:
        received = one.recv(65536)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return not received or b"connection: close" in received
