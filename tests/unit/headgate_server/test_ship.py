"""The prediction log on its way to object storage: nothing twice, nothing lost, whatever dies in between."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from pyarrow import fs
from support.stack import wait_for

from deploy_targets.kubernetes.capture import Captures
from deploy_targets.prediction_log import SERVER
from headgate.records import Window
from headgate_server import ship
from headgate_server.prediction_log import SCHEMA, PredictionLog, Row
from headgate_server.ship import Shipper


@pytest.fixture
def there(tmp_path):
    return tmp_path / "there"


@pytest.fixture
def shipper(tmp_path, there):
    folder = tmp_path / "here"
    folder.mkdir()
    return Shipper(folder, fs.LocalFileSystem(), f"{there}/wine/v1-a", "pod-0")


@pytest.mark.parametrize("pod", ["pod-0", "flow-v1-7c9d-x2b"])
def test_the_log_says_which_pod_wrote_a_row(tmp_path, there, pod):
    (tmp_path / "here").mkdir()
    shipper = Shipper(tmp_path / "here", fs.LocalFileSystem(), f"{there}/wine/v1-a", pod)
    log = Log(shipper)
    log.write("a")
    log.end()
    assert shipper.ship()
    now = datetime.now(UTC)
    window = Window(start=now - timedelta(hours=1), end=now + timedelta(hours=1))
    (batch,) = Captures(f"file://{there}").read("wine", window)
    assert batch.schema.metadata[SERVER] == pod.encode()


def again(shipper):
    """The next process."""
    return Shipper(shipper._folder, shipper._store, shipper._base, shipper._pod)


class Log:
    """A file as a server writes it, batch by batch."""

    def __init__(self, shipper, name="1-1"):
        self._sink = (shipper._folder / f"{name}.arrows").open("wb")
        self._writer = pa.ipc.new_stream(self._sink, SCHEMA)

    def write(self, *names):
        rows = [Row(name, time.time_ns() // 1000, 200, 0.1, False, "application/json", b"{}", b"{}") for name in names]
        columns = [pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), SCHEMA, strict=True)]
        self._writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=SCHEMA))
        self._sink.flush()

    def cut(self):
        """Half of a batch, as of a process that is just writing."""
        self._sink.write(b"\xff\xff\xff\xff\x30\x01\x00\x00half")
        self._sink.flush()

    def end(self):
        self._writer.close()
        self._sink.close()


def arrived(there):
    now = datetime.now(UTC)
    window = Window(start=now - timedelta(minutes=5), end=now + timedelta(minutes=5))
    return [
        name for batch in Captures(f"file://{there}").read("wine", window) for name in batch["request_id"].to_pylist()
    ]


def test_what_is_whole_arrives_once_and_in_order(shipper, there):
    log = Log(shipper)
    log.write("a", "b")
    assert shipper.ship()
    log.write("c")
    log.write("d")
    log.cut()
    assert shipper.ship()
    assert not shipper.ship()
    assert arrived(there) == ["a", "b", "c", "d"]


def test_a_file_that_its_writer_has_ended_goes_once_it_was_sent(shipper, there):
    log = Log(shipper)
    log.write("a")
    shipper.ship()
    log.write("b")
    log.end()
    shipper.ship()
    assert list(shipper._folder.glob("*.arrows")) == []
    assert arrived(there) == ["a", "b"]


def test_another_process_goes_on_where_one_was_killed(shipper, there):
    log = Log(shipper)
    log.write("a")
    shipper.ship()
    log.write("b")
    again(shipper).ship()
    assert arrived(there) == ["a", "b"]


def test_what_was_sent_and_not_noted_is_sent_in_its_place(shipper, there, monkeypatch):
    log = Log(shipper)
    log.write("a")

    def dies(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Shipper, "_note", dies)
        with pytest.raises(KeyboardInterrupt):
            shipper.ship()
    log.write("b")
    again(shipper).ship()
    assert arrived(there) == ["a", "b"]


def test_nothing_is_lost_while_the_storage_is_away(shipper, there, monkeypatch):
    log = Log(shipper)
    log.write("a")
    with monkeypatch.context() as patch:
        patch.setattr(shipper, "_base", "/proc/nowhere")
        with pytest.raises(OSError, match="proc"):
            shipper.ship()
    log.write("b")
    shipper.ship()
    assert arrived(there) == ["a", "b"]


def test_much_is_sent_in_pieces(shipper, there, monkeypatch):
    monkeypatch.setattr(ship, "MOST_BYTES", 1500)
    log = Log(shipper)
    for number in range(12):
        log.write(f"{number}")
    log.end()
    shipper.ship()
    assert arrived(there) == [f"{number}" for number in range(12)]
    assert len(list(there.rglob("*.arrows"))) > 2


def test_what_a_server_writes_is_read_back_by_the_target(shipper, there):
    log = PredictionLog(shipper._folder, lambda _: None)
    for name in "abc":
        log.add(Row(name, time.time_ns() // 1000, 200, 0.1, True, "application/json", b"{}", b"{}"))
    log.close()
    shipper.ship()
    assert arrived(there) == ["a", "b", "c"]


def test_rows_outside_of_a_window_and_revisions_that_are_gone_are_not_read(shipper, there):
    log = Log(shipper)
    log.write("a")
    log.end()
    shipper.ship()
    captures, now = Captures(f"file://{there}"), datetime.now(UTC)
    assert list(captures.read("wine", Window(start=now + timedelta(hours=1), end=now + timedelta(hours=2)))) == []
    captures.remove("wine", "v1-a")
    captures.remove("wine", "v1-a")
    assert arrived(there) == []


def test_it_ends_after_the_server_has_answered_its_last_request(tmp_path, there):
    folder = tmp_path / "scratch" / "predictions"
    folder.mkdir(parents=True)
    with ExitStack() as started:
        server = started.enter_context(socket.create_server(("127.0.0.1", 0)))
        env = {
            **os.environ, "HEADGATE_SCRATCH": str(folder.parent), "HEADGATE_CAPTURES": f"file://{there}",
            "HEADGATE_ENDPOINT": "wine", "HEADGATE_REVISION": "v1-a", "PORT": str(server.getsockname()[1]),
        }  # fmt: skip
        process = started.enter_context(subprocess.Popen([sys.executable, "-m", "headgate_server.ship"], env=env))
        started.callback(process.kill)
        log = Log(Shipper(folder, fs.LocalFileSystem(), "", ""))
        log.write("a")
        wait_for(lambda: arrived(there) == ["a"])
        process.terminate()
        log.write("while it is served")
        wait_for(lambda: len(arrived(there)) == 2)
        server.close()
        log.write("while it drains")
        wait_for(lambda: len(arrived(there)) == 3)
        assert process.poll() is None
        log.write("last")
        log.end()
        assert process.wait(60) == 0
    assert arrived(there) == ["a", "while it is served", "while it drains", "last"]
