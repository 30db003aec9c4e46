"""The server as a platform starts it: a process, a port, signals."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
import uuid
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import psutil
import pytest
from support import nvml
from support.stack import wait_for

from deploy_targets import prediction_log as reader
from deploy_targets.kubernetes.capture import Captures
from headgate.records import Window
from headgate.stack.ports import free_port
from headgate_server.app import App, _read_headers
from headgate_server.model import Answer, ServedModel
from headgate_server.prediction_log import PredictionLog, Row
from headgate_server.redact import redact
from headgate_server.settings import Settings
from monitoring.predictions import Predictions

REPOSITORY = Path(__file__).parents[3]
LATE = 666.0
"""What a model that is `late` takes its time for."""


@contextmanager
def server(model: Path, tmp_path: Path, *arguments: str, limit_file: int = 0, under: tuple[str, ...] = (), **env: str):
    """A server process, and a client of it; `under` is a command that starts it."""
    port = free_port(for_what="the server under test")
    scratch = tmp_path / "scratch"

    def restrict() -> None:
        if limit_file:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_file, limit_file))

    settings = {"HEADGATE_MODEL": str(model), "HEADGATE_SCRATCH": str(scratch), "HEADGATE_HOST": "127.0.0.1",
                "PORT": str(port), **env}  # fmt: skip
    if limit_file:
        # Python puts a file of byte code that was cut off in its place, for every process that comes after.
        settings["PYTHONDONTWRITEBYTECODE"] = "1"
    with subprocess.Popen(
        [*under, sys.executable, "-m", "headgate_server", *arguments], cwd=REPOSITORY, env={**os.environ, **settings},
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, preexec_fn=restrict,
    ) as process, httpx.Client(base_url=f"http://127.0.0.1:{settings['PORT']}", timeout=20) as client:  # fmt: skip
        try:
            yield process, client
        finally:
            process.kill()


def up(client: httpx.Client):
    try:
        return client.get("/ping")
    except httpx.TransportError:
        return None


def ready(client: httpx.Client) -> bool:
    reply = up(client)
    return reply is not None and reply.status_code == 200


def metrics(client: httpx.Client) -> str:
    """Ask on a connection of its own, as another may be in use."""
    with httpx.Client(base_url=client.base_url, timeout=20) as fresh:
        return fresh.get("/metrics").text


def ask(client: httpx.Client, x: float = 1.0, **headers: str) -> httpx.Response:
    body = json.dumps({"dataframe_records": [{"x": x}]})
    return client.post("/invocations", content=body, headers={"content-type": "application/json", **headers})


def test_where_nothing_is_beside_it_it_brings_its_log_to_storage_itself(models, tmp_path):
    there = tmp_path / "there"
    env = {"HEADGATE_SHIPS": "on", "HEADGATE_CAPTURES": f"file://{there}", "HEADGATE_ENDPOINT": "wine"}

    def arrived() -> int:
        now = datetime.now(UTC)
        window = Window(start=now - timedelta(minutes=5), end=now + timedelta(minutes=5))
        return sum(batch.num_rows for batch in Captures(f"file://{there}").read("wine", window))

    with server(models("pyfunc", does="double"), tmp_path, HEADGATE_REVISION="v1-a", **env) as (process, client):
        wait_for(lambda: ready(client), 30)
        ask(client)
        wait_for(lambda: arrived() == 1, 20)
        (shipper,) = [one for one in psutil.Process(process.pid).children() if "headgate_server.ship" in one.cmdline()]
        shipper.kill()
        ask(client)
        wait_for(lambda: arrived() == 2, 20)
        ask(client)
        process.terminate()
        assert process.wait(30) == 0
    assert arrived() == 3
    assert not list(tmp_path.glob("scratch/predictions/*.arrows"))


@pytest.mark.parametrize(
    ("visible", "gpus"), [(None, ["0", "1"]), ("1", ["1"]), ("GPU-second", ["GPU-second"]), ("", []), ("7", [])]
)
def test_it_tells_of_the_gpus_that_it_sees(models, tmp_path, visible, gpus):
    env = {"LD_LIBRARY_PATH": nvml.library(tmp_path / "nvml")}
    env |= {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    with server(models("pyfunc", does="double"), tmp_path, **env) as (_, client):
        wait_for(lambda: up(client) is not None)
        told = dict(
            line.split() for line in client.get("/metrics").text.splitlines() if line.startswith("headgate_gpu_")
        )
    used = {"0": 3, "1": 4, "GPU-second": 4}
    assert {name: float(value) for name, value in told.items()} == {
        **{f'headgate_gpu_memory_bytes{{gpu="{gpu}"}}': 80 * nvml.GIB for gpu in gpus},
        **{f'headgate_gpu_memory_used_bytes{{gpu="{gpu}"}}': used[gpu] * nvml.GIB for gpu in gpus},
        **{f'headgate_gpu_used_ratio{{gpu="{gpu}"}}': 0.42 for gpu in gpus if gpu == "0"},
    }


def test_the_container_contract(models, tmp_path):
    with server(models("pyfunc", does="negative"), tmp_path, "serve") as (process, client):
        wait_for(lambda: up(client) is not None)
        assert up(client).status_code == 503, "/ping says 503 while the model loads"
        early = ask(client, 2.0)
        assert (early.status_code, early.headers["retry-after"]) == (503, "1"), "and no request waits for it"
        wait_for(lambda: (status := up(client).status_code) == 200 or status != 503)
        assert ready(client)

        good = ask(client, 2.0, **{"x-request-id": "mine"})
        assert (good.status_code, good.json(), good.headers["x-request-id"]) == (
            200,
            {"predictions": [{"x": 4.0}]},
            "mine",
        )
        assert ask(client).headers["x-request-id"]
        assert client.post("/invocations", json={"instances": [{"x": 1.5}]}).json() == {"predictions": [{"x": 3.0}]}

        raised = ask(client, -1.0)
        assert raised.status_code == 500
        assert raised.json()["request_id"] == raised.headers["x-request-id"]
        assert raised.json()["error_code"] == "INTERNAL_ERROR"
        assert "Traceback (" not in raised.text

        for content, kind in ((b"{broken", "application/json"), (b"{}", "application/json"), (b"<x/>", "text/xml")):
            refused = client.post("/invocations", content=content, headers={"content-type": kind})
            assert 400 <= refused.status_code < 500
            assert {*refused.json()} == {"error_code", "message", "request_id"}
            assert refused.json()["request_id"] == refused.headers["x-request-id"]
        other = client.get("/invocations")
        assert (other.status_code, other.headers["allow"]) == (405, "POST")
        assert client.get("/nothing").status_code == 404

        text = client.get("/metrics").text
        assert 'headgate_requests_total{status="200"} 3.0' in text
        assert 'headgate_requests_total{status="500"} 1.0' in text
        assert "headgate_request_seconds_bucket" in text
        assert "headgate_requests_in_progress 0.0" in text

        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=20)
        assert process.returncode == 0
        assert raised.headers["x-request-id"] in log
        assert "x is not to my liking" in log


# Another user without a name or a home may read everything and write nothing, but for the scratch folder.
ANY_USER = """
scratch=$1; shift
for folder in /tmp /var/tmp /dev/shm; do mount --bind $folder $folder && mount -o remount,bind,ro $folder; done
mount --bind $scratch $scratch && mount -o remount,bind,rw $scratch
exec setpriv --reuid 54321 --regid 54321 --clear-groups --inh-caps=-all,+dac_read_search \\
    --ambient-caps=+dac_read_search --bounding-set=-all,+dac_read_search "$@"
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_any_user_and_one_folder_to_write_to_are_enough(models, tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    os.chown(scratch, 54321, 54321)
    under = ("unshare", "--mount", "sh", "-ec", ANY_USER, "sh", str(scratch))
    settings = {"HOME": "/nonexistent", "HEADGATE_WORKERS": "2"}
    with server(models("pyfunc", does="double"), tmp_path, under=under, **settings) as (process, client):
        wait_for(lambda: ready(client) or process.poll() is not None)
        assert process.poll() is None, process.stderr.read()
        assert Path(f"/proc/{process.pid}/status").read_text().split("Uid:")[1].split()[0] == "54321"
        assert ask(client, 2.0).json() == {"predictions": [{"x": 4.0}]}
        wait_for(lambda: any(file.stat().st_size for file in scratch.glob("predictions/*")))
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        complaints = process.stderr.read()
    assert "Traceback" not in complaints, complaints
    assert "Read-only" not in complaints, complaints


def test_requests_in_flight_are_answered_before_it_ends(models, tmp_path):
    with server(models("pyfunc", does="late", after=1.5), tmp_path) as (process, client):
        wait_for(lambda: ready(client))
        replies = []
        thread = threading.Thread(target=lambda: replies.append(ask(client, LATE)))
        thread.start()
        wait_for(lambda: "headgate_requests_in_progress 1.0" in metrics(client))
        process.send_signal(signal.SIGTERM)
        thread.join()
        assert replies[0].status_code == 200
        assert process.wait(20) == 0


def test_a_model_that_cannot_load_ends_the_server_with_a_reason(models, tmp_path):
    with server(models("pyfunc", does="broken"), tmp_path) as (process, _):
        _, log = process.communicate(timeout=30)
        assert process.returncode == 3
        assert "this model cannot be loaded" in log


def test_the_port_of_vertex_comes_first(models, tmp_path):
    port = str(free_port(for_what="Vertex"))
    with server(models("pyfunc", does="double"), tmp_path, AIP_HTTP_PORT=port):
        vertex = httpx.Client(base_url=f"http://127.0.0.1:{port}")
        wait_for(lambda: ready(vertex))
        vertex.close()


def test_a_slow_model_does_not_keep_ping_waiting(models, tmp_path):
    with server(models("pyfunc", does="late", after=1.5), tmp_path) as (_, client):
        wait_for(lambda: ready(client))
        replies = []
        thread = threading.Thread(target=lambda: replies.append(ask(client, LATE).status_code))
        thread.start()
        answered = 0
        while not replies:
            answered += ready(client)
        thread.join()
        assert replies == [200]
        assert answered > 5


def test_several_workers_are_ready_together_and_counted_together(models, tmp_path):
    with server(models("pyfunc", does="double"), tmp_path, HEADGATE_WORKERS="2") as (process, client):
        wait_for(lambda: ready(client))
        workers = lambda: [  # noqa: E731
            int(file.name) for file in (tmp_path / "scratch" / "ready").iterdir() if Path(f"/proc/{file.name}").exists()
        ]
        assert len(workers()) == 2
        # One that is started again costs nobody a request: its sibling answers, or it does when it can.
        os.kill(workers()[0], signal.SIGKILL)
        wait_for(lambda: len(workers()) == 1)
        asked = 0
        while asked < 20 or len(workers()) < 2:
            with httpx.Client(base_url=client.base_url, timeout=20) as fresh:
                assert ask(fresh).status_code == 200
            asked += 1
        with httpx.Client(base_url=client.base_url) as fresh:
            text = fresh.get("/metrics").text
        assert f'headgate_requests_total{{status="200"}} {asked}.0' in text
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def read(folder: Path) -> list[dict]:
    now = datetime.now(UTC)
    window = Window(start=now - timedelta(hours=1), end=now + timedelta(hours=1))
    return [row for batch in reader.read(folder, "wine", "v1", window) for row in batch.to_pylist()]


def test_every_answer_is_in_the_log(models, tmp_path):
    with server(models("pyfunc", does="negative"), tmp_path) as (process, client):
        wait_for(lambda: ready(client))
        ask(client, 1.0, **{"x-request-id": "good", "host": "h-shadow:80"})
        ask(client, -1.0, **{"x-request-id": "bad"})
        process.send_signal(signal.SIGTERM)
        process.wait(20)
    rows = {row["request_id"]: row for row in read(tmp_path / "scratch" / "predictions")}
    assert {key: (row["status"], row["mirrored"]) for key, row in rows.items()} == {
        "good": (200, True),
        "bad": (500, False),
    }
    assert json.loads(rows["good"]["response"]) == {"predictions": [{"x": 2.0}]}


def test_the_same_row_is_monitored_whatever_form_it_comes_in(models, tmp_path):
    asked = {"double": 0.5, "float": 1.5, "long": 2022, "integer": 7, "string": "01", "boolean": True}
    lines = ",".join(asked), ",".join(map(str, asked.values()))
    with server(models("echo", inputs="simple"), tmp_path) as (process, client):
        wait_for(lambda: ready(client))
        for content, kind in (
            (json.dumps({"dataframe_records": [asked]}), "application/json"), ("\n".join(lines), "text/csv"),
        ):  # fmt: skip
            reply = client.post("/invocations", content=content, headers={"content-type": kind})
            assert reply.status_code == 200, reply.text
        process.send_signal(signal.SIGTERM)
        process.wait(20)

    def captured(window: Window):
        return reader.read(tmp_path / "scratch" / "predictions", "e", "v1", window)

    now = datetime.now(UTC)
    found = Predictions(None, captured, "v1", Window(start=now - timedelta(hours=1), end=now + timedelta(hours=1)))
    assert found.unreadable_requests == 0
    assert {name: found.column(name).to_pylist() for name in asked} == {name: [asked[name]] * 2 for name in asked}


def test_a_full_disk_costs_rows_and_no_request(models, tmp_path):
    with server(models("pyfunc", does="double"), tmp_path, limit_file=4096) as (_, client):
        wait_for(lambda: ready(client))
        for _ in range(300):
            assert ask(client).status_code == 200

        def dropped() -> float:
            lines = client.get("/metrics").text.splitlines()
            return next(
                float(line.split()[1]) for line in lines if line.startswith("headgate_prediction_log_dropped_total")
            )

        assert wait_for(dropped) > 0
        assert ask(client).status_code == 200


def row(number: int = 0, size: int = 10) -> Row:
    return Row(str(number), int(time.time() * 1e6), 200, 0.1, False, "application/json", b"x" * size, b"y")


def test_a_file_that_was_cut_off_is_read_to_its_last_whole_batch(tmp_path):
    log = PredictionLog(tmp_path, lambda _: None)
    log.add(row(1))
    wait_for(lambda: read(tmp_path))
    log.add(row(2))
    wait_for(lambda: len(read(tmp_path)) == 2)
    file = next(tmp_path.glob("*.arrows"))
    content = file.read_bytes()
    file.write_bytes(content[:-20])
    assert [item["request_id"] for item in read(tmp_path)] == ["1"]
    log.close()


def test_memory_is_bounded(tmp_path, monkeypatch):
    dropped = []
    monkeypatch.setattr("headgate_server.prediction_log.FLUSH_SECONDS", 60)
    monkeypatch.setattr("headgate_server.prediction_log.MAX_PENDING_BYTES", 10_000)
    log = PredictionLog(tmp_path, dropped.append)
    for number in range(100):
        log.add(row(number, 1000))
    log.close()
    assert len(read(tmp_path)) + sum(dropped) == 100
    assert sum(dropped) > 80


def test_large_rows_drop_no_others(tmp_path, monkeypatch):
    dropped = []
    monkeypatch.setattr("headgate_server.prediction_log.FLUSH_SECONDS", 60)
    log = PredictionLog(tmp_path, dropped.append)
    for number in range(6):
        log.add(row(number, 2**24))
    assert sum(dropped) == 3, "three fill the 48 MiB of large rows"
    for number in range(100):
        log.add(row(100 + number, 100))
    log.close()
    assert sum(dropped) == 3
    assert len(read(tmp_path)) == 103


def test_files_rotate_and_the_oldest_go(tmp_path, monkeypatch):
    monkeypatch.setattr("headgate_server.prediction_log.ROTATE_BYTES", 20_000)
    monkeypatch.setattr("headgate_server.prediction_log.FLUSH_SECONDS", 0.01)
    log = PredictionLog(tmp_path, lambda count: pytest.fail(f"{count} rows dropped"), keep=60_000)
    for number in range(20):
        log.add(row(number, 15_000))
        wait_for(lambda number=number: any(item["request_id"] == str(number) for item in read(tmp_path)))
    log.close()
    assert sum(file.stat().st_size for file in tmp_path.glob("*.arrows")) < 100_000
    kept = {int(item["request_id"]) for item in read(tmp_path)}
    assert 19 in kept
    assert 0 not in kept


def test_a_log_that_another_worker_still_writes_is_not_removed_with_the_oldest(tmp_path, monkeypatch):
    monkeypatch.setattr("headgate_server.prediction_log.ROTATE_BYTES", 20_000)
    monkeypatch.setattr("headgate_server.prediction_log.FLUSH_SECONDS", 0.01)
    monkeypatch.setattr("headgate_server.prediction_log.time.time_ns", iter(range(1_000, 2_000)).__next__)
    # Older than every file of this process: one that a live process writes, the one before, and one of a dead process.
    parent, (dead, _) = os.getppid(), os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)
    idle, ended, left = (tmp_path / f"{name}.arrows" for name in (f"0200-{parent}", f"0100-{parent}", f"0300-{dead}"))
    for path in (idle, ended, left):
        path.write_bytes(b"x" * 30_000)
    log = PredictionLog(tmp_path, lambda count: pytest.fail(f"{count} rows dropped"), keep=60_000)
    for number in range(6):
        log.add(row(number, 15_000))
        wait_for(lambda number=number: any(item["request_id"] == str(number) for item in read(tmp_path)))
    log.close()
    assert idle.exists()
    assert not ended.exists()
    assert not left.exists()


