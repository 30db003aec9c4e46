"""What the gateway refuses: by endpoint, hot, without blame for a version; and for all clients together."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from typing import TYPE_CHECKING

import httpx
import pytest
from support.small_server import answering
from support.stack import http, start_gateway, wait_for

from deploy_targets import envoy
from deploy_targets.envoy import Gateway
from deploy_targets.kubernetes.gateway import become_envoy
from deploy_targets.server_address import ServerAddress
from headgate.counts import LATENCY
from headgate.gateway_limits import EndpointLimits
from headgate.home import Home
from headgate.limits import (
    GATEWAY_CONNECTIONS,
    GATEWAY_HEADERS,
    GATEWAY_MEMORY,
    GATEWAY_UPLOAD,
    MOST_OF_AN_ADDRESS,
    number_of,
)
from headgate.records import Mirror, ModelVersion, Traffic
from headgate.stack import Ports, Supervisor

if TYPE_CHECKING:
    from collections.abc import Iterator

NUMBERS = count()
VERSION = ModelVersion(name="wine", version=1, digest="sha256:" + "1" * 64)
LIMITS = EndpointLimits(body=100_000, requests=4, pending=2, request=60.0)
CONNECTIONS = 60
START = b"POST /wine/invocations HTTP/1.1\r\nHost: here\r\n"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A gateway that waits for no client for long, and takes few of them."""
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in ((GATEWAY_HEADERS, "1"), (GATEWAY_UPLOAD, "2"), (GATEWAY_CONNECTIONS, CONNECTIONS)):
            patch.setenv(variable, str(value))
        # Each of Envoy's threads may have a connection of its own to a server that has as many requests as it may have.
        with start_gateway(tmp_path_factory.mktemp("limits"), threads=1) as started:
            yield started


class World:
    """The gateway with two versions of one endpoint, whose servers a test can hold up."""

    def __init__(self, home: Home, hosts: ExitStack) -> None:
        ports = Ports.remembered(home)
        self.home, self.gateway, self.ports = home, Gateway(home.gateway, ports), ports
        # A cluster that is removed keeps its counters for a moment, and the next one of its name would begin with them.
        self.endpoint = f"wine-{next(NUMBERS)}"
        self.url, self.metrics_url = f"{ports.gateway_url}/{self.endpoint}/invocations", ports.metrics_url
        self.received = {"v1": [], "v2": []}
        self.goes_on, self.status = threading.Event(), 200
        self.goes_on.set()
        for name, received in self.received.items():
            address = hosts.enter_context(answering(self._reply, received))
            self._address[name] = ServerAddress.of(address)
            self.add(name, LIMITS)
        self.gateway.set_traffic(self.endpoint, Traffic.all_to("v1"))
        self.before = self.counts()

    _address: dict[str, ServerAddress] = {}  # noqa: RUF012 - filled once

    def _reply(self, path: str) -> tuple[int, bytes]:
        if path == "/ping":
            return 200, b""
        self.goes_on.wait(60)
        return self.status, b"{}"

    def at(self, head: bytes) -> bytes:
        """The head of a request to this endpoint."""
        return head.replace(b"/wine/", f"/{self.endpoint}/".encode())

    def add(self, name: str, limits: EndpointLimits) -> None:
        self.gateway.add(self.endpoint, name, self._address[name], VERSION, limits)

    def counts(self) -> dict[str, tuple[int, int]]:
        return {name: (one.requests, one.failures) for name, one in self.gateway.counts(self.endpoint).items()}

    def since(self) -> dict[str, tuple[int, int]]:
        """Requests and failures of each version since the test began."""
        return {name: tuple(now - then for now, then in zip(told, self.before[name], strict=True))
                for name, told in self.counts().items()}  # fmt: skip

    def bodies(self, name: str) -> list[int]:
        """Sizes of what a version's server got, without questions for its health."""
        return [len(body) for body in self.received[name] if body]

    def refused(self) -> dict[tuple[str, str], int]:
        """What the gateway refused, by endpoint and status, as Prometheus reads it."""
        found: dict[tuple[str, str], int] = {}
        for line in http.get(self.metrics_url).text.splitlines():
            if line.startswith("envoy_headgate_refused{"):
                labels = dict(re.findall(r'(\w+)="([^"]*)"', line))
                key = (labels["endpoint"], labels["status"])
                found[key] = found.get(key, 0) + int(line.rpartition(" ")[2])
        return found

    def in_line(self) -> tuple[int, int]:
        """Requests that v1's server has, and those that wait for it."""
        gauges = dict(re.findall(
            rf'envoy_cluster_upstream_rq_(active|pending_active)\{{envoy_cluster_name="{self.endpoint}--v1"\}} (\d+)',
            http.get(self.metrics_url).text,
        ))  # fmt: skip
        return int(gauges["active"]), int(gauges["pending_active"])

    def refused_since(self, before: dict[tuple[str, str], int]) -> dict[tuple[str, str], int]:
        return {key: n - before.get(key, 0) for key, n in self.refused().items() if n > before.get(key, 0)}

    def connect(self, source: str = "") -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.ports.gateway), timeout=20, source_address=(source, 0))

    def connections_refused(self) -> int:
        """Connections above the limit, as Prometheus reads it."""
        told = http.get(self.metrics_url).text
        return sum(map(int, re.findall(r"envoy_listener_downstream_global_cx_overflow\{.*\} (\d+)", told)))

    def pid(self) -> int:
        return Supervisor(self.home).states()["gateway"].pid


