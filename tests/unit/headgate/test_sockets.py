"""Where servers of the local target have their sockets."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from headgate.errors import HomeError
from headgate.home import SOCKET_PATH_BYTES, Home
from headgate.stack import Supervisor
from headgate.stack.sockets import Sockets
from headgate.stack.supervisor import SOCKET_PATH_BYTES as SUPERVISORS

NAME = f"{'e' * 60}--v1000-12345678"
"""As long as a program's name becomes."""


@pytest.fixture
def sockets(tmp_path_factory) -> Sockets:
    # pytest's folder of a test may be too long for a socket.
    return Sockets(Home(tmp_path_factory.mktemp("h") / "home").ensure())


def at(path: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))
    return path


def test_a_home_that_is_short_enough_for_supervisord_is_for_every_server():
    longest = SUPERVISORS - len("/supervisor/supervisor.sock")
    home = Home(Path("/" + "h" * (longest - 1)))
    assert len(os.fsencode(Sockets(home).path(NAME))) <= SOCKET_PATH_BYTES


def test_a_longer_home_is_refused_with_what_it_may_have():
    with pytest.raises(HomeError, match=r"HEADGATE_HOME is too long: .* at most 107 bytes here") as refused:
        Sockets(Home(Path("/" + "h" * 90))).path(NAME)
    assert refused.value.fix == "set HEADGATE_HOME to a shorter path"


def test_each_program_has_its_own_and_always_the_same(sockets):
    names = [f"{endpoint}--{revision}" for endpoint in ("wine", "win", "w") for revision in ("v1-a", "v2-a", "v1-b")]
    assert len({sockets.path(name) for name in names}) == len(names)
    assert [sockets.path(name) for name in names] == [sockets.path(name) for name in names]


def test_the_folder_is_its_owners_alone(sockets):
    folder = sockets.path("x").parent
    folder.rmdir()
    before = os.umask(0)
    try:
        sockets.prepare()
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o701, 0o710, 0o755, 0o777])
def test_a_folder_that_others_may_enter_is_refused(sockets, mode):
    folder = sockets.path("x").parent
    folder.chmod(mode)
    with pytest.raises(HomeError, match=rf"has mode {mode:o}; others may enter it, at most 700") as refused:
        sockets.prepare()
    assert f"chmod 700 {folder}" in refused.value.fix


def test_a_folder_of_another_user_is_refused(sockets, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(HomeError, match=rf"belongs to user {os.getuid()} and not to user {os.getuid() + 1}"):
        sockets.prepare()


@pytest.mark.parametrize("kind", ["link", "file"])
def test_what_is_no_folder_is_refused(sockets, tmp_path, kind):
    folder = sockets.path("x").parent
    folder.rmdir()
    if kind == "link":
        folder.symlink_to(tmp_path)
    else:
        folder.write_text("")
    with pytest.raises(HomeError, match="sockets"):
        sockets.prepare()


def test_only_sockets_are_removed(sockets):
    file, mine, other = sockets.path("file"), at(sockets.path("mine")), at(sockets.path("other"))
    file.write_text("kept")
    sockets.remove("mine")
    sockets.remove("mine")
    sockets.remove("file")
    assert (file.exists(), mine.exists(), other.exists()) == (True, False, True)
    sockets.remove_all()
    assert (file.exists(), other.exists()) == (True, False)


@pytest.mark.parametrize("runs", [True, False])
def test_down_leaves_none_behind(tmp_path_factory, runs):
    home = Home(tmp_path_factory.mktemp("h") / "home").ensure()
    supervisor = Supervisor(home)
    if runs:
        supervisor.start()
    left = at(Sockets(home).path("wine--v1-a"))
    supervisor.stop()
    assert not left.exists()


def test_a_home_of_an_earlier_version_has_none(tmp_path):
    Sockets(Home(tmp_path / "home")).remove_all()
    Sockets(Home(tmp_path / "home")).remove("wine--v1-a")
