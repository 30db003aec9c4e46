"""What pods use: restarts from their status, memory from the metrics server where there is one."""

from __future__ import annotations

import pytest

from deploy_targets.kubernetes.api import Api
from deploy_targets.kubernetes.names import ENDPOINT, REVISION
from deploy_targets.kubernetes.usage import _bytes, usage_of
from headgate.records import Usage

PODS = "/api/v1/namespaces/models/pods"
METRICS = "/apis/metrics.k8s.io/v1beta1/namespaces/models/pods"


@pytest.fixture
def api(server):
    return Api("", "models")


def pod(name: str, revision: str, restarts: int, **more):
    labels = {ENDPOINT: "wine", REVISION: revision}
    statuses = [{"name": "server", "restartCount": restarts}, {"name": "sidecar", "restartCount": 9}]
    return {"metadata": {"name": name, "labels": labels, **more}, "status": {"containerStatuses": statuses}}


def measured(name: str, memory: str):
    usage = [{"name": "server", "usage": {"memory": memory}}, {"name": "sidecar", "usage": {"memory": "9Gi"}}]
    return {"metadata": {"name": name}, "containers": usage}


def test_restarts_and_memory_are_those_of_the_server_and_not_of_what_runs_beside_it(server, api):
    gone = pod("p3", "v2-b", 5, deletionTimestamp="2026-01-01T00:00:00Z")
    server.objects[PODS] = {"items": [pod("p0", "v1-a", 0), pod("p1", "v2-b", 1), pod("p2", "v2-b", 0), gone]}
    server.objects[METRICS] = {"items": [measured("p0", "190Mi"), measured("p1", "200000Ki"), measured("p2", "1Gi")]}
    used = usage_of(api, "wine")
    assert used["v1-a"] == Usage(memory=190 * 2**20, cpu=None, servers=("p0@0",))
    assert used["v2-b"] == Usage(memory=2**30, cpu=None, servers=("p1@1", "p2@0"))


@pytest.mark.parametrize("refusal", [404, 403, 503])
def test_without_a_metrics_server_restarts_are_known_and_memory_is_not(server, api, refusal):
    server.objects[PODS] = {"items": [pod("p0", "v1-a", 2)]}
    server.refusals.append((refusal, {"message": "no"}))
    assert usage_of(api, "wine")["v1-a"] == Usage(memory=None, cpu=None, servers=("p0@2",))


@pytest.mark.parametrize(("quantity", "bytes_"), [
    ("128974848", 128974848), ("129M", 129 * 10**6), ("123Mi", 123 * 2**20), ("1.5Gi", 3 * 2**29),
    ("128974848000m", 128974848),
])  # fmt: skip
def test_quantities_are_read_as_kubernetes_writes_them(quantity, bytes_):
    assert _bytes(quantity) == bytes_
