"""What steers Envoy in a cluster: which pods get requests, what is written, and what happens while nobody answers."""

from __future__ import annotations

import json
import threading

import httpx
import pytest
from support.stack import wait_for

from deploy_targets.kubernetes.steering.cluster import Cluster, GoneError
from deploy_targets.kubernetes.steering.files import render, write_changed
from deploy_targets.kubernetes.steering.table import Table


def config(*clusters, routes=()):
    told = [{"name": name, "eds_cluster_config": {"service_name": name}} for name in clusters]
    return {"metadata": {"name": "headgate.wine"}, "data": {"clusters": json.dumps(told), "routes": json.dumps(routes)}}


def pod(name, revision, address, phase="Running", **metadata):
    labels = {"headgate.io/endpoint": "wine", "headgate.io/revision": revision}
    status = {"phase": phase, **({"podIP": address} if address else {})}
    return {"metadata": {"name": name, "labels": labels, **metadata}, "status": status}


def addresses(files, name):
    (assignment,) = files[f"hosts/{name}"]
    hosts = assignment["endpoints"][0]["lb_endpoints"]
    return [host["endpoint"]["address"]["socket_address"]["address"] for host in hosts]


def test_requests_go_to_the_pods_of_a_revision_that_were_not_told_to_end():
    files = render([config("wine--v1", "wine--v2")], [
        pod("b", "v1", "10.0.0.2"), pod("a", "v1", "10.0.0.1"), pod("c", "v2", "10.0.0.3"),
        pod("ending", "v1", "10.0.0.4", deletionTimestamp="now"), pod("starting", "v1", ""),
        pod("ended", "v1", "10.0.0.5", phase="Failed"), pod("of nobody", "v9", "10.0.0.6"),
    ])  # fmt: skip
    assert addresses(files, "wine--v1") == ["10.0.0.1", "10.0.0.2"]
    assert addresses(files, "wine--v2") == ["10.0.0.3"]
    assert list(files) == ["hosts/wine--v1", "hosts/wine--v2", "clusters", "routes", "inside"]


def test_only_reading_is_let_through_to_the_admin_endpoint():
    (table,) = render([], [])["inside"]
    routes = table["virtual_hosts"][0]["routes"]
    assert {one["match"]["path"] for one in routes} == {
        "/ready", "/stats", "/stats/prometheus", "/clusters", "/config_dump"
    }  # fmt: skip
    assert {one["match"]["headers"][0]["string_match"]["exact"] for one in routes} == {"GET"}


def test_only_what_changes_is_written_and_what_is_gone_goes(tmp_path):
    write_changed(tmp_path, render([config("wine--v1", "wine--v2")], [pod("a", "v1", "10.0.0.1")]))
    before = {path: path.stat().st_ino for path in tmp_path.rglob("*.json")}
    write_changed(tmp_path, render([config("wine--v1", "wine--v2")], [pod("a", "v1", "10.0.0.9")]))
    changed = {path.name for path in tmp_path.rglob("*.json") if before[path] != path.stat().st_ino}
    assert changed == {"wine--v1.json"}
    write_changed(tmp_path, render([config("wine--v2")], []))
    assert {path.name for path in (tmp_path / "hosts").iterdir()} == {"wine--v2.json"}


class Server:
    """An API server that answers as it is told, one answer a request."""

    def __init__(self, folder):
        self.answers, self.asked = [], []
        (folder / "token").write_text("secret")
        client = httpx.Client(base_url="https://server", transport=httpx.MockTransport(self._answer))
        self.cluster = Cluster(client, "models", folder / "token")

    def _answer(self, request):
        assert request.headers["authorization"] == "Bearer secret"
        self.asked.append(dict(request.url.params))
        if not self.answers:
            # Nothing happens any more.
            threading.Event().wait()
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def listed(*names, version="7"):
    items = [{"metadata": {"name": name, "resourceVersion": version}} for name in names]
    return httpx.Response(200, json={"metadata": {"resourceVersion": version}, "items": items})


def events(*told):
    lines = [
        json.dumps({"type": kind, "object": {"metadata": {"name": name, "resourceVersion": version}}})
        for kind, name, version in told
    ]
    return httpx.Response(200, text="\n".join(lines))


@pytest.fixture
def server(tmp_path):
    return Server(tmp_path)


def names_of(table):
    return [one["metadata"]["name"] for one in table.items()]


def test_a_table_follows_what_happens_and_goes_on_from_there(server):
    server.answers = [
        listed("a", "b"), events(("ADDED", "c", "8"), ("DELETED", "a", "9"), ("BOOKMARK", "", "12")),
        events(("ADDED", "d", "13")),
    ]  # fmt: skip
    table = Table(server.cluster, "pods", threading.Event())
    table.read()
    table.follow()
    wait_for(lambda: names_of(table) == ["b", "c", "d"], 5)
    assert [asked.get("resourceVersion") for asked in server.asked[:3]] == [None, "7", "12"]


@pytest.mark.parametrize("problem", [
    httpx.Response(410), events(("ERROR", "", "")), httpx.Response(503), httpx.ConnectError("away"),
], ids=["gone", "gone while watched", "failing", "away"])  # fmt: skip
def test_a_table_reads_anew_where_it_cannot_go_on(server, problem):
    server.answers = [listed("a"), problem, listed("b", version="20"), events(("ADDED", "c", "21"))]
    table = Table(server.cluster, "pods", threading.Event())
    table.read()
    table.follow()
    wait_for(lambda: names_of(table) == ["b", "c"], 5)


def test_what_is_too_old_to_watch_from_is_said(server):
    server.answers = [httpx.Response(410)]
    with pytest.raises(GoneError):
        next(server.cluster.watch("pods", "1"))
