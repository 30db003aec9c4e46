"""What the gateway of this machine says to clients that no endpoint answers, and to those that speak HTTP/1.0."""

from __future__ import annotations

import json
import socket
import stat
from contextlib import ExitStack

import httpx
import psutil
import pytest
from support.small_server import answering
from support.stack import http, wait_for

from deploy_targets.envoy import Gateway
from deploy_targets.kubernetes.steering.not_found import not_found_route
from deploy_targets.server_address import ServerAddress
from headgate.home import Home
from headgate.records import Mirror, ModelVersion, Traffic
from headgate.stack import Ports, Supervisor
from headgate_server.app import _read_headers

VERSION = ModelVersion(name="wine", version=1, digest="sha256:" + "1" * 64)


@pytest.fixture
def served(gateway_home):
    """The gateway, with one endpoint."""
    home = Home(gateway_home)
    ports = Ports.remembered(home)
    gateway = Gateway(home.gateway, ports)
    with answering(lambda _: (200, b'{"predictions": [1]}')) as url:
        gateway.add("wine", "v1-a", ServerAddress.of(url), VERSION)
        gateway.set_traffic("wine", Traffic.all_to("v1-a"))
        yield ports.gateway_url
        gateway.set_traffic("wine", None)
        gateway.remove("wine", "v1-a")


@pytest.mark.parametrize("path", ["/", "/wine", "/wine/", "/wine/ping", "/whine/invocations"])
def test_a_wrong_path_is_told_the_endpoints(served, path):
    answer = http.post(f"{served}{path}", json={})
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/json")
    said = answer.json()
    # Other tests of this process may have left theirs.
    assert "/wine/invocations" in said["endpoints"]
    assert "headgate status" in said["message"]


def test_an_older_client_is_answered(served):
    """As nginx asks its upstreams by default, and ab."""
    host, _, port = served.removeprefix("http://").partition(":")
    body = b'{"inputs": [1]}'
    with socket.create_connection((host, int(port)), timeout=10) as client:
        head = (
            f"POST /wine/invocations HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        client.sendall(head.encode() + body)
        answer = b"".join(iter(lambda: client.recv(4096), b""))
    assert answer.split(b"\r\n")[0].endswith(b"200 OK")
    assert answer.endswith(b'{"predictions": [1]}')


@pytest.mark.parametrize("host", ["wine-shadow", "wine.headgate-shadow:80", "wine-shadow."])
def test_a_client_cannot_mark_its_request_as_a_copy(gateway_home, host):
    home = Home(gateway_home)
    ports, hosts = Ports.remembered(home), {"v1-a": [], "v2-b": []}
    gateway = Gateway(home.gateway, ports)
    with ExitStack() as servers:
        for name, seen in hosts.items():
            url = servers.enter_context(answering(lambda path: (200, b"" if path == "/ping" else b"{}"), hosts=seen))
            gateway.add("wine-shadow", name, ServerAddress.of(url), VERSION)
        gateway.set_traffic("wine-shadow", Traffic.all_to("v1-a", Mirror(revision="v2-b", share=10_000)))
        for seen in hosts.values():
            seen.clear()
        asked = f"{ports.gateway_url}/wine-shadow/invocations"
        assert http.post(asked, json={}, headers={"host": host}).status_code == 200
        # Questions for health name the cluster as their host.
        live, copies = (list(wait_for(lambda seen=seen: [one for one in seen if "--" not in one]))
                        for seen in hosts.values())  # fmt: skip
        gateway.set_traffic("wine-shadow", None)
        for name in hosts:
            gateway.remove("wine-shadow", name)
    scopes = [{"headers": [(b"host", one.encode())]} for one in (*live, *copies)]
    assert [_read_headers(scope)[2] for scope in scopes] == [False, True], (live, copies)


def test_nobody_else_reaches_what_can_end_the_gateway(gateway_home):
    """`POST /quitquitquit` took every endpoint down, from any user of the machine and from a web page."""
    home = Home(gateway_home)
    ports, admin = Ports.remembered(home), home.gateway / "admin.sock"
    assert stat.S_IMODE(admin.stat().st_mode) == 0o600
    gateway = next(found for found in Supervisor(home).states().values() if found.name == "gateway")
    listens = {one.laddr.port for one in psutil.Process(gateway.pid).net_connections("tcp") if one.status == "LISTEN"}
    assert listens == {ports.gateway, ports.gateway_metrics}

    assert "envoy_server_live{} 1" in http.get(ports.metrics_url).text
    everything = ("/", "/ready", "/stats", "/config_dump", "/quitquitquit", "/stats/prometheus/../../quitquitquit")
    asked = [("POST", "/stats/prometheus"), *((how, path) for path in everything for how in ("GET", "POST"))]
    base = ports.metrics_url.removesuffix("/stats/prometheus")
    assert {http.request(how, base + path).status_code for how, path in asked} == {404}

    with httpx.Client(transport=httpx.HTTPTransport(uds=str(admin)), base_url="http://gateway") as client:
        for changes in ("/quitquitquit", "/reset_counters", "/drain_listeners?graceful", "/healthcheck/fail"):
            assert client.post(changes).status_code == 403
        assert client.get("/clusters", params={"format": "json"}).status_code == 200
    assert Supervisor(home).states()["gateway"].pid == gateway.pid


def test_however_many_endpoints_there_are_the_answer_is_one_that_envoy_gives():
    body = not_found_route(f"endpoint-{number:04}" for number in range(1000))["direct_response"]["body"][
        "inline_string"
    ]
    said = json.loads(body)
    assert len(body) <= 4096
    assert said["more"] + len(said["endpoints"]) == 1000
    assert len(said["endpoints"]) > 50
