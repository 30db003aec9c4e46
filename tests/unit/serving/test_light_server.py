"""The server that tests use in place of `serving/` meets the same contract: both are asked the same."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import httpx
import pyarrow as pa
import pytest
from support import light
from support.stack import wait_for

from headgate.stack.ports import free_port

SERVING = Path(__file__).parents[3] / "serving"
ROWS = {"dataframe_records": [{"x": 1.0}, {"x": 20.5}]}
REQUESTS = [
    ("POST", "/invocations", ROWS),
    ("POST", "/invocations", {"dataframe_split": {"columns": ["x"], "data": [[3.0]]}}),
    ("POST", "/invocations", {"instances": [{"x": 4.0}]}),
    ("POST", "/invocations", {"inputs": {"x": [5.0, 6.0]}}),
    ("POST", "/invocations", {"dataframe_records": [{"x": -1.0}]}),
    ("POST", "/invocations", {"dataframe_records": [{"y": 1.0}]}),
    ("POST", "/invocations", {}),
    ("GET", "/invocations", None),
    ("GET", "/ping", None),
    ("GET", "/nothing", None),
]


@contextmanager
def serving(folder: Path, code: Path, model: Path):
    """A server with a model, as a bundle has both; gives its process and a client."""
    port = free_port(for_what="a server")
    env = {**os.environ, "HEADGATE_MODEL": str(model), "HEADGATE_HOST": "127.0.0.1", "PORT": str(port),
           "HEADGATE_SCRATCH": str(folder)}  # fmt: skip
    shutil.copytree(code, folder / "serving")
    process = subprocess.Popen([sys.executable, "-m", "serving"], cwd=folder, env=env, stderr=subprocess.PIPE)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            yield process, client
    finally:
        process.kill()
        process.communicate()


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("/ping").is_success
    except httpx.TransportError:
        return False


def said(client: httpx.Client, method: str, path: str, body) -> tuple[int, object, str]:
    reply = client.request(method, path, json=body, headers={"x-request-id": f"{method}{path}"})
    is_answer = reply.is_success and path == "/invocations"
    return reply.status_code, reply.json() if is_answer else None, reply.headers.get("x-request-id", "")


def logged(folder: Path) -> list[tuple[str, int]]:
    rows = []
    for file in sorted((folder / "predictions").glob("*.arrows")):
        rows += pa.ipc.open_stream(file.read_bytes()).read_all().to_pylist()
    return [(row["request_id"], row["status"]) for row in rows]


def test_both_servers_say_the_same(models, tmp_path):
    model = models("pyfunc", does="negative")
    told = {}
    for name, code in (("whole", SERVING), ("light", light.code(tmp_path) / "serving")):
        folder = tmp_path / name
        folder.mkdir()
        with serving(folder, code, model) as (process, client):
            wait_for(lambda asked=client: answers(asked))
            replies = [said(client, *request) for request in REQUESTS]
            counted = [line for line in client.get("/metrics").text.splitlines() if "_requests_total{" in line]
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        # Only what the model is asked has an id that means something.
        asked = [reply for reply, (_, path, _) in zip(replies, REQUESTS, strict=True) if path == "/invocations"]
        told[name] = asked, [reply[:2] for reply in replies], sorted(counted), logged(folder)
    assert told["light"] == told["whole"]


@pytest.mark.parametrize(("does", "status"), [("broken", 3), ("hang", None)])
def test_what_cannot_be_loaded_ends_and_what_loads_is_not_ready(models, tmp_path, does, status):
    code = light.code(tmp_path / "code") / "serving"
    (tmp_path / "here").mkdir()
    with serving(tmp_path / "here", code, models("pyfunc", does=does)) as (process, client):
        if status is not None:
            _, error = process.communicate(timeout=20)
            assert process.returncode == status
            assert b"this model cannot be loaded" in error
            return
        wait_for(lambda: is_loading(client))
        assert said(client, "POST", "/invocations", ROWS)[0] == 503


def is_loading(client: httpx.Client) -> bool:
    try:
        return client.get("/ping").status_code == 503
    except httpx.TransportError:
        return False


def test_a_request_that_is_being_answered_outlives_sigterm(models, tmp_path):

    (tmp_path / "here").mkdir()
    model = models("pyfunc", does="slow", after=1.0)
    with serving(tmp_path / "here", light.code(tmp_path / "code") / "serving", model) as (process, client):
        wait_for(lambda: answers(client))
        replies = []
        asking = threading.Thread(target=lambda: replies.append(client.post("/invocations", json=ROWS)))
        asking.start()
        wait_for(lambda: "headgate_requests_in_progress 1.0" in httpx.get(f"{client.base_url}/metrics").text)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        asking.join()
    assert replies[0].json() == {"predictions": [{"x": 2.0}, {"x": 41.0}]}