@pytest.fixture
def world(home):
    with ExitStack() as hosts:
        made = World(home, hosts)
        yield made
        made.goes_on.set()
        made.gateway.set_traffic(made.endpoint, None)
        for name in ("v1", "v2"):
            made.gateway.remove(made.endpoint, name)


def in_pieces(size: int):
    """A body whose size is not told beforehand."""
    for _ in range(size // 1000):
        yield b"x" * 1000


def answer_to(client: socket.socket) -> bytes:
    """All that the gateway says until it closes the connection."""
    said = b""
    with suppress(ConnectionResetError):
        while piece := client.recv(4096):
            said += piece
    return said


@pytest.mark.parametrize("size_is_told", [True, False])
def test_a_body_above_the_limit_is_refused_and_others_are_served(world, size_is_told):
    before = world.refused()

    def body(size):
        return b"x" * size if size_is_told else in_pieces(size)

    for size in (LIMITS.body + 1000, 20_000_000):
        refused = httpx.post(world.url, content=body(size))
        assert refused.status_code == 413
        assert refused.json()["error_code"] == "REQUEST_TOO_LARGE"
        assert f"{world.endpoint} has at most 100000 bytes (gateway.limits.body)" in refused.json()["message"]
        assert httpx.post(world.url, content=body(LIMITS.body)).status_code == 200
    assert world.bodies("v1") == [LIMITS.body] * 2
    wait_for(lambda: world.since()["v1"] == (2, 0))
    wait_for(lambda: world.refused_since(before) == {(world.endpoint, "413"): 2})


def test_a_size_that_is_no_number_and_one_that_is_a_lie_bring_no_larger_body(world):
    for length in (b"1e3", b"-1", b"99999999999999999999999"):
        with world.connect() as client:
            client.sendall(world.at(START) + b"content-length: " + length + b"\r\n\r\nxx")
            assert answer_to(client).split(b" ")[1] in (b"400", b"413")
    from h2.config import H2Configuration
    from h2.connection import H2Connection
    from h2.events import StreamEnded, StreamReset

    fields = [
        (":method", "POST"), (":path", f"/{world.endpoint}/invocations"), (":authority", "here"), (":scheme", "http"),
    ]  # fmt: skip
    with world.connect() as client:
        speaks = H2Connection(H2Configuration(client_side=True))
        speaks.initiate_connection()
        speaks.send_headers(1, [*fields, ("content-length", "10")])
        speaks.send_data(1, b"x" * 16_000)
        client.sendall(speaks.data_to_send())
        seen = []
        while not any(isinstance(one, (StreamReset, StreamEnded)) for one in seen):
            seen += speaks.receive_data(client.recv(65536))
    assert any(isinstance(one, StreamReset) for one in seen)
    assert max(world.bodies("v1"), default=0) <= 10


def test_a_body_is_copied_whether_its_size_was_told_or_not(world):
    world.gateway.set_traffic(world.endpoint, Traffic.all_to("v1", Mirror(revision="v2", share=10_000)))
    assert httpx.post(world.url, content=b"x" * LIMITS.body).status_code == 200
    assert httpx.post(world.url, content=in_pieces(LIMITS.body)).status_code == 200
    assert httpx.post(world.url, content=b"x" * (LIMITS.body + 1)).status_code == 413
    wait_for(lambda: world.bodies("v2") == world.bodies("v1") == [LIMITS.body] * 2)


@pytest.mark.parametrize("half", [
    START, START + b"content-length: 50000\r\n\r\nxxx", START + b"transfer-encoding: chunked\r\n\r\n3\r\nxxx\r\n",
], ids=["header", "body", "body of no told size"])  # fmt: skip
def test_half_a_request_is_ended_and_is_nobodys_failure(world, half):
    before = world.refused()
    with world.connect() as client:
        client.sendall(world.at(half))
        said = answer_to(client)
    assert said.startswith(b"HTTP/1.1 408 ")
    assert b'"REQUEST_TIMEOUT"' in said
    assert http.post(world.url, content=b"1").status_code == 200
    wait_for(lambda: world.since()["v1"] == (1, 0))
    wait_for(lambda: sum(world.refused_since(before).values()) == 1)
    assert {status for _, status in world.refused_since(before)} == {"408"}


@pytest.mark.parametrize("said", [b"", b"POST /wi"])
def test_a_connection_that_says_nothing_is_closed(world, said):
    with world.connect() as client:
        # Less than Envoy's own default.
        client.settimeout(10)
        client.sendall(said)
        assert answer_to(client) == b""


def test_headers_have_a_limit(world):
    before = world.refused()
    assert http.post(world.url, content=b"1", headers={"x-large": "x" * 33_000}).status_code == 431
    assert http.post(world.url, content=b"1", headers={"x-large": "x" * 30_000}).status_code == 200
    wait_for(lambda: world.refused_since(before) == {("", "431"): 1})


def test_half_open_connections_leave_clients_that_are_there_unharmed(world):
    with httpx.Client() as there, ExitStack() as held:
        there.post(world.url, content=b"1")
        for _ in range(CONNECTIONS + 20):
            held.enter_context(client := world.connect())
            client.sendall(world.at(START))
        # Full: a new client gets no answer; those that were there, and those that look after the gateway, do.
        with pytest.raises(httpx.TransportError):
            httpx.post(world.url, content=b"1")
        for _ in range(5):
            assert there.post(world.url, content=b"1").status_code == 200
            assert "downstream_global_cx_overflow" in http.get(world.metrics_url).text
        assert world.gateway.is_up()
        # The others were late with their headers, and there is room again.
        wait_for(lambda: _answers(world.url))
    assert world.since()["v1"][1] == 0


def test_one_address_leaves_room_for_clients_of_others(tmp_path, monkeypatch):
    """All connections that TCP gives one address, and the default limit, both divided by 200."""
    scale = 200
    monkeypatch.delenv(GATEWAY_CONNECTIONS, raising=False)
    limit = number_of(GATEWAY_CONNECTIONS) // scale
    monkeypatch.setenv(GATEWAY_CONNECTIONS, str(limit))
    monkeypatch.setenv(GATEWAY_HEADERS, "60")
    with start_gateway(tmp_path / "home") as home, ExitStack() as held, httpx.Client() as there:
        world = World(home, held)
        there.post(world.url, content=b"1")
        whole = world.at(START) + b"content-length: 1\r\n\r\n1"
        for number in range(MOST_OF_AN_ADDRESS // scale):
            # Silent, half a head, and idle after an answer.
            client, said = held.enter_context(world.connect("127.0.0.2")), (b"", world.at(START), whole)[number % 3]
            client.sendall(said)
            if said == whole:
                assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
        for _ in range(10):
            with httpx.Client(transport=httpx.HTTPTransport(local_address="127.0.0.3")) as new:
                assert new.post(world.url, content=b"1").status_code == 200
            assert there.post(world.url, content=b"1").status_code == 200
        assert world.connections_refused() == 0
        for _ in range(limit // 3):
            held.enter_context(world.connect("127.0.0.4"))
        wait_for(lambda: world.connections_refused() > 0)
        assert there.post(world.url, content=b"1").status_code == 200
        assert world.since()["v1"][1] == 0


@contextmanager
def gateway_of_a_pod(root, files: int) -> Iterator[tuple[Home, subprocess.Popen[bytes]]]:
    """Envoy as a pod of the gateway starts it, with so many files; its files are those of the local gateway."""
    home = Home(root).ensure()
    gateway = Gateway(home.gateway, Ports.choose(home))
    gateway.prepare()
    command = [sys.executable, "-c", become_envoy(), str(home.gateway / "envoy.json")]
    with (root / "log").open("wb") as log, subprocess.Popen(
        ["sh", "-c", f'ulimit -n {files} && exec "$@"', "sh", *command, "--concurrency", "2", "--disable-hot-restart"],
        stdout=log, stderr=log,
    ) as process:  # fmt: skip
        try:
            wait_for(gateway.is_up, 20)
            yield home, process
        finally:
            process.terminate()


def test_a_pod_that_may_open_few_files_takes_as_few_connections_and_stays(tmp_path, monkeypatch):
    """Envoy crashes when it has no file left; what its pod may open is not known where its file is written."""
    monkeypatch.delenv(GATEWAY_CONNECTIONS, raising=False)
    monkeypatch.setattr(envoy, "files_of_a_process", lambda: None)
    with gateway_of_a_pod(tmp_path / "home", 300) as (home, process), ExitStack() as held, httpx.Client() as there:
        world = World(home, held)
        there.post(world.url, content=b"1")
        for _ in range(400):
            held.enter_context(world.connect("127.0.0.2"))
        wait_for(lambda: world.connections_refused() > 250)
        assert there.post(world.url, content=b"1").status_code == 200
        assert process.poll() is None
        told = f"at most 100 connections in place of {number_of(GATEWAY_CONNECTIONS)}"
        assert told in (tmp_path / "home" / "log").read_text()


def test_bodies_that_fill_the_memory_are_ended_and_others_are_served_again(tmp_path, monkeypatch):
    """They stand still for less than an upload may take; Envoy ends them all the same, once its memory is scarce."""
    monkeypatch.setenv(GATEWAY_MEMORY, "64")
    body = b"100000\r\n" + b"x" * 2**20 + b"\r\n"
    with start_gateway(tmp_path / "home") as home, ExitStack() as held:
        world = World(home, held)
        world.add("v1", EndpointLimits())
        world.gateway.set_traffic(world.endpoint, Traffic.all_to("v1"))
        for _ in range(12):
            held.enter_context(client := world.connect())
            with suppress(OSError):
                client.sendall(world.at(START) + b"transfer-encoding: chunked\r\n\r\n" + body * 8)
        wait_for(lambda: world.refused().get((world.endpoint, "408"), 0) > 0)
        wait_for(lambda: _answers(world.url))
        assert "envoy_server_live" in http.get(world.metrics_url).text
        assert world.since()["v1"][1] == 0


def _answers(url: str) -> bool:
    try:
        return httpx.post(url, content=b"1").status_code == 200
    except httpx.TransportError:
        return False


@contextmanager
def held_up(world, requests: int):
    """So many requests of clients that no server answers before the block ends."""
    world.goes_on.clear()
    answers: list[int] = []

    def ask() -> None:
        answers.append(httpx.post(world.url, content=b"held", timeout=60).status_code)

    threads = [threading.Thread(target=ask) for _ in range(requests)]
    try:
        # One after another: while its connection is opened, a request is pending too, and three at once are refused.
        for begun, thread in enumerate(threads, 1):
            thread.start()
            in_line = (min(begun, LIMITS.requests), max(0, begun - LIMITS.requests))
            wait_for(lambda expected=in_line: world.in_line() == expected)
        yield answers
    finally:
        world.goes_on.set()
        for thread in threads:
            if thread.ident:
                thread.join()


def test_more_requests_than_may_wait_are_refused_and_are_nobodys_failure(world):
    before, latencies = world.refused(), sum(world.gateway.counts(world.endpoint)["v1"].buckets(LATENCY))
    with held_up(world, LIMITS.requests + LIMITS.pending) as answers:
        refused = [http.post(world.url, content=b"1") for _ in range(20)]
    assert {(one.status_code, one.headers["retry-after"]) for one in refused} == {(503, "1")}
    assert {one.json()["error_code"] for one in refused} == {"TEMPORARILY_UNAVAILABLE"}
    assert answers == [200] * 6
    wait_for(lambda: world.since()["v1"] == (6, 0))
    # Envoy merges latencies once a second; a refusal is none of them.
    wait_for(lambda: sum(world.gateway.counts(world.endpoint)["v1"].buckets(LATENCY)) - latencies == 6)
    assert world.refused_since(before) == {(world.endpoint, "503"): 20}

    world.status = 503
    assert http.post(world.url, content=b"1").status_code == 503
    wait_for(lambda: world.since()["v1"] == (7, 1))
    assert world.refused_since(before) == {(world.endpoint, "503"): 20}, "a version's own 503 is its answer"


def test_a_step_of_the_canary_refills_nothing(world):
    with held_up(world, LIMITS.requests + LIMITS.pending):
        for share in (1, 2, 3):
            world.gateway.set_traffic(world.endpoint, Traffic.split("v1", "v2", share))
            assert world.in_line() == (LIMITS.requests, LIMITS.pending)
            assert http.post(world.url, content=b"x" * (LIMITS.body + 1)).status_code == 413
            before = world.refused()
            # One in ten thousand of them is the canary's, which has room.
            for _ in range(10):
                with suppress(httpx.TimeoutException):
                    httpx.post(world.url, content=b"1", timeout=30)
            assert world.refused_since(before)[world.endpoint, "503"] >= 9, f"the step to {share} made room"


def test_limits_of_a_new_release_act_without_a_restart(world):
    before, pid = world.counts(), world.pid()
    failed, stop = [], threading.Event()

    def keep_asking() -> None:
        with httpx.Client(timeout=20) as client:
            while not stop.is_set():
                if (status := client.post(world.url, content=b"1").status_code) != 200:
                    failed.append(status)

    thread = threading.Thread(target=keep_asking)
    thread.start()
    try:
        for body in (50_000, 200_000, 10_000):
            # The same content is released again with another limit: the same revision, and no new server.
            world.add("v1", LIMITS.model_copy(update={"body": body}))
            world.gateway.set_traffic(world.endpoint, Traffic.all_to("v1"))
            assert http.post(world.url, content=b"x" * body).status_code == 200
            assert http.post(world.url, content=b"x" * (body + 1)).status_code == 413
    finally:
        stop.set()
        thread.join()
    assert failed == []
    assert world.pid() == pid
    assert world.counts()["v1"][0] > before["v1"][0]


def test_while_two_versions_answer_the_wider_limit_acts_and_a_rollback_brings_the_old_one(world):
    def takes(size: int) -> bool:
        return http.post(world.url, content=b"x" * size).status_code == 200

    world.add("v2", LIMITS.model_copy(update={"body": 300_000}))
    world.gateway.set_traffic(world.endpoint, Traffic.all_to("v1"))
    assert (takes(100_000), takes(300_000)) == (True, False)
    world.gateway.set_traffic(world.endpoint, Traffic.split("v1", "v2", 5000))
    assert (takes(300_000), takes(300_001)) == (True, False)
    world.gateway.set_traffic(world.endpoint, Traffic.all_to("v1"))
    assert (takes(100_000), takes(300_000)) == (True, False)


def test_an_answer_that_takes_too_long_is_the_versions_failure(world):
    world.add("v1", LIMITS.model_copy(update={"request": 0.4}))
    world.gateway.set_traffic(world.endpoint, Traffic.all_to("v1"))
    with held_up(world, 1) as answers:
        wait_for(lambda: answers == [504])
    wait_for(lambda: world.since()["v1"] == (1, 1))