def test_a_sample_is_the_same_requests_whoever_takes_it(tmp_path):
    kept = []
    for name in ("champion", "challenger"):
        log = PredictionLog(tmp_path / name, lambda _: None, sample=0.25)
        for number in range(2000):
            log.add(row(number))
        log.close()
        kept.append({item["request_id"] for item in read(tmp_path / name)})
    assert kept[0] == kept[1]
    assert 400 < len(kept[0]) < 600


@pytest.mark.parametrize(("body", "kept"), [
    ({"dataframe_records": [{"x": 1, "ssn": "secret"}]}, {"dataframe_records": [{"x": 1, "ssn": None}]}),
    ({"dataframe_split": {"columns": ["ssn", "x"], "data": [["secret", 1], "odd"]}},
     {"dataframe_split": {"columns": ["ssn", "x"], "data": [[None, 1], None]}}),
    ({"dataframe_split": {"columns": [["odd"], "ssn"], "data": [[1, "secret"], [1, 2, "secret"]]}},
     {"dataframe_split": {"columns": [["odd"], "ssn"], "data": [[1, None], None]}}),
    ({"dataframe_split": {"data": [["secret", 1]]}}, {"dataframe_split": {"data": [None]}}),
    ({"inputs": [["secret", 1]]}, {"inputs": [None]}),
    ({"instances": ["secret"]}, {"instances": [None]}),
    ({"inputs": {"ssn": ["secret"], "x": [1]}}, {"inputs": {"ssn": None, "x": [1]}}),
    ({"instances": [{"person": {"ssn": {"number": "secret"}}}]}, {"instances": [{"person": {"ssn": None}}]}),
    ({"predictions": [1.5]}, {"predictions": [1.5]}),
    ({"inputs": {"ssn": ["secret"], "x": [float("inf")]}}, {"inputs": {"ssn": None, "x": [float("inf")]}}),
])  # fmt: skip
def test_named_fields_are_redacted_wherever_they_stand(body, kept):
    assert json.loads(redact(json.dumps(body).encode(), {"ssn"})) == kept


