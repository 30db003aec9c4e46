"""The server that tests use in place of `headgate_server/` meets the same contract: both are asked the same."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
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

SERVING = Path(__file__).parents[3] / "headgate_server"
ROWS = {"dataframe_records": [{"x": 1.0}, {"x": 20.5}]}
REQUESTS = [
    ("POST", "/invocations", ROWS),
    ("POST", "/invocations", {"dataframe_split": {"columns": ["x"], "data": [[3.0]]}}),
    ("POST", "/invocations", {"instances": [{"x": 4.0}]}),
    ("POST", "/invocations", {"inputs": {"x": [5.0, 6.0]}}),
    ("POST", "/invocations", {"dataframe_records": [{"x": -1.0}]}),
    ("POST", "/invocations", {"dataframe_records": [{"y": 1.0}]}),
    ("POST", "/invocations", {}),
    ("POST", "/invocations", {"inputs": {"x": 5.0}}),
    ("POST", "/invocations", {"dataframe_records": [{"x": None}]}),
    ("POST", "/invocations", b'{"dataframe_split": {"columns": ["x"], "data": [[NaN], [2]]}}'),
    ("POST", "/invocations", b"{broken"),
    ("GET", "/invocations", None),
    ("GET", "/ping", None),
    ("GET", "/nothing", None),
]
CONTENT = [
    ("text/csv", b"x\n7.0\n\n8.5\n"), ("text/csv", b"y,x\n1,7.0\n2,\n"), ("text/csv", b"y\n1\n"), ("text/xml", b"<x/>"),
    ("application/json; charset=utf-16", b'{"inputs": {"x": [1.0]}}'),
    ("application/jsonl", b'{"inputs": {"x": [1.0]}}'),
    ("application/json; charset=utf-8", b'{"inputs": {"x": [1.0]}}'),
]  # fmt: skip


@contextmanager
def serving(folder: Path, code: Path, model: Path):
    """A server with a model, as a bundle has both; gives its process and a client."""
    port = free_port(for_what="a server")
    env = {**os.environ, "HEADGATE_MODEL": str(model), "HEADGATE_HOST": "127.0.0.1", "PORT": str(port),
           "HEADGATE_SCRATCH": str(folder)}  # fmt: skip
    shutil.copytree(code, folder / "headgate_server")
    process = subprocess.Popen([sys.executable, "-m", "headgate_server"], cwd=folder, env=env, stderr=subprocess.PIPE)
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


def said(client: httpx.Client, method: str, path: str, body, kind: str = "application/json") -> tuple:
    """What a server answers, less the words of its errors."""
    content = body if isinstance(body, bytes) or body is None else json.dumps(body)
    headers = {"x-request-id": f"{method}{path}", "content-type": kind}
    reply = client.request(method, path, content=content, headers=headers)
    is_json = reply.headers["content-type"] == "application/json"
    told = reply.json() if is_json else {}
    # As text: NaN is itself then.
    said = json.dumps({name: value for name, value in told.items() if name != "message"})
    assert bool(told.get("message")) is (reply.status_code >= 400 and path != "/ping")
    return reply.status_code, said, reply.headers.get("x-request-id", ""), reply.headers.get("allow")


def logged(folder: Path) -> list[tuple[str, int]]:
    rows = []
    for file in sorted((folder / "predictions").glob("*.arrows")):
        rows += pa.ipc.open_stream(file.read_bytes()).read_all().to_pylist()
    return [(row["request_id"], row["status"]) for row in rows]


def test_both_servers_say_the_same(models, tmp_path):
    model = models("pyfunc", does="negative")
    told = {}
    for name, code in (("whole", SERVING), ("light", light.code(tmp_path) / "headgate_server")):
        folder = tmp_path / name
        folder.mkdir()
        with serving(folder, code, model) as (process, client):
            wait_for(lambda asked=client: answers(asked))
            replies = [said(client, *request) for request in REQUESTS]
            told_of_content = [said(client, "POST", "/invocations", body, kind) for kind, body in CONTENT]
            counted = [line for line in client.get("/metrics").text.splitlines() if "_requests_total{" in line]
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        # Only what the model is asked has an id that means something.
        asked = [reply for reply, (_, path, _) in zip(replies, REQUESTS, strict=True) if path == "/invocations"]
        others = [reply[:2] for reply in replies]
        told[name] = asked, others, told_of_content, sorted(counted), logged(folder)
    assert told["light"] == told["whole"]


@pytest.mark.parametrize(("does", "status"), [("broken", 3), ("hang", None)])
def test_what_cannot_be_loaded_ends_and_what_loads_is_not_ready(models, tmp_path, does, status):
    code = light.code(tmp_path / "code") / "headgate_server"
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
    with serving(tmp_path / "here", light.code(tmp_path / "code") / "headgate_server", model) as (process, client):
        wait_for(lambda: answers(client))
        replies = []
        asking = threading.Thread(target=lambda: replies.append(client.post("/invocations", json=ROWS)))
        asking.start()
        wait_for(lambda: "headgate_requests_in_progress 1.0" in httpx.get(f"{client.base_url}/metrics").text)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        asking.join()
    assert replies[0].json() == {"predictions": [{"x": 2.0}, {"x": 41.0}]}


HALF = b'{"instances": [{"x": 1.0}]}'
BROKEN_OFF = {
    "its length": b"content-length: 1000\r\n\r\n" + HALF,
    "chunks": b"transfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(HALF), HALF),
}


@pytest.mark.parametrize(("name", "how"), [("whole", "its length"), ("whole", "chunks"), ("light", "its length")])
def test_an_upload_that_breaks_off_is_no_request(models, tmp_path, name, how):
    """What came of it could be read, and is still not what the client asked."""
    code = SERVING if name == "whole" else light.code(tmp_path / "code") / "headgate_server"
    folder = tmp_path / "here"
    folder.mkdir()
    with serving(folder, code, models("pyfunc", does="double")) as (process, client):
        wait_for(lambda: answers(client))
        for _ in range(3):
            with socket.create_connection((client.base_url.host, client.base_url.port), timeout=10) as half:
                half.sendall(b"POST /invocations HTTP/1.1\r\nhost: here\r\n" + BROKEN_OFF[how])
                half.shutdown(socket.SHUT_WR)
                assert half.recv(1000) == b""
        assert said(client, "POST", "/invocations", ROWS)[0] == 200
        counted = [line for line in client.get("/metrics").text.splitlines() if "_requests_total{" in line]
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=20)
    assert counted == ['headgate_requests_total{status="200"} 1.0']
    assert logged(folder) == [("POST/invocations", 200)]
    assert b"Traceback" not in log
