"""Which process holds a lease, and whether it is known to have ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from registry.lease import lease_seconds
from registry.processes import is_known_dead, label, this_process

NAME = "import registry.processes as p; print(p.this_process(), flush=True); input()"


@pytest.fixture
def other():
    with subprocess.Popen([sys.executable, "-c", NAME], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield process, process.stdout.readline().decode().strip()
        process.kill()


def test_a_process_that_lives_or_stands_still_is_not_dead(other):
    process, name = other
    assert not is_known_dead(this_process())
    assert not is_known_dead(name)
    os.kill(process.pid, signal.SIGSTOP)
    assert not is_known_dead(name)


def test_a_killed_process_is_dead_before_and_after_its_parent_asks(other):
    process, name = other
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert is_known_dead(name), "a zombie"
    process.wait()
    assert is_known_dead(name)


def test_a_later_process_of_the_same_number_is_another_one():
    shown, _, identity = this_process().partition("#")
    machine, _, start = identity.rpartition(".")
    assert is_known_dead(f"{shown}#{machine}.{int(start) - 1}")


@pytest.mark.parametrize("name", ["host:1", "host:999999", "flow run 3c2e", "host:999999#elsewhere-1.5"])
def test_what_cannot_be_seen_from_here_is_left_to_time(name):
    assert not is_known_dead(name)


def test_people_see_host_and_pid():
    assert label(this_process()).endswith(f":{os.getpid()}")
    assert label("flow run 3c2e") == "flow run 3c2e"


def test_leases_last_half_a_minute_unless_the_environment_says_otherwise(monkeypatch):
    monkeypatch.delenv("HEADGATE_LEASE_SECONDS", raising=False)
    assert lease_seconds() == 30.0
    monkeypatch.setenv("HEADGATE_LEASE_SECONDS", "5")
    assert lease_seconds() == 5.0