@pytest.mark.parametrize("body", [
    b"ssn,x\nsecret,1\n", b'["secret"]', b'"secret"', b"\xff", b"", b'{"a":' * 300 + b"1" + b"}" * 300,
    b'{"a":' * 5000 + b"1" + b"}" * 5000,
])  # fmt: skip
def test_what_cannot_be_read_is_left_out_whole(body):
    assert redact(body, {"ssn"}) == b""


@pytest.mark.parametrize(("body", "kept"), [
    (b"ssn,x\nsecret,1\n", b"ssn,x\n,1\n"), (b'x,ssn\r\n"1,5","a ""secret"""\r\n2\r\n', b'x,ssn\n"1,5",\n2\n'),
    (b'"ssn",x\n"secret\nsecret",1', b"ssn,x\n,1\n"), (b"ssn,x\n0,secret,1\n", b""), (b'ssn,x\n"secret,1\n', b""),
    (b"ssn\xff", b""), (b"", b""),
])  # fmt: skip
def test_named_columns_of_a_csv_are_redacted(body, kept):
    assert redact(body, {"ssn"}, "text/csv; charset=utf-8") == kept


@pytest.mark.parametrize(("kind", "types"), [
    ("simple", {"double": "float64", "float": "float32", "long": "int64", "integer": "int32", "string": "object",
                "boolean": "bool"}),
    ("none", None), ("tensor", None), ("unnamed", None),
])  # fmt: skip
def test_the_log_says_by_which_types_a_csv_is_read(models, tmp_path, kind, types):
    log = PredictionLog(tmp_path, lambda _: None)
    log.types = ServedModel(models("echo", inputs=kind)).csv_types
    log.add(row(1))
    log.close()
    now = datetime.now(UTC)
    window = Window(start=now - timedelta(hours=1), end=now + timedelta(hours=1))
    (batch,) = reader.read(tmp_path, "e", "v1", window)
    assert json.loads((batch.schema.metadata or {}).get(b"types", b"null")) == types


