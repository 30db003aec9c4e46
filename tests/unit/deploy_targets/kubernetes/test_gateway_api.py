"""An endpoint as an HTTPRoute: what it says, what a gateway says of it, and what servers count."""

from __future__ import annotations

import copy

import pytest
from pydantic import ValidationError

from deploy_targets.kubernetes import gateway_api
from deploy_targets.kubernetes.endpoint import Known
from deploy_targets.kubernetes.gateway_api import GatewayApi, HttpRoute, traffic_of
from deploy_targets.kubernetes.settings import Gateway, KubernetesSettings
from deploy_targets.kubernetes.target import KubernetesTarget
from headgate.counts import Counts, latencies
from headgate.errors import TargetUnavailableError
from headgate.records import Mirror, Traffic
from headgate_server import metrics

OUTSIDE = Gateway(name="public", namespace="edge", hostname="models.example")
SETTINGS = KubernetesSettings(kind="kubernetes", captures="s3://bucket/live", gateway=OUTSIDE)
SPLITS = [
    Traffic.all_to("v1-a"), Traffic.split("v1-a", "v2-b", 1),
    Traffic.all_to("v1-a", Mirror(revision="v2-b", share=10_000)),
    Traffic.all_to("v1-a", Mirror(revision="v2-b", share=1234)),
]  # fmt: skip


def route(traffic, *, accepted="True", resolved="True", seen=3, parent="public"):
    conditions = [
        {"type": kind, "status": status, "observedGeneration": seen, "message": "because"}
        for kind, status in (("Accepted", accepted), ("ResolvedRefs", resolved))
    ]
    status = {"parents": [{"parentRef": {"name": parent}, "conditions": conditions}]}
    made = HttpRoute(OUTSIDE).content("wine", Known(traffic=traffic))
    return {"metadata": {"generation": 3}, **copy.deepcopy(made), "status": status}


class Told:
    """A namespace with one route, and pods."""

    def __init__(self, found=None, pods=(), texts=None):
        self.found, self.pods, self.texts = found, list(pods), texts or {}

    def find(self, *_):
        return self.found

    def list(self, kind, chosen):
        if kind == "endpointslices":
            return self.pods
        return [one for one in self.pods if one["revision"] == chosen["headgate.io/revision"]]

    def ask(self, pod, _port, _path):
        return type("Reply", (), {"text": self.texts[pod]})


def of(told):
    return GatewayApi(told, SETTINGS, OUTSIDE)


@pytest.mark.parametrize("traffic", SPLITS)
def test_traffic_is_read_back_from_the_routes_own_fields(traffic):
    assert traffic_of("wine", route(traffic)) == traffic
    assert of(Told(route(traffic))).traffic("wine") == [traffic]


def test_a_route_of_nobody_is_attached_to_nothing():
    assert HttpRoute(OUTSIDE).content("wine", Known()) == {"spec": {}}
    assert traffic_of("wine", {"spec": {}}) is None


def test_a_cluster_that_knows_no_fractions_is_found_out():
    kept = route(SPLITS[-1])
    del kept["spec"]["rules"][0]["filters"][1]["requestMirror"]["fraction"]
    assert of(Told(kept)).traffic("wine") == [Traffic.all_to("v1-a", Mirror(revision="v2-b", share=10_000))]


@pytest.mark.parametrize(("wrong", "says"), [
    ({"accepted": "False"}, "Accepted is False: because"), ({"resolved": "False"}, "ResolvedRefs is False: because"),
    ({"seen": 2}, "has not looked at it since"), ({"parent": "another"}, "gateway public says nothing"),
])  # fmt: skip
def test_what_its_gateway_has_not_accepted_is_not_in_effect(wrong, says):
    told = of(Told(route(SPLITS[0], **wrong)))
    assert told.traffic("wine") == [None]
    assert says in told.why_not("wine")


@pytest.mark.parametrize(("ready", "reached"), [([True, True], True), ([True, False], False), (None, False)])
def test_a_revision_is_reached_once_its_service_has_as_many_ready_pods(ready, reached):
    endpoints = None if ready is None else [{"conditions": {"ready": one}} for one in ready]
    assert of(Told(pods=[{"endpoints": endpoints}])).are_reached("wine", "v1-a", 2) is reached


