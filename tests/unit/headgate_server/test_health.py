"""A server that does not answer /ping is ended, by the parent of its workers."""

from __future__ import annotations

import os
import signal
import socket
import threading

import pytest
from support.stack import wait_for
from test_app import ask, ready, server
from test_workers import ended, workers

from headgate_server import health
from headgate_server.settings import Settings


class Over:
    """A clock that each wait moves on, and that ends after some waits."""

    def __init__(self, monkeypatch, waits: int) -> None:
        self.seconds, self._waits = 0.0, waits
        monkeypatch.setattr(health.time, "monotonic", lambda: self.seconds)

    def wait(self, seconds: float) -> bool:
        self.seconds += seconds
        self._waits -= 1
        return self._waits < 0


@pytest.mark.parametrize(("unhealthy", "gives_up"), [
    (range(0), []), (range(3, 8), []), (range(4, 40), [35.0] * 5), (range(200), [35.0] * 6), (range(0, 40, 2), []),
])  # fmt: skip
def test_it_is_given_up_when_no_answer_has_come_for_too_long(monkeypatch, unhealthy, gives_up):
    looks, found = iter(range(45)), []
    over = Over(monkeypatch, waits=45)
    health.watch(lambda: next(looks) not in unhealthy, found.append, lambda: 30.0, over)
    assert found == gives_up


def test_a_pause_of_the_machine_is_no_time_without_an_answer(monkeypatch):
    looks, found = iter(range(9)), []
    over = Over(monkeypatch, waits=9)

    def ask() -> bool:
        over.seconds += 3600 if next(looks) == 4 else 0
        return over.seconds < 3600

    health.watch(ask, found.append, lambda: 30.0, over)
    assert found == [], "five looks: 9 s, and 5 s each"


def test_a_stopped_worker_is_replaced(models, tmp_path):
    with server(models("pyfunc", does="double"), tmp_path, HEADGATE_DEADLINE="1") as (process, client):
        wait_for(lambda: ready(client))
        (stopped,) = workers(process)
        os.kill(stopped, signal.SIGSTOP)
        wait_for(lambda: workers(process) not in ([], [stopped]), 40)
        assert ask(client).status_code == 200
        assert ended(client) == 1
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=20)
    assert "/ping was not answered with 200 for" in log
    assert "another takes its place" in log


@pytest.mark.parametrize(("status", "expected"), [("200 OK", True), ("503 Service Unavailable", False), ("", False)])
def test_a_server_at_a_unix_socket_is_asked_there(monkeypatch, tmp_path, status, expected):
    path = tmp_path / "s"
    monkeypatch.setenv("HEADGATE_SOCKET", str(path))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(f"HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n".encode() if status else b"")

        answering = threading.Thread(target=answer)
        answering.start()
        assert health.is_ready(Settings.from_env()) is expected
        answering.join()
    assert not health.is_ready(Settings.from_env()), "the server is gone"
