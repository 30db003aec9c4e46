"""What only a cluster does: pods that end, are evicted or killed, autoscalers, and changes by hand."""

from __future__ import annotations

import time

import pytest
from cluster_harness import Clients, pods
from support.stack import wait_for
from test_targets import GOOD

from deploy_targets.kubernetes import names
from headgate.errors import RevisionFailedError, TargetError
from headgate.records import Traffic


@pytest.fixture(scope="module", params=["kubernetes", "kubernetes_kserve"])
def cloud(request):
    return request.getfixturevalue(f"{request.param}_harness")


@pytest.fixture
def of_two(cloud, models):
    """An endpoint whose revision has two pods, and clients that ask it."""
    endpoint = "of-two"
    first = cloud.revision(models("pyfunc", does="double"), 1).model_copy(update={"workers": 2})
    cloud.target.deploy(endpoint, first)
    cloud.target.route(endpoint, Traffic.all_to(first.name))
    yield endpoint, first
    cloud.target.delete(endpoint)
    assert cloud.traces(endpoint) == []


def test_a_pod_that_is_evicted_fails_no_request(cloud, of_two):
    endpoint, first = of_two
    api = cloud.target._api
    with Clients(cloud, endpoint, GOOD) as clients:
        before = pods(cloud, endpoint, first)
        path = f"{api.path('pods', before[0])}/eviction"
        eviction = {"apiVersion": "policy/v1beta1", "kind": "Eviction", "metadata": {"name": before[0]}}
        if "policy/v1beta1" not in api.version_of("poddisruptionbudgets"):
            eviction["apiVersion"] = "policy/v1"
        api.call("POST", path, eviction)
        wait_for(lambda: set(pods(cloud, endpoint, first)) - set(before))
        wait_for(lambda: cloud.target.observe(endpoint).revisions[first.name].ready)
        seen = len(clients.statuses)
        wait_for(lambda: len(clients.statuses) > seen + 50)
    assert set(clients.statuses) == {200}


def test_a_candidate_has_as_many_pods_as_its_share_needs_and_what_was_live_keeps_its_own(cloud, of_two, models):
    endpoint, first = of_two
    second = cloud.revision(models("pyfunc", does="negative"), 2).model_copy(update={"workers": 2})
    cloud.target.deploy(endpoint, second)
    with Clients(cloud, endpoint, GOOD) as clients:
        assert len(pods(cloud, endpoint, second)) == 1
        cloud.target.route(endpoint, Traffic.split(first.name, second.name, 5000))
        assert len(pods(cloud, endpoint, second)) == 1
        cloud.target.route(endpoint, Traffic.all_to(second.name))
        assert len(pods(cloud, endpoint, second)) == 2
        assert len(pods(cloud, endpoint, first)) == 2
        began = time.monotonic()
        cloud.target.route(endpoint, Traffic.all_to(first.name))
        assert time.monotonic() - began < 10
    assert set(clients.statuses) == {200}


def test_a_number_that_follows_the_load_begins_with_the_least(cloud, models):
    endpoint = "following"
    first = cloud.revision(models("pyfunc", does="double"), 1).model_copy(update={"workers": 2, "most_workers": 3})
    cloud.target.deploy(endpoint, first)
    try:
        assert len(pods(cloud, endpoint, first)) == 2
        scaler = f"{names.of_revision(endpoint, first.name)}{cloud.suffix}"
        found = cloud.target._api.find("horizontalpodautoscalers", scaler)
        assert (found["spec"]["minReplicas"], found["spec"]["maxReplicas"]) == (2, 3)
    finally:
        cloud.target.delete(endpoint)
    assert cloud.traces(endpoint) == []


def test_an_image_that_no_node_can_have_is_told_with_the_clusters_words(cloud, live):
    endpoint, first, second = live
    image = second.image.model_copy(update={"reference": "registry.invalid/nothing@sha256:" + "0" * 64})
    with pytest.raises(RevisionFailedError, match=r"cannot start \((ImagePullBackOff|ErrImage)"):
        cloud.target.deploy(endpoint, second.model_copy(update={"image": image}))
    assert cloud.target.observe(endpoint).revisions.keys() == {first.name}


def test_weights_that_were_changed_by_hand_are_seen(cloud, live):
    endpoint, first, second = live
    cloud.target.deploy(endpoint, second)
    by_hand = type(cloud.target)(cloud._settings)
    by_hand.route(endpoint, Traffic.split(first.name, second.name, 100))
    assert cloud.target.observe(endpoint).traffic == Traffic.split(first.name, second.name, 100)
    cloud.target.route(endpoint, Traffic.all_to(first.name))


def test_what_makes_the_pods_is_removed_by_hand_which_is_seen_and_it_is_made_again(cloud, live):
    endpoint, first, _ = live
    cloud.target._api.delete(cloud.servers, names.of_revision(endpoint, first.name))
    wait_for(lambda: not cloud.target.observe(endpoint).revisions[first.name].ready)
    assert "gone" in cloud.target.observe(endpoint).revisions[first.name].detail
    cloud.target.deploy(endpoint, first)
    assert cloud.target.observe(endpoint).revisions[first.name].ready
    assert {reply.status for reply in cloud.ask(endpoint, GOOD, 5)} == {200}


def test_preflight_says_what_is_missing(cloud):
    settings = cloud._settings.model_copy(update={"captures_claim": "nothing", "namespace": "default"})
    found = {one.subject: one for one in type(cloud.target)(settings).preflight()}
    assert "no pod of the gateway in default is ready" in found["gateway"].problem
    assert "headgate gateway" in found["gateway"].fix
    assert "no PersistentVolumeClaim nothing" in found["target.captures_claim"].problem


def test_a_namespace_that_is_gone_is_said(cloud, models):
    settings = cloud._settings.model_copy(update={"namespace": "nowhere-to-be-found"})
    target = type(cloud.target)(settings)
    assert target.observe("wine") is None
    with pytest.raises(TargetError, match="not found"):
        target.deploy("wine", cloud.revision(models("pyfunc", does="double"), 1))


def test_every_manifest_is_taken_by_the_api_server_as_it_is(cloud, models):
    revision = cloud.revision(models("pyfunc", does="double"), 1).model_copy(update={"most_workers": 3})
    api = cloud.target._api
    for manifest in cloud.target.manifests("dry", revision):
        kind = {"NetworkPolicy": "networkpolicies"}.get(manifest["kind"], f"{manifest['kind'].lower()}s")
        api._send(
            "PATCH", api.path(kind, manifest["metadata"]["name"]), body=manifest,
            params={"fieldManager": "dry", "dryRun": "All"}, content_type="application/apply-patch+yaml",
        )  # fmt: skip
    assert cloud.traces("dry") == []
