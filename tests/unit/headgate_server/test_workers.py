"""A request that never ends, a crash and a killed parent cost the requests of one worker, and no other."""

from __future__ import annotations

import os
import re
import signal
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import psutil
import pytest
from support.stack import wait_for
from test_app import ask, ready, server

from deploy_targets.processes import usage_of
from monitoring.usage import count_restarts

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

NEVER = 666.0


def workers(process: subprocess.Popen[str]) -> list[int]:
    return [one.pid for one in psutil.Process(process.pid).children() if is_worker(one)]


def is_worker(process: psutil.Process) -> bool:
    try:
        return "spawn_main" in " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return False


class Others(threading.Thread):
    """Clients that connect anew for each request, one after the other, until they are stopped."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url, self._over = url, threading.Event()
        self.answers: list[object] = []
        self.pings: list[object] = []

    def run(self) -> None:
        while not self._over.is_set():
            with httpx.Client(base_url=self._url, timeout=20) as fresh:
                self.answers.append(attempt(lambda: ask(fresh).status_code))
                self.pings.append(attempt(lambda: fresh.get("/ping").status_code))

    def stop(self) -> None:
        self._over.set()
        self.join()


def attempt(call) -> object:
    try:
        return call()
    except httpx.TransportError as error:
        return repr(error)


@contextmanager
def beside(client: httpx.Client) -> Iterator[Others]:
    others = Others(str(client.base_url))
    others.start()
    try:
        yield others
    finally:
        others.stop()


def replaced(process: subprocess.Popen[str], before: list[int], client: httpx.Client) -> bool:
    """Whether another worker is there, and answers."""
    now = workers(process)
    if not now or now == before:
        return False
    with httpx.Client(base_url=client.base_url, timeout=20) as fresh:
        return attempt(lambda: ask(fresh).status_code) == 200


def ended(client: httpx.Client) -> float:
    with httpx.Client(base_url=client.base_url, timeout=20) as fresh:
        return float(re.search(r"^headgate_workers_ended_total (\S+)", fresh.get("/metrics").text, re.MULTILINE)[1])


def warm(client: httpx.Client) -> None:
    """Ask until the server takes its quickest way, which is in the event loop."""
    for _ in range(200):
        assert ask(client).status_code == 200


def test_a_request_that_never_ends_has_a_503_and_no_other_request_is_lost(models, tmp_path):
    with server(models("pyfunc", does="stuck"), tmp_path, HEADGATE_DEADLINE="2") as (process, client):
        wait_for(lambda: ready(client))
        before = workers(process)
        assert len(before) == 1
        with beside(client) as others:
            wait_for(lambda: len(others.answers) > 5)
            # So large a body is not answered in the event loop.
            body = '{"instances": [{"x": 666}]}' + " " * 2**16
            headers = {"content-type": "application/json", "x-request-id": "never"}
            late = client.post("/invocations", content=body, headers=headers)
            assert late.status_code == 503
            assert late.json() == {
                "error_code": "TEMPORARILY_UNAVAILABLE", "message": "the model has not answered within 2 s",
                "request_id": "never",
            }  # fmt: skip
            assert late.headers["connection"] == "close"
            wait_for(lambda: replaced(process, before, client))
        assert set(others.answers) == {200}
        assert set(others.pings) == {200}
        assert ended(client) == 1
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=20)
        assert process.returncode == 0
    assert "request never has had no answer for 2 s (HEADGATE_DEADLINE)" in log
    assert "a request missed its deadline; another takes its place" in log


def test_a_server_with_too_much_to_do_refuses_what_waits_too_long_and_goes_on(models, tmp_path):
    """Four threads, half a second each: of forty requests at once the last would wait for five."""
    with server(models("pyfunc", does="slow", after=0.5), tmp_path, HEADGATE_DEADLINE="2") as (process, client):
        wait_for(lambda: ready(client))
        before, answers = workers(process), []

        def once() -> None:
            with httpx.Client(base_url=client.base_url, timeout=30) as fresh:
                answers.append(attempt(lambda: ask(fresh).status_code))

        threads = [threading.Thread(target=once) for _ in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(answers) == {200, 503}
        assert answers.count(200) >= 8
        assert workers(process) == before
        assert ask(client).status_code == 200
        assert ended(client) == 0


@pytest.mark.parametrize("does", ["stuck", "seized"])
def test_a_worker_that_cannot_answer_at_all_is_replaced_and_its_log_says_where_it_stood(models, tmp_path, does):
    with server(models("pyfunc", does=does), tmp_path, HEADGATE_DEADLINE="2") as (process, client):
        wait_for(lambda: ready(client))
        warm(client)
        before = workers(process)
        failed: list[object] = []
        hanging = threading.Thread(target=lambda: failed.append(attempt(lambda: ask(client, NEVER).status_code)))
        hanging.start()
        wait_for(lambda: replaced(process, before, client))
        hanging.join()
        assert failed != [200]
        assert ended(client) == 1
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=20)
    assert "_fail_for_good" in log


def test_a_crash_costs_the_requests_of_its_worker_alone(models, tmp_path):
    with server(models("pyfunc", does="fatal"), tmp_path) as (process, client):
        wait_for(lambda: ready(client))
        for times in (1, 2):
            before, used = workers(process), usage_of(process.pid)
            with pytest.raises(httpx.TransportError):
                ask(client, NEVER)
            # Connections wait until the next worker accepts them, and none is refused.
            with httpx.Client(base_url=client.base_url, timeout=20) as fresh:
                assert ask(fresh).status_code == 200
            assert workers(process) != before
            assert ended(client) == times
            assert count_restarts([used.servers, usage_of(process.pid).servers]) == 1


def test_a_model_that_crashes_while_it_loads_is_not_loaded_for_ever(models, tmp_path):
    with server(models("pyfunc", does="hang"), tmp_path) as (process, _):
        (worker,) = wait_for(lambda: workers(process))
        os.kill(worker, signal.SIGKILL)
        _, log = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "while it loaded the model" in log


def test_a_killed_parent_leaves_no_worker_behind(models, tmp_path):
    with server(models("pyfunc", does="double"), tmp_path) as (process, client):
        wait_for(lambda: ready(client))
        (worker,) = workers(process)
        process.kill()
        wait_for(lambda: not Path(f"/proc/{worker}").exists(), 20)


def test_a_load_that_fails_ends_all_of_several_workers(models, tmp_path):
    with server(models("pyfunc", does="broken"), tmp_path, HEADGATE_WORKERS="2") as (process, _):
        _, log = process.communicate(timeout=60)
    assert process.returncode == 3
    assert "this model cannot be loaded" in log