TEXT = """\
# TYPE headgate_requests counter
headgate_requests_total{status="200"} %d.0
headgate_requests_total{status="500"} %d.0
# TYPE headgate_request_seconds histogram
headgate_request_seconds_bucket{le="0.01"} 5.0
headgate_request_seconds_bucket{le="0.1"} 9.0
headgate_request_seconds_bucket{le="+Inf"} 10.0
# TYPE headgate_requests_in_progress gauge
headgate_requests_in_progress 2.0
"""


def pod(name, revision="v1-a", start="1", state="running"):
    statuses = [{"name": "server", "containerID": start, "state": {state: {}}}]
    return {"metadata": {"name": name}, "revision": revision, "status": {"containerStatuses": statuses}}


def test_servers_count_and_what_one_had_counted_stays():
    told = Told(pods=[pod("a"), pod("b"), pod("c", state="waiting")], texts={"a": TEXT % (8, 2), "b": TEXT % (9, 1)})
    counting = of(told)
    assert counting.counts("wine", ["v1-a", "v2-b"]) == {
        "v1-a": Counts(requests=20, failures=3, histograms=latencies((10, 8, 2))),
        "v2-b": Counts(requests=0, failures=0),
    }  # fmt: skip
    assert counting.active("wine", "v1-a") == 4
    told.pods = [pod("a", start="2")]
    told.texts = {"a": TEXT % (1, 0)}
    assert counting.counts("wine", ["v1-a"])["v1-a"].requests == 21


def test_a_revision_is_in_use_until_no_request_has_come_for_a_while(waitless):
    told = Told(pods=[pod("a")], texts={"a": (TEXT % (8, 2)).replace("in_progress 2.0", "in_progress 0.0")})
    watching = of(told)
    assert watching.active("wine", "v1-a") == 1
    waitless.skip(4)
    told.texts["a"] = told.texts["a"].replace('"200"} 8.0', '"200"} 9.0')
    assert watching.active("wine", "v1-a") == 1
    waitless.skip(4)
    assert watching.active("wine", "v1-a") == 1
    waitless.skip(4)
    assert watching.active("wine", "v1-a") == 0
    told.pods = []
    assert of(told).active("wine", "v1-a") == 0


def test_what_a_server_had_counted_before_it_could_be_asked_is_nobodys_evidence(monkeypatch):
    told = Told(pods=[pod("a"), pod("b")], texts={"a": TEXT % (8, 2)})
    counting = of(told)
    monkeypatch.setattr(Told, "ask", refusing(Told.ask))
    assert counting.counts("wine", ["v1-a"])["v1-a"].requests == 10
    told.texts["b"] = TEXT % (500, 100)
    assert counting.counts("wine", ["v1-a"])["v1-a"].requests == 10
    told.texts["b"] = TEXT % (501, 102)
    assert counting.counts("wine", ["v1-a"])["v1-a"] == Counts(requests=13, failures=4, histograms=latencies((5, 4, 1)))


def refusing(ask):
    def asked(self, pod, port, path):
        if pod not in self.texts:
            raise TargetUnavailableError("later")
        return ask(self, pod, port, path)

    return asked


def test_a_reading_that_falls_is_of_one_that_has_just_begun_anew():
    told = Told(pods=[pod("a")], texts={"a": TEXT % (100, 0)})
    counting = of(told)
    assert counting.counts("wine", ["v1-a"])["v1-a"].requests == 100
    told.texts["a"] = TEXT % (1, 0)
    assert counting.counts("wine", ["v1-a"])["v1-a"].requests == 100
    told.pods = [pod("a", start="2")]
    assert counting.counts("wine", ["v1-a"])["v1-a"].requests == 101


def test_the_buckets_are_those_of_the_servers():
    assert (*gateway_api.LATENCY_SECONDS, float("inf")) == tuple(metrics.SECONDS._upper_bounds)


def test_the_target_counts_as_who_routes_does():
    assert KubernetesTarget(SETTINGS).LATENCY_BOUNDS == gateway_api.LATENCY_SECONDS


def test_a_gateway_without_a_name_of_its_own_needs_a_url():
    with pytest.raises(ValidationError, match="url has to say"):
        KubernetesSettings(kind="kubernetes", captures="s3://bucket/live", gateway=Gateway(name="public"))


def test_nobody_closes_the_way_of_another_ones_gateway():
    from deploy_targets.kubernetes.manifests import _is_closed

    assert not _is_closed(SETTINGS)
    assert _is_closed(SETTINGS.model_copy(update={"gateway": None}))
