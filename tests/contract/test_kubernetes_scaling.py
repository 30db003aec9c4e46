"""Pods that follow the load by KEDA, down to none, and releases where pods are scarce, on a real cluster.

KEDA itself is not there: its kind is, and a test does what KEDA does with a Deployment.
"""

from __future__ import annotations

import threading

import pytest
from cluster_harness import Clients, pods
from support import cluster
from support.stack import wait_for
from test_targets import GOOD

from deploy_targets.kubernetes import names
from deploy_targets.kubernetes.settings import Keda
from headgate.records import Mirror, Traffic


def with_settings(cloud, **more):
    return type(cloud)(cloud._home.root, cloud._base, cloud._settings.model_copy(update=more))


@pytest.fixture
def scaled(kubernetes_harness):
    cluster.make_kind("scaledobjects")
    query = 'sum(rate(envoy_cluster_upstream_rq_completed{envoy_cluster_name="$DEPLOYMENT"}[1m]))'
    keda = Keda(triggers=({"type": "prometheus", "metadata": {"query": query, "threshold": "20"}},))
    return with_settings(kubernetes_harness, keda=keda)


class Scaler:
    """What KEDA would do with one revision."""

    def __init__(self, cloud, endpoint, revision):
        self._api, self._name = cloud.target._api, names.of_revision(endpoint, revision.name)

    @property
    def least(self):
        return self._api.find("scaledobjects", self._name)["spec"]["minReplicaCount"]

    @property
    def is_there(self):
        return self._api.find("scaledobjects", self._name) is not None

    def nobody_asks(self):
        self._api.merge("deployments", self._name, {"spec": {"replicas": self.least}})

    def somebody_asks(self):
        self._api.merge("deployments", self._name, {"spec": {"replicas": max(1, self.least)}})


def refused(cloud, endpoint, revision):
    """How many requests Prometheus would read that a revision's clients were not answered."""
    api, name = cloud.target._api, names.of_revision(endpoint, revision.name)
    total = 0
    for pod in cloud.target._routing.pods():
        told = api.ask(pod.name, names.INSIDE_PORT, "/stats/prometheus", filter=f"cluster.{name}.upstream_rq_completed")
        total += sum(int(line.rpartition(" ")[2]) for line in told.text.splitlines() if f'"{name}"' in line)
    return total


def test_what_nobody_asks_has_no_pod_and_a_release_wakes_it(scaled, models):
    endpoint = "asleep"
    first, second = (
        scaled.revision(models("pyfunc", does=does), number).model_copy(update={"workers": 0, "most_workers": 2})
        for number, does in ((1, "double"), (2, "negative"))
    )
    target, of_first, of_second = scaled.target, Scaler(scaled, endpoint, first), Scaler(scaled, endpoint, second)
    try:
        target.deploy(endpoint, first)
        assert of_first.least == 1, "without traffic it may not go to sleep before it has had any"
        target.route(endpoint, Traffic.all_to(first.name))
        assert {reply.status for reply in scaled.ask(endpoint, GOOD, 5)} == {200}
        of_first.nobody_asks()
        wait_for(lambda: not pods(scaled, endpoint, first), 60)
        assert target.observe(endpoint).revisions[first.name].ready
        wait_for(lambda: {reply.status for reply in scaled.ask(endpoint, GOOD, 2)} == {503})
        assert refused(scaled, endpoint, first) > 5, "so that a trigger sees that somebody asks"
        of_first.somebody_asks()
        wait_for(lambda: {reply.status for reply in scaled.ask(endpoint, GOOD, 2)} == {200}, 60)
        of_first.nobody_asks()
        wait_for(lambda: not pods(scaled, endpoint, first), 60)
        target.deploy(endpoint, second)
        target.route(endpoint, Traffic.all_to(first.name, Mirror(revision=second.name, share=10000)))
        assert {reply.status for reply in scaled.ask(endpoint, GOOD, 20)} == {200}
        of_first.nobody_asks()
        target.route(endpoint, Traffic.all_to(second.name))
        of_second.nobody_asks()
        assert len(pods(scaled, endpoint, first)) == len(pods(scaled, endpoint, second)) == 1, "one may go back"
        target.retire(endpoint, first.name)
        wait_for(lambda: not of_first.is_there)
        assert of_second.least == 0
    finally:
        target.delete(endpoint)
    wait_for(lambda: not of_second.is_there)
    assert scaled.traces(endpoint) == []


def test_a_revision_that_was_scaled_otherwise_is_scaled_by_one_only(kubernetes_harness, scaled, models):
    cloud, endpoint = kubernetes_harness, "otherwise"
    first = cloud.revision(models("pyfunc", does="double"), 1).model_copy(update={"workers": 1, "most_workers": 3})
    name = names.of_revision(endpoint, first.name)
    try:
        cloud.target.deploy(endpoint, first)
        scaled.target.deploy(endpoint, first)
        assert cloud.target._api.find("horizontalpodautoscalers", name) is None
        assert cloud.target._api.find("scaledobjects", name)["spec"]["maxReplicaCount"] == 3
    finally:
        cloud.target.delete(endpoint)
    wait_for(lambda: cloud.target._api.find("scaledobjects", name) is None)


class Watch:
    """The most pods that an endpoint has had at once, of those that were not told to end."""

    def __init__(self, cloud, endpoint):
        self._cloud, self._endpoint, self.most, self._stop = cloud, endpoint, 0, threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        while not self._stop.wait(0.1):
            found = self._cloud.target._api.list("pods", {names.ENDPOINT: self._endpoint})
            self.most = max(self.most, sum("deletionTimestamp" not in one["metadata"] for one in found))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()


@pytest.mark.parametrize("cloud", ["kubernetes", "kubernetes_kserve"])
def test_where_pods_are_scarce_a_release_adds_no_more_than_it_may(request, cloud, models):
    endpoint, scarce = "scarce", with_settings(request.getfixturevalue(f"{cloud}_harness"), surge=1)
    first, second = (
        scarce.revision(models("pyfunc", does=does), number).model_copy(update={"workers": 3})
        for number, does in ((1, "double"), (2, "negative"))
    )
    target = scarce.target
    try:
        target.deploy(endpoint, first)
        target.route(endpoint, Traffic.all_to(first.name))
        with Watch(scarce, endpoint) as watch, Clients(scarce, endpoint, GOOD) as clients:
            target.deploy(endpoint, second)
            target.route(endpoint, Traffic.split(first.name, second.name, 1000))
            target.route(endpoint, Traffic.all_to(second.name))
            assert len(pods(scarce, endpoint, second)) == 3
            target.route(endpoint, Traffic.all_to(first.name))
            wait_for(lambda: len(pods(scarce, endpoint, first)) == 3, 60)
            wait_for(lambda: len(pods(scarce, endpoint, second)) == 1, 60)
        assert set(clients.statuses) == {200}
        assert watch.most == 4
    finally:
        target.delete(endpoint)
    assert scarce.traces(endpoint) == []
