"""A server of two workers: a hang and a crash cost the requests of one, and what both count is right."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import psutil
import pytest
from support.stack import wait_for
from test_app import ask, read, ready, server
from test_workers import NEVER, attempt, beside, ended, warm, workers

from deploy_targets.kubernetes.capture import Captures
from deploy_targets.processes import usage_of
from headgate.records import Window
from headgate_server import room
from monitoring.usage import count_restarts

TWO = {"HEADGATE_SERVER_WORKERS": "2"}
PLENTY = "64Gi"
ON_ANY_CPUS = (
    sys.executable,
    "-c",
    """
import sys
from headgate_server import room
room.LEAST_CPUS = 0.1
from headgate_server.__main__ import main
sys.exit(main())
""",
)
"""Starts the server, where a second worker may be had with as few CPUs as the tests' machine has."""


def number(client: httpx.Client, name: str) -> float:
    with httpx.Client(base_url=client.base_url, timeout=20) as fresh:
        found = re.search(rf"^{re.escape(name)} (\S+)", fresh.get("/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def both(process, client: httpx.Client) -> list[int]:
    """The workers, once there are two that answer."""
    wait_for(lambda: ready(client) and number(client, "headgate_workers") == 2)
    return workers(process)


def log_of(process) -> str:
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=30)
    assert process.returncode == 0, log
    return log


def owner(client: httpx.Client, pids: list[int]) -> int:
    """The worker that has a client's connection."""
    stream = client._transport._pool.connections[0]._connection._network_stream
    ours = stream.get_extra_info("socket").getsockname()[1]
    (found,) = [
        pid for pid in pids
        if any(one.raddr and one.raddr.port == ours for one in psutil.Process(pid).net_connections("tcp"))
    ]  # fmt: skip
    return found


def clients_of_each(client: httpx.Client, pids: list[int]) -> dict[int, httpx.Client]:
    """A client with a connection of each worker; the kernel decides which worker accepts one."""
    found: dict[int, httpx.Client] = {}
    more: list[httpx.Client] = []

    def is_whole() -> bool:
        one = httpx.Client(base_url=client.base_url, timeout=30)
        more.append(one)
        assert ask(one).status_code == 200
        found.setdefault(owner(one, pids), one)
        return len(found) == 2

    wait_for(is_whole)
    for one in more:
        if one not in found.values():
            one.close()
    return found


@pytest.mark.parametrize("does", ["stuck", "seized"])
def test_a_worker_that_hangs_costs_its_own_requests_and_the_other_answers_meanwhile(models, tmp_path, does):
    hangs = tmp_path / "hangs"
    env = {"HEADGATE_DEADLINE": "4", "HANGS_SINCE": str(hangs), **TWO}
    with server(models("pyfunc", does=does), tmp_path, **env) as (process, client):
        pids = both(process, client)
        warm(client)
        of_each = clients_of_each(client, pids)
        hanging, (hung, other) = pids[0], (of_each[pids[0]], of_each[pids[1]])
        for one in (hung, other):
            warm(one)
        answers: list[object] = []
        late = threading.Thread(target=lambda: answers.append(attempt(lambda: ask(hung, NEVER).status_code)))
        late.start()
        # A connection that this worker accepts just before it hangs is its own loss.
        wait_for(hangs.exists)
        # During the hang: a connection that the other worker has, and connections that are made anew.
        meanwhile = 0
        with beside(client) as others:
            while late.is_alive():
                assert ask(other).status_code == 200
                meanwhile += 1
        late.join()
        assert answers != [200]
        assert meanwhile > 20
        assert len(others.answers) > 5
        assert {*others.answers, *others.pings} == {200}
        wait_for(lambda: hanging not in workers(process) and number(client, "headgate_workers") == 2)
        assert pids[1] in workers(process), "the other worker stays"
        assert ended(client) == 1
        assert "another takes its place" in log_of(process)


def test_a_killed_worker_is_replaced_and_counted_once_and_no_connection_waits_for_its_load(models, tmp_path):
    with server(models("pyfunc", does="double"), tmp_path, **TWO) as (process, client):
        pids, used = both(process, client), usage_of(process.pid)
        with beside(client) as others:
            os.kill(pids[0], signal.SIGKILL)
            wait_for(lambda: pids[0] not in workers(process) and number(client, "headgate_workers") == 2)
        # A connection that waited in the killed worker's hands is its own loss.
        assert Counter(others.answers)[200] >= len(others.answers) - 1
        # The gauge is the killed worker's until the parent has noticed.
        wait_for(lambda: ended(client) == 1)
        assert count_restarts([used.servers, usage_of(process.pid).servers]) == 1
        log_of(process)


def test_a_second_worker_is_no_restart(models, tmp_path):
    with server(models("pyfunc", does="double"), tmp_path, **TWO) as (process, client):
        (first,) = wait_for(lambda: workers(process))
        before = usage_of(process.pid)
        pids = both(process, client)
        assert first in pids
        after = usage_of(process.pid)
        assert len(after.servers) == len(before.servers) + 1
        assert count_restarts([before.servers, after.servers]) == 0
        assert ended(client) == 0


def test_what_both_count_is_one_sum_and_every_answer_is_in_the_log_once(models, tmp_path):
    there = tmp_path / "there"
    env = {"HEADGATE_SHIPS": "on", "HEADGATE_CAPTURES": f"file://{there}", "HEADGATE_ENDPOINT": "wine",
           "HEADGATE_REVISION": "v1-a"}  # fmt: skip
    with server(models("pyfunc", does="negative"), tmp_path, **env, **TWO) as (process, client):
        of_each = clients_of_each(client, both(process, client))
        asked = int(number(client, 'headgate_requests_total{status="200"}'))
        ids = [f"{pid}-{at}" for pid in of_each for at in range(60)]
        for pid, one in of_each.items():
            for at in range(60):
                is_bad = at % 20 == 0
                answer = ask(one, -1.0 if is_bad else 1.0, **{"x-request-id": f"{pid}-{at}"})
                assert answer.is_error == is_bad
        for one in of_each.values():
            one.get("/ping")
            text = one.get("/metrics").text
            assert f'headgate_requests_total{{status="200"}} {asked + 114}.0' in text
            assert 'headgate_requests_total{status="500"} 6.0' in text
            assert f"headgate_request_seconds_count {asked + 120}.0" in text
            assert "headgate_requests_in_progress 0.0" in text
            assert "headgate_workers 2.0" in text
        log_of(process)
    now = datetime.now(UTC)
    window = Window(start=now - timedelta(hours=1), end=now + timedelta(hours=1))
    rows = [row for batch in Captures(f"file://{there}").read("wine", window) for row in batch.to_pylist()]
    assert len(rows) == asked + 120
    assert Counter(row["request_id"] for row in rows if row["request_id"] in ids) == Counter(ids)
    assert not list(tmp_path.glob("scratch/predictions/*.arrows"))


def test_requests_in_flight_in_both_are_answered_before_the_server_ends(models, tmp_path):
    with server(models("pyfunc", does="late", after=2.0), tmp_path, **TWO) as (process, client):
        of_each = clients_of_each(client, both(process, client))
        answers: list[object] = []
        asking = [
            threading.Thread(target=lambda one=one: answers.append(attempt(lambda: ask(one, NEVER).status_code)))
            for one in of_each.values()
        ]
        for thread in asking:
            thread.start()
        wait_for(lambda: number(client, "headgate_requests_in_progress") == 2)
        log = log_of(process)
        for thread in asking:
            thread.join()
    assert answers == [200, 200]
    assert "Traceback" not in log
    assert len(read(tmp_path / "scratch" / "predictions")) >= 4


@pytest.mark.parametrize(
    ("env", "many", "says"),
    [
        ({}, 1, "workers: 1, as nothing limits its memory; memory limit none"),
        ({"HEADGATE_SERVER_MEMORY": "300Mi"}, 1, "workers: 1, as two do not fit in its memory; memory limit 300 MiB"),
        ({"HEADGATE_SERVER_MEMORY": PLENTY, "HEADGATE_SERVER_WORKERS": "1"}, 1, "as HEADGATE_SERVER_WORKERS is 1"),
        ({"HEADGATE_SERVER_WORKERS": "2", "HEADGATE_SERVER_MEMORY": "300Mi"}, 2, "workers: 2; memory limit 300 MiB"),
    ],
)
def test_the_number_of_workers_is_decided_once_and_said_in_one_line(models, tmp_path, env, many, says):
    with server(models("pyfunc", does="double"), tmp_path, under=ON_ANY_CPUS, **env) as (process, client):
        wait_for(lambda: ready(client) and number(client, "headgate_workers") == many)
        wait_for((tmp_path / "scratch" / "workers").exists)
        assert len(workers(process)) == many
        assert ask(client).status_code == 200
        log = log_of(process)
    lines = [line for line in log.splitlines() if "workers: " in line]
    assert len(lines) == 1
    assert says in lines[0]
    assert (tmp_path / "scratch" / "workers").read_text() == f"{many}\n"


def test_two_start_by_themselves_where_memory_and_cpus_are_there(models, tmp_path):
    model, memory = models("pyfunc", does="double"), {"HEADGATE_SERVER_MEMORY": PLENTY}
    with server(model, tmp_path, under=ON_ANY_CPUS, **memory) as (process, client):
        both(process, client)
        assert "two before no" in log_of(process)
    with server(model, tmp_path, under=ON_ANY_CPUS, **memory) as (process, client):
        both(process, client)
        assert "two before yes" in log_of(process)
    with server(model, tmp_path, under=("taskset", "-c", str(min(os.sched_getaffinity(0)))), **memory) as (
        process, client,
    ):  # fmt: skip
        wait_for(lambda: ready(client) and number(client, "headgate_workers") == 1)
        assert f"workers: 1, as it has less than {room.LEAST_CPUS} CPUs" in log_of(process)


@pytest.mark.parametrize(("name", "value", "says"), [
    ("HEADGATE_SERVER_WORKERS", "3", "HEADGATE_SERVER_WORKERS is '3', and not one of auto, 1, 2"),
    ("HEADGATE_SERVER_MEMORY", "2GB", "HEADGATE_SERVER_MEMORY is '2GB', and not a size such as 512Mi or 2Gi"),
])  # fmt: skip
def test_a_setting_that_means_nothing_ends_the_server_for_good(models, tmp_path, name, value, says):
    with server(models("pyfunc", does="double"), tmp_path, **{name: value}) as (process, _):
        _, log = process.communicate(timeout=30)
    assert process.returncode == 3
    assert says in log
    assert "Traceback" not in log


def test_a_second_worker_that_cannot_load_leaves_the_first_one_answering(models, tmp_path):
    once = tmp_path / "loaded"
    with server(models("pyfunc", does="once"), tmp_path, LOADED_ONCE=str(once), **TWO) as (process, client):
        wait_for(lambda: ready(client))
        (first,) = wait_for(lambda: pids if len(pids := workers(process)) == 1 and once.read_text() == "2" else None)
        wait_for(lambda: (tmp_path / "scratch" / "workers").read_text() == "1\n")
        for _ in range(20):
            with httpx.Client(base_url=client.base_url, timeout=20) as fresh:
                assert ask(fresh).status_code == 200
        assert workers(process) == [first]
        wait_for(lambda: number(client, "headgate_workers") == 1)
        assert ended(client) == 0
        log = log_of(process)
    assert "ended with 3 while it loaded the model; the server goes on with the other worker" in log


def test_a_second_worker_that_is_still_loading_gets_no_requests_and_sigterm_does_not_wait_for_it(models, tmp_path):
    once = tmp_path / "loaded"
    settings = {"LOADED_ONCE": str(once), "LOADED_ONCE_HANGS": "1", **TWO}
    with server(models("pyfunc", does="once"), tmp_path, **settings) as (process, client):
        wait_for(lambda: ready(client) and once.read_text() == "2")
        assert len(workers(process)) == 2
        for _ in range(30):
            with httpx.Client(base_url=client.base_url, timeout=20) as fresh:
                assert ask(fresh).status_code == 200
                assert ready(fresh)
        used = usage_of(process.pid)
        assert len(used.servers) == 2, "the parent and the first worker"
        log_of(process)


def test_where_memory_becomes_tight_the_larger_worker_ends_and_no_request_is_lost(models, tmp_path):
    with server(models("pyfunc", does="double"), tmp_path, HEADGATE_SERVER_WORKERS="1") as (process, client):
        wait_for(lambda: ready(client))
        used = room.resident(process.pid)
        worker = room.resident(workers(process)[0])
        process.send_signal(signal.SIGTERM)
        process.wait(20)
    # Two fit at first, with the reserve; then a request takes 2 GiB.
    limit = (used + 2 * worker + 2**31) // 2**20
    (tmp_path / "scratch" / "workers").unlink()
    with server(models("pyfunc", does="greedy"), tmp_path, under=ON_ANY_CPUS, HEADGATE_SERVER_MEMORY=f"{limit}Mi") as (
        process,
        client,
    ):
        pids = both(process, client)
        of_each = clients_of_each(client, pids)
        with beside(client) as others:
            assert ask(of_each[pids[0]], NEVER).status_code == 200
            wait_for(lambda: workers(process) == pids[1:] and number(client, "headgate_workers") == 1)
        assert {*others.answers, *others.pings} == {200}
        assert ended(client) == 0
        log = log_of(process)
    assert f"worker {pids[0]} is ended, and one is left" in log
    assert (tmp_path / "scratch" / "workers").read_text() == "1\n"


def test_a_killed_parent_leaves_no_worker_behind_that_is_still_loading(models, tmp_path):
    once = tmp_path / "loaded"
    settings = {"LOADED_ONCE": str(once), "LOADED_ONCE_HANGS": "1", **TWO}
    with server(models("pyfunc", does="once"), tmp_path, **settings) as (process, client):
        wait_for(lambda: ready(client) and once.read_text() == "2")
        pids = workers(process)
        assert len(pids) == 2
        process.kill()
        wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), 20)


def test_where_nothing_can_be_written_there_is_one_worker(models, tmp_path):
    with server(models("pyfunc", does="double"), tmp_path, HEADGATE_SCRATCH="", **TWO) as (process, client):
        wait_for(lambda: ready(client))
        assert json.loads(ask(client).content) == {"predictions": [{"x": 2.0}]}
        assert number(client, "headgate_workers") == 1
        assert "as it has no folder to write to (HEADGATE_SCRATCH)" in log_of(process)
