"""How Prometheus comes to the metrics of servers at ports, and of those on Unix sockets, which it cannot ask."""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingUnixStreamServer

import httpx
import pytest

from deploy_targets.envoy import Gateway
from deploy_targets.envoy_admin import EnvoyAdmin
from deploy_targets.server_address import ServerAddress
from headgate.home import Home
from headgate.records import ModelVersion
from headgate.stack import Ports
from tasks.receiver import make_app

TEXT, KIND = b"headgate_requests_total 5.0\n", "text/plain; version=1.0.0; charset=utf-8"
VERSION = ModelVersion(name="wine", version=1, digest="sha256:" + "1" * 64)


@pytest.fixture
def home(tmp_path_factory, monkeypatch):
    """One that knows a server on a socket, and one at a port."""
    home = Home(tmp_path_factory.mktemp("h")).ensure()
    gateway = Gateway(home.gateway, Ports.choose(home))
    gateway.prepare()
    monkeypatch.setattr(EnvoyAdmin, "health", lambda _: {"wine--v1-a": True, "wine--v0-b": True})
    gateway.add("wine", "v1-a", ServerAddress(socket=str(home.sockets / "a")), VERSION)
    gateway.add("wine", "v0-b", ServerAddress(port=24001), VERSION)
    return home


@contextmanager
def serving(home, status=200):
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(f"{self.command} {self.path}")
            self.send_response(status)
            self.send_header("content-type", KIND)
            self.end_headers()
            self.wfile.write(TEXT)

        def log_message(self, *_: object) -> None:
            """Keep the test's output quiet."""

    with ThreadingUnixStreamServer(str(home.sockets / "a"), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield asked
        server.shutdown()
        thread.join()


def ask(home, path, method="GET"):
    app = make_app(home, secret="s", token="t", prefect_api="http://127.0.0.1:9")  # noqa: S106

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://prometheus-sees:8000") as client,
        ):
            return await client.request(method, path)

    return asyncio.run(send())


def test_prometheus_is_told_what_it_can_ask(home):
    told = {
        (one["labels"]["job"], one["labels"].get("revision")): (*one["targets"], one["labels"].get("__metrics_path__"))
        for one in ask(home, "/targets").json()
    }
    ports = Ports.remembered(home)
    assert told == {
        ("headgate", None): ("prometheus-sees:8000", None),
        ("headgate-gateway", None): (f"127.0.0.1:{ports.gateway_metrics}", "/stats/prometheus"),
        ("headgate-server", "v1-a"): ("prometheus-sees:8000", "/servers/wine/v1-a/metrics"),
        ("headgate-server", "v0-b"): ("127.0.0.1:24001", None),
    }


def test_the_receiver_reads_what_is_behind_a_socket(home):
    with serving(home) as asked:
        reply = ask(home, "/servers/wine/v1-a/metrics")
    assert (reply.status_code, reply.content, reply.headers["content-type"]) == (200, TEXT, KIND)
    assert asked == ["GET /metrics"]


def test_a_server_that_does_not_answer_is_down_for_prometheus(home):
    assert ask(home, "/servers/wine/v1-a/metrics").status_code == 503
    with serving(home, status=500):
        assert ask(home, "/servers/wine/v1-a/metrics").status_code == 503


@pytest.mark.parametrize(("path", "method", "status"), [
    ("/servers/wine/v9-z/metrics", "GET", 404),
    ("/servers/beer/v1-a/metrics", "GET", 404),
    ("/servers/wine/v1-a/invocations", "POST", 404),
    ("/servers/wine/v1-a/metrics", "POST", 405),
    ("/servers/wine%2F..%2Fwine/v1-a/metrics", "GET", 404),
])  # fmt: skip
def test_nothing_else_of_a_server_is_reached_by_the_receiver(home, path, method, status):
    with serving(home) as asked:
        assert ask(home, path, method).status_code == status
    assert asked == []