def test_an_error_that_quotes_a_value_is_not_kept(tmp_path):
    log = PredictionLog(tmp_path, lambda _: None, hidden=["ssn"])
    log.add(row(1)._replace(status=400, response=b'{"error": "what is 123-45-6789"}'))
    log.close()
    assert [item["response"] for item in read(tmp_path)] == [b""]


def test_no_redacted_value_is_ever_on_disk(models, tmp_path):
    hidden = {"HEADGATE_LOG_HIDDEN": '["ssn"]'}
    with server(models("pyfunc", does="double"), tmp_path, **hidden) as (_, client):
        wait_for(lambda: ready(client))
        body = json.dumps({"dataframe_records": [{"x": 1.0, "ssn": "123-45-6789"}]})
        assert client.post("/invocations", content=body, headers={"x-request-id": "mine"}).status_code == 200
        assert client.post("/invocations", content="x,ssn\n1.0,123-45-6789\n",
                           headers={"content-type": "text/csv"}).status_code == 200  # fmt: skip
        folder = tmp_path / "scratch" / "predictions"
        rows = wait_for(lambda: found if len(found := read(folder)) == 2 else None)
    assert [json.loads(item["request"]) for item in rows if item["request_id"] == "mine"] == [
        {"dataframe_records": [{"x": 1.0, "ssn": None}]}
    ]
    written = b"".join(file.read_bytes() for file in (tmp_path / "scratch").rglob("*") if file.is_file())
    assert b"123-45-6789" not in written


