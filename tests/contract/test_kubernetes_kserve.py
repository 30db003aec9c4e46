"""InferenceServices as servers, on a real cluster: what KServe and who releases leave to each other.

KServe itself is not there: its kind is, and a controller of the tests' own makes what KServe would.
"""

from __future__ import annotations

import uuid

import pytest
from cluster_harness import Clients, pods
from support import cluster
from support.stack import wait_for
from test_targets import GOOD

from deploy_targets.kubernetes import names
from deploy_targets.kubernetes import pods as pods_of_revisions
from deploy_targets.kubernetes.api import Api
from headgate.errors import RevisionFailedError, TargetError
from headgate.home import Home
from headgate.records import Traffic


@pytest.fixture(scope="module")
def cloud(kubernetes_kserve_harness):
    return kubernetes_kserve_harness


def predictor(cloud, endpoint, revision, kind="deployments"):
    """What KServe has made of a revision."""
    return cloud.target._api.find(kind, f"{names.of_revision(endpoint, revision.name)}-predictor")


def otherwise(cloud, kserve):
    """The same namespace, by another release file."""
    return type(cloud.target)(cloud._settings.model_copy(update={"kserve": kserve}))


def test_kserve_makes_the_pods_and_their_number_is_asked_of_it(cloud, models):
    endpoint = "by-kserve"
    first, second = (
        cloud.revision(models("pyfunc", does=does), number).model_copy(update={"workers": 2})
        for number, does in ((1, "double"), (2, "negative"))
    )
    api, name = cloud.target._api, names.of_revision(endpoint, second.name)
    try:
        cloud.target.deploy(endpoint, first)
        cloud.target.route(endpoint, Traffic.all_to(first.name))
        cloud.target.deploy(endpoint, second)
        assert {one["metadata"]["name"] for one in api.list("deployments", {names.ENDPOINT: endpoint})} == {
            f"{names.of_revision(endpoint, one.name)}-predictor" for one in (first, second)
        }
        cloud.target.route(endpoint, Traffic.all_to(second.name))
        assert api.find("inferenceservices", name)["spec"]["predictor"]["minReplicas"] == 2
        assert len(pods(cloud, endpoint, second)) == 2
        api.merge("deployments", f"{name}-predictor", {"spec": {"replicas": 1}})
        wait_for(lambda: predictor(cloud, endpoint, second)["spec"]["replicas"] == 2)
    finally:
        cloud.target.delete(endpoint)
    assert cloud.traces(endpoint) == []


@pytest.mark.parametrize("back", [False, True], ids=["to-kserve", "from-kserve"])
def test_servers_are_made_otherwise_from_one_release_to_the_next(cloud, models, back):
    endpoint = "otherwise"
    of_old, of_new = otherwise(cloud, None), cloud.target
    if back:
        of_old, of_new = of_new, of_old
    first, second = (
        cloud.revision(models("pyfunc", does=does), number) for number, does in ((1, "double"), (2, "negative"))
    )
    try:
        of_old.deploy(endpoint, first)
        of_old.route(endpoint, Traffic.all_to(first.name))
        with Clients(cloud, endpoint, GOOD) as clients:
            of_new.deploy(endpoint, second)
            of_new.deploy(endpoint, first)
            assert {name: one.ready for name, one in of_new.observe(endpoint).revisions.items()} == {
                first.name: True, second.name: True,
            }  # fmt: skip
            assert (predictor(cloud, endpoint, first) is not None) is back, "what answers clients stays what it is"
            of_new.route(endpoint, Traffic.split(first.name, second.name, 5000))
            of_new.route(endpoint, Traffic.all_to(second.name))
            of_new.retire(endpoint, first.name)
        assert set(clients.statuses) == {200}
        assert of_new.observe(endpoint).revisions.keys() == {second.name}
        assert (predictor(cloud, endpoint, second) is None) is back
    finally:
        of_new.delete(endpoint)
    assert cloud.traces(endpoint) == []


def test_one_of_that_name_that_is_somebody_elses_is_left_alone(cloud, live):
    endpoint, first, second = live
    api, name = cloud.target._api, names.of_revision(endpoint, second.name)
    theirs = api.find("inferenceservices", names.of_revision(endpoint, first.name))
    made = {**theirs, "metadata": {"name": name, "namespace": api.namespace}}
    api.create("inferenceservices", {part: made[part] for part in ("apiVersion", "kind", "metadata", "spec")})
    with pytest.raises(TargetError, match=rf"has an InferenceService {name} that is not Headgate's"):
        cloud.target.deploy(endpoint, second)
    assert cloud.target.observe(endpoint).revisions.keys() == {first.name}
    assert api.find("inferenceservices", name)["spec"] == theirs["spec"]
    api.delete("inferenceservices", name)


def test_a_kserve_that_does_not_act_is_said(cloud, models, tmp_path, monkeypatch):
    monkeypatch.setattr(pods_of_revisions, "MAKE_SECONDS", 2.0)
    revision = cloud.revision(models("pyfunc", does="double"), 1)
    home, name = Home(cloud._home.root), f"headgate-test-{uuid.uuid4().hex[:6]}"
    with cluster.namespace(home, cloud._base, tmp_path, own_gateway=False, name=name) as settings:
        target = type(cloud.target)(settings.model_copy(update={"kserve": cloud._settings.kserve}))
        says = r"gets no pods after 2 s: KServe has made no Deployment of InferenceService alone--v1-"
        with pytest.raises(RevisionFailedError, match=says) as raised:
            target.deploy("alone", revision)
        assert "target.kserve.mode" in raised.value.fix
        assert Api(settings.context, name).list("inferenceservices", names.ENDPOINT) == []
