"""Flow runs that are forked from a process which has everything imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from support.stack import HEADGATE, wait_for

from flows import engine
from headgate.phases import Outcome
from headgate.stack import Supervisor
from registry.lease import holder

INVALID = "Invalid flow run id"


def pid_of(world, program):
    state = Supervisor(world.stack.home).states()[program]
    return state.pid if state.state == "RUNNING" else 0


def test_a_run_is_forked_and_outlives_the_engine(world, models):
    ready = wait_for(lambda: (world.stack.home.supervisor / "engine.sock").exists() and pid_of(world, "engine"))
    run = world.submit(models("pyfunc", does="double"))
    held = wait_for(lambda: holder(world.journal, world.endpoint))
    carried_out = psutil.Process(int(held.name.rpartition(":")[2]))
    assert carried_out.ppid() == ready
    psutil.Process(ready).kill()
    assert world.ended().outcome is Outcome.PROMOTED
    wait_for(lambda: world.run_state(run) == "Completed")
    wait_for(lambda: not carried_out.is_running())
    assert wait_for(lambda: pid_of(world, "engine")) != ready


@pytest.fixture
def served(tmp_path):
    """An engine of one's own, and what asks it for a run of no valid id."""
    (tmp_path / "supervisor").mkdir()
    environment = {**os.environ, "HEADGATE_HOME": str(tmp_path)}
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen([sys.executable, "-m", "flows.engine"], env=environment, stderr=log) as process,
    ):

        def ask():
            return subprocess.run(
                [sys.executable, "-m", "headgate.flow_run"], env=environment, capture_output=True, text=True,
                check=False, cwd=tmp_path, timeout=60,
            )  # fmt: skip

        wait_for((tmp_path / "supervisor" / "engine.sock").exists)
        yield process, ask
        process.kill()


def test_it_ends_as_prefects_own_engine_does(served, tmp_path):
    process, ask = served
    forked = ask()
    process.kill()
    process.wait()
    here = ask()
    assert forked.returncode == here.returncode == 1
    assert INVALID in forked.stderr
    assert INVALID in here.stderr
    assert (tmp_path / "log").read_text() == "", "what a run says is the run's"


@pytest.mark.parametrize(("command", "code", "says"), [
    (["plan", "release.yaml"], 2, "release.yaml has 1 problem"), (["history", "wine"], 2, "there is no endpoint wine"),
    (["status"], 0, "is not up: headgate up"), (["export", "wine"], 2, "there is no endpoint wine"),
    (["labels", "wine", "labels.csv"], 1, "the local stack was never started"),
])  # fmt: skip
def test_a_command_is_carried_out_there_as_it_would_be_here(served, tmp_path, command, code, says):
    process, _ = served
    file = tmp_path / "release.yaml"
    file.write_text("model: wine\nartifact: x\ntarget: {kind: cloud}\n")

    def said(*python, **more):
        done = subprocess.run(
            [*python, HEADGATE, *command], env={**os.environ, "HEADGATE_HOME": str(tmp_path), **more},
            capture_output=True, text=True, check=False, cwd=tmp_path, timeout=60,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    forked, here = said(), said(HEADGATE_ENGINE="off")
    assert forked == here
    assert forked[0] == code
    assert says in forked[1] + forked[2]
    imported = said(sys.executable, "-X", "importtime")[2]
    assert "headgate.engine" in imported
    assert not {"sqlalchemy", "prefect", "mlflow", "pandas"} & set(imported.split()), "it is not this process's work"
    wait_for(lambda: not psutil.Process(process.pid).children(), 10)


def test_who_kills_the_asking_process_kills_the_one_that_does_the_work(served, tmp_path):
    process, _ = served
    # A release file that never comes: the work waits for as long as it lives.
    os.mkfifo(file := tmp_path / "release.yaml")
    asking = subprocess.Popen(
        [HEADGATE, "plan", str(file)], env={**os.environ, "HEADGATE_HOME": str(tmp_path)}, stderr=subprocess.PIPE,
        umask=0o027,
    )  # fmt: skip
    (working,) = wait_for(psutil.Process(process.pid).children)
    wait_for(lambda: "Umask:\t0027" in Path(f"/proc/{working.pid}/status").read_text(), 5)
    asking.kill()
    asking.communicate()
    wait_for(lambda: not working.is_running(), 5)


def test_it_leaves_nothing_where_it_is_stopped(served, tmp_path):
    process, _ = served
    process.terminate()
    assert process.wait(10) == 0
    assert not list((tmp_path / "supervisor").iterdir())


def test_modules_that_changed_on_disk_are_not_run(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "_PROJECT", tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "a_module_of_this_test.py"
    file.write_text("")
    __import__(file.stem)
    changed = engine._Modules()
    assert not changed
    os.utime(file, (1, 1))
    assert changed
    file.unlink()
    assert changed