@pytest.mark.parametrize(("parts", "status"), [([10], 503), ([6, 4], 503), ([11], 413), ([6, 5], 413), ([20, 1], 413)])
def test_a_body_that_is_too_large_is_refused(monkeypatch, parts, status):
    """Any other comes as far as the model, which is not loaded here."""
    monkeypatch.setattr("headgate_server.bodies.MAX_BODY", 10)
    messages = [
        {"type": "http.request", "body": b"x" * size, "more_body": number < len(parts)}
        for number, size in enumerate(parts, start=1)
    ]
    sent = []

    async def receive():
        return messages.pop(0)

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "path": "/invocations", "method": "POST", "headers": []}
    asyncio.run(App(Settings.from_env())(scope, receive, send))
    assert sent[0]["status"] == status


@pytest.mark.parametrize(("sent", "kept"), [
    (b"mine", True), (b"POST/invocations", True), (b"a" * 128, True), (b"req_1" * 3, True), (b"a" * 129, False),
    (b"a b", False), (b"<svg>", False), (b"\xff", False), (b"a\tb", False), (b"", False),
])  # fmt: skip
@pytest.mark.parametrize("header", ["x-request-id", "x-amzn-sagemaker-custom-attributes"])
def test_a_clients_id_is_bounded_and_what_is_not_taken_has_one_of_ours(header, sent, kept):
    value = sent if header == "x-request-id" else b"x-request-id=" + sent
    scope = {"headers": [(header.encode(), value)]}
    (_, first, _), (_, second, _) = _read_headers(scope), _read_headers(scope)
    assert (first == sent.decode("latin-1")) == (kept and sent != b"")
    assert kept or uuid.UUID(first)
    assert first == second or not sent, "a copy of a request is told by its id"


def test_the_health_check_of_a_container_imports_no_data_library():
    """It runs every ten seconds, each time in a new process."""
    libraries = {"mlflow", "numpy", "pandas", "pyarrow"}
    code = f"import sys, headgate_server.health; print(sorted({libraries} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("usual_seconds", [0.0, 1.0])
def test_mlflow_never_parses_in_the_event_loop(usual_seconds):
    """It takes seconds for some small bodies; the quick way alone may run there."""
    ran_in = {}

    class Model:
        def quick_answer(self, _body, _content_type):
            return None

        def answer(self, _body, _content_type):
            ran_in["model"] = threading.current_thread()
            return Answer(200, b"{}")

        mlflow_answer = answer

    async def receive():
        return {"type": "http.request", "body": b"a,b", "more_body": False}

    async def send(message):
        sent.append(message)

    async def asked() -> None:
        ran_in["loop"] = threading.current_thread()
        await app({"type": "http", "path": "/invocations", "method": "POST", "headers": []}, receive, send)

    app, sent = App(Settings.from_env()), []
    app._model, app._usual_seconds = Model(), usual_seconds
    asyncio.run(asked())
    assert sent[0]["status"] == 200
    assert ran_in["model"] is not ran_in["loop"]
