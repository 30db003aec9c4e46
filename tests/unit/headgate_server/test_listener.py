"""A server on a Unix socket: who may use it, what stands in its place, and what is left of it."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from support.stack import wait_for
from test_app import REPOSITORY, ask, ready
from test_workers import attempt, workers

from deploy_targets.server_address import ServerAddress
from headgate_server.listener import listening_at

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def open_umask():
    """The process's own umask closes nothing."""
    before = os.umask(0)
    yield
    assert os.umask(before) == 0, "it is put back"


@pytest.fixture
def path(tmp_path_factory) -> Path:
    # That of a test may be too long for a socket.
    return tmp_path_factory.mktemp("u") / "s"


def test_only_its_owner_may_use_it_from_the_first_moment_on(path, open_umask, monkeypatch):
    modes = []
    monkeypatch.setattr(os, "chmod", lambda *_, **__: pytest.fail("until then others could use it"))
    with listening_at(path):
        modes.append(stat.S_IMODE(path.stat().st_mode))
    assert modes == [0o600]
    assert not path.exists()


def test_the_socket_of_a_killed_server_is_replaced(path):
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
        killed.listen()
    with listening_at(path) as listener:
        listener.listen()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_is_no_socket_stays(path, kind):
    if kind == "file":
        path.write_text("kept")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(path.with_name("elsewhere"))
    before = path.lstat()
    with pytest.raises(FileExistsError, match="no socket"), listening_at(path):
        pytest.fail("it listens")
    assert os.path.samestat(path.lstat(), before)


def test_a_server_that_ends_late_leaves_the_socket_of_the_next(path):
    with listening_at(path):
        path.unlink()
        with socket.socket(socket.AF_UNIX) as next_one:
            next_one.bind(str(path))
            made = path.stat()
    assert os.path.samestat(path.stat(), made)


@contextmanager
def server(model: Path, path: Path, **env: str) -> Iterator[subprocess.Popen[str]]:
    settings = {"HEADGATE_MODEL": str(model), "HEADGATE_SOCKET": str(path), **env}
    with subprocess.Popen(
        [sys.executable, "-m", "headgate_server"], cwd=REPOSITORY, env={**os.environ, **settings},
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [1, 2])
def test_a_real_server_answers_there_and_its_workers_are_replaced(models, path, tmp_path, number):
    more = {"HEADGATE_WORKERS": str(number), "HEADGATE_SCRATCH": str(tmp_path / "scratch")}
    with server(models("pyfunc", does="double"), path, **more) as process:
        with ServerAddress(socket=str(path)).client() as client:
            wait_for(lambda: ready(client))
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert ask(client, 2.0).json() == {"predictions": [{"x": 4.0}]}
            assert 'headgate_requests_total{status="200"} 1.0' in client.get("/metrics").text
            before = workers(process)
            os.kill(before[0], signal.SIGKILL)
            wait_for(lambda: len(workers(process)) == number and workers(process) != before)
            wait_for(lambda: attempt(lambda: ask(client).status_code) == 200)
        process.terminate()
        assert process.wait(30) == 0
    assert not path.exists()


def test_a_server_takes_the_place_of_one_that_was_killed(models, path):
    """Also while the workers of that one are still there."""
    model = models("pyfunc", does="double")
    with ServerAddress(socket=str(path)).client() as client:
        with server(model, path) as process:
            wait_for(lambda: ready(client))
            process.kill()
        assert path.is_socket()
        with server(model, path):
            wait_for(lambda: ready(client))
            assert ask(client, 2.0).json() == {"predictions": [{"x": 4.0}]}


def test_a_server_that_cannot_listen_says_so_and_is_not_started_again(models, path):
    path.write_text("kept")
    with server(models("pyfunc", does="double"), path) as process:
        _, log = process.communicate(timeout=60)
    assert process.returncode == 3, "which supervisord takes as final"
    assert f"cannot listen at HEADGATE_SOCKET, {path}: there is a file that is no socket" in log
    assert path.read_text() == "kept"
