from __future__ import annotations

import json
import os
import signal
import socket
import stat
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from supervisor.xmlrpc import Faults
from support.stack import wait_for

from deploy_targets.envoy import Gateway
from headgate.doctor import examine, of_program
from headgate.errors import HomeError
from headgate.home import Home
from headgate.stack import Ports, Program, ProgramState, Supervisor
from headgate.stack.ports import HOST, free_port, is_free, listener
from headgate.stack.programs import STACK, stack_programs
from registry.journal import open_journal


@pytest.fixture
def supervisor(tmp_path):
    running = Supervisor(Home(tmp_path / "home").ensure())
    running.start()
    yield running
    running.stop()


@pytest.fixture
def usual_umask():
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.parametrize("name", ["a space", "größe;#1", 'it\'s "quoted"'])
def test_a_home_may_have_any_name(tmp_path_factory, name):
    running = Supervisor(Home(tmp_path_factory.mktemp("h") / name).ensure())
    running.start()
    try:
        running.ensure(sleeper())
        wait_for(lambda: running.states()["sleeper"].state == "RUNNING")
    finally:
        running.stop()


@pytest.mark.parametrize("name", ["a[b]", "100% sure", "wh?t", "a *", "first ;second", "first #second", "two\nlines"])
def test_a_home_that_supervisord_cannot_name_is_refused_before_it_starts(tmp_path_factory, name):
    refused = Supervisor(Home(tmp_path_factory.mktemp("h") / name).ensure())
    with pytest.raises(HomeError, match="which supervisord cannot have in a path"):
        refused.start()
    assert not refused.is_up()


def sleeper(name: str = "sleeper", **env: str) -> Program:
    return Program(name, [sys.executable, "-c", "import time; time.sleep(600)"], env)


def modes(folder: Path) -> dict[str, str]:
    """The modes that let somebody else in, by path."""
    return {
        str(path.relative_to(folder)): f"{mode:o}"
        for path in (folder, *folder.rglob("*")) if (mode := stat.S_IMODE(path.stat().st_mode)) & 0o077
    }  # fmt: skip


def test_a_home_is_its_owners_alone(tmp_path, usual_umask):
    """Requests of clients are in it, and the journal."""
    home = Home(tmp_path / "home").ensure()
    stack_programs(home, Ports.choose(home))
    with open_journal(home.journal_url):
        pass
    Gateway(home.gateway, Ports.choose(home)).prepare()
    running = Supervisor(home)
    running.start()
    try:
        write = "open('by the program', 'w').write('x'); open('it is done', 'w')"
        running.ensure(Program("writer", [sys.executable, "-c", write], folder=home.root))
        wait_for((home.root / "it is done").exists)
    finally:
        running.stop()
    assert not home.open_to()
    # The lock of a file has nothing in it, and is made by a library.
    assert {name: mode for name, mode in modes(home.root).items() if not name.endswith(".lock")} == {}


def test_a_home_of_an_earlier_version_is_closed_by_up_and_told_of_by_doctor(tmp_path, usual_umask):
    home = Home(tmp_path / "home").ensure()
    (home.root / "journal.db").touch()
    for path in (home.root, home.logs):
        path.chmod(0o755)
    (told,) = [one for one in examine(home) if one.severity == "warning" and one.subject == "HEADGATE_HOME"]
    assert told.problem == f"{home.root} is open to other users (mode 755)"
    assert "chmod 700" in told.fix
    assert home.ensure().open_to() == "755", "only up changes it"
    assert home.tighten() == "755"
    assert (home.open_to(), home.tighten(), modes(home.root)) == ("", "", {})
    assert not [one for one in examine(home) if "open to other users" in one.problem]


def test_ports_are_chosen_once_and_remembered(tmp_path):
    home = Home(tmp_path).ensure()
    assert Ports.remembered(home) is None
    chosen = Ports.choose(home)
    assert Ports.choose(home) == Ports.remembered(home) == chosen
    assert len(set(chosen.model_dump().values())) == 5


def test_the_port_that_prometheus_knows_stays(tmp_path):
    """Earlier versions had the admin endpoint there."""
    home = Home(tmp_path).ensure()
    before = Ports.choose(home).model_dump()
    home.stack_file.write_text(json.dumps(before).replace("gateway_metrics", "gateway_admin"))
    assert Ports.remembered(home) == Ports.choose(home) == Ports(**before)


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


def test_the_stacks_own_programs_are_started_again_however_they_end(supervisor, tmp_path):
    """A gateway that somebody told to quit ended with 0, and stayed away."""
    home = Home(tmp_path / "home")
    assert [one.name for one in stack_programs(home, Ports.choose(home)) if not one.for_ever] == []
    for name, for_ever in (("serving", True), ("done", False)):
        code = f"open({str(tmp_path / name)!r}, 'a').write('x')"
        supervisor.ensure(Program(name, [sys.executable, "-c", code], for_ever=for_ever))
    wait_for(lambda: (tmp_path / "serving").exists() and len((tmp_path / "serving").read_text()) > 2)
    assert wait_for(lambda: supervisor.states()["done"].has_ended)
    assert (tmp_path / "done").read_text() == "x"


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


def test_a_home_that_is_too_long_for_the_gateways_socket_says_so(tmp_path):
    home = Home(tmp_path / ("long" * 30)).ensure()
    with pytest.raises(HomeError, match="at most 107 bytes"):
        Gateway(home.gateway, Ports.choose(home)).prepare()


def test_a_running_supervisor_is_left_alone(supervisor):
    pid = supervisor._call("getPID")
    supervisor.start()
    assert supervisor._call("getPID") == pid


def test_threads_of_one_process_may_look_at_a_home_at_once(tmp_path):
    home = Home(tmp_path).ensure()
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: home.ensure(), range(400))) == {home}
    assert not list(tmp_path.glob(".probe*"))


@pytest.mark.parametrize(("name", "state", "severity"), [
    ("worker", "RUNNING", "ok"), ("worker", "STARTING", "error"), ("worker", "STOPPING", "error"),
    ("wine--v2-1a2b", "RUNNING", "ok"), ("wine--v2-1a2b", "STARTING", "ok"), ("wine--v2-1a2b", "STOPPING", "ok"),
    ("wine--v2-1a2b", "BACKOFF", "error"), ("wine--v2-1a2b", "FATAL", "error"), ("wine--v2-1a2b", "EXITED", "error"),
])  # fmt: skip
def test_doctor_takes_no_revision_that_is_being_retired_for_an_error(name, state, severity):
    assert of_program(ProgramState(name, state, 1, ""), Path("a.log")).severity == severity
