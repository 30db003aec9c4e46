"""What processes on this machine use."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from deploy_targets.processes import usage_of

_TAKES = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "taken = b'x' * 2**26; print('ready', flush=True); input()"],
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdout.readline()
sum(range(3_000_000))
print("ready", flush=True)
input()
"""


@pytest.fixture
def server():
    with subprocess.Popen(
        [sys.executable, "-c", _TAKES], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "ready\n"
        yield process
        process.stdin.close()


def test_a_servers_children_count_and_its_name_is_that_of_its_start(server):
    used = usage_of(server.pid)
    assert 2**26 < used.memory < 2**28
    assert used.cpu > 0
    assert used.servers[0].startswith(f"{server.pid}@")
    assert usage_of(server.pid).servers == used.servers


def test_what_has_ended_uses_nothing(server):
    server.kill()
    server.wait()
    assert usage_of(server.pid) is None


def test_a_process_of_another_container_is_not_taken_for_this_one(server):
    assert usage_of(server.pid, container="0123456789abcdef") is None
    assert usage_of(0, container="0123456789abcdef") is None
    assert usage_of(os.getpid()) is not None
