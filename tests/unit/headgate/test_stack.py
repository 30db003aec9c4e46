from __future__ import annotations

import json
import os
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from supervisor.xmlrpc import Faults
from support.stack import wait_for

from headgate.errors import HomeError
from headgate.home import Home
from headgate.stack import Ports, Program, Supervisor
from headgate.stack.ports import HOST, free_port, is_free, listener
from headgate.stack.programs import STACK, stack_programs


@pytest.fixture
def supervisor(tmp_path):
    running = Supervisor(Home(tmp_path / "home").ensure())
    running.start()
    yield running
    running.stop()


def sleeper(name: str = "sleeper", **env: str) -> Program:
    return Program(name, [sys.executable, "-c", "import time; time.sleep(600)"], env)


def test_ports_are_chosen_once_and_remembered(tmp_path):
    home = Home(tmp_path).ensure()
    assert Ports.remembered(home) is None
    chosen = Ports.choose(home)
    assert Ports.choose(home) == Ports.remembered(home) == chosen
    assert len(set(chosen.model_dump().values())) == 5


def test_ports_of_an_earlier_version_stay_and_new_programs_get_theirs(tmp_path):
    home = Home(tmp_path).ensure()
    before = Ports.choose(home).model_dump(exclude={"receiver"})
    home.stack_file.write_text(json.dumps(before))
    chosen = Ports.choose(home)
    assert before.items() <= chosen.model_dump().items()
    assert chosen.receiver not in {0, *before.values()}


def test_no_free_port_says_so(monkeypatch):
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setenv("HEADGATE_PORTS", f"{port}-{port}")
        assert not is_free(port)
        assert str(os.getpid()) in listener(port)
        with pytest.raises(HomeError, match="no port is free for the gateway"):
            free_port(for_what="gateway")


@pytest.mark.parametrize("text", ["many", "10-20", "9000-8000", "65000-70000", "-5"])
def test_a_range_that_is_none_is_refused(monkeypatch, text):
    monkeypatch.setenv("HEADGATE_PORTS", text)
    with pytest.raises(HomeError, match="no range of ports"):
        free_port(for_what="gateway")


def test_a_stack_file_that_is_damaged_is_named(tmp_path):
    home = Home(tmp_path).ensure()
    home.stack_file.write_text("{}")
    with pytest.raises(HomeError, match=r"stack\.json"):
        Ports.remembered(home)


def test_status_names_every_program_that_up_starts(tmp_path):
    home = Home(tmp_path).ensure()
    assert [program.name for program in stack_programs(home, Ports.choose(home))] == list(STACK)


def test_a_program_that_is_killed_is_started_again(supervisor):
    supervisor.ensure(sleeper())
    first = wait_for(lambda: supervisor.states()["sleeper"].pid)
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: supervisor.states()["sleeper"].pid not in {0, first})


def test_ensure_restarts_only_what_changed(supervisor):
    supervisor.ensure(sleeper())
    first = supervisor.states()["sleeper"].pid
    supervisor.ensure(sleeper())
    assert supervisor.states()["sleeper"].pid == first
    awkward = 'quo"te %d\nand a line'
    supervisor.ensure(sleeper(A=awkward))
    changed = supervisor.states()["sleeper"].pid
    assert changed != first
    # launch.py is there first, and becomes the program.
    environment = wait_for(lambda: env if "A" in (env := psutil.Process(changed).environ()) else None)
    assert environment["A"] == awkward


def test_a_removed_program_is_gone(supervisor):
    supervisor.ensure(sleeper())
    pid = supervisor.states()["sleeper"].pid
    supervisor.remove("sleeper")
    supervisor.remove("sleeper")
    assert supervisor.states() == {}
    assert not psutil.pid_exists(pid)


def test_a_program_that_is_started_while_it_is_stopped_is_stopped_again(supervisor, monkeypatch):
    supervisor.ensure(sleeper())
    call, started = supervisor._call, []

    def racing(method: str, *arguments: object, accept: int = 0):
        found = call(method, *arguments, accept=accept)
        if method == "stopProcessGroup" and len(started) < 2:
            # On a busy machine the race that this makes may come by itself.
            started.append(call("startProcess", *arguments, False, accept=Faults.ALREADY_STARTED))
        return found

    monkeypatch.setattr(supervisor, "_call", racing)
    supervisor.remove("sleeper")
    assert (len(started), supervisor.states()) == (2, {})


def test_a_program_that_gives_up_is_not_started_again(supervisor):
    code = "print('no use'); raise SystemExit(3)"
    supervisor.ensure(Program("failing", [sys.executable, "-c", code]))
    state = wait_for(lambda: supervisor.states()["failing"] if supervisor.states()["failing"].has_ended else None)
    assert state.state == "EXITED"
    assert "no use" in supervisor.log_tail("failing")


def test_what_a_killed_supervisor_left_is_ended_and_its_programs_run_again(supervisor):
    supervisor.ensure(sleeper())
    orphan = supervisor.states()["sleeper"].pid
    os.kill(supervisor._call("getPID"), signal.SIGKILL)
    wait_for(lambda: not supervisor.is_up())
    assert psutil.pid_exists(orphan)
    assert orphan in supervisor.end_leftovers()
    # Its parent, which is the machine's first process now, may take a while to ask how it ended.
    wait_for(lambda: not psutil.pid_exists(orphan))
    supervisor.start()
    assert wait_for(lambda: supervisor.states()["sleeper"].pid)


def test_a_home_that_is_too_long_for_a_socket_says_so(tmp_path):
    home = Home(tmp_path / ("long" * 30)).ensure()
    with pytest.raises(HomeError, match="at most 98 bytes"):
        Supervisor(home).start()


def test_a_running_supervisor_is_left_alone(supervisor):
    pid = supervisor._call("getPID")
    supervisor.start()
    assert supervisor._call("getPID") == pid


def test_threads_of_one_process_may_look_at_a_home_at_once(tmp_path):
    home = Home(tmp_path).ensure()
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: home.ensure(), range(400))) == {home}
    assert not list(tmp_path.glob(".probe*"))
