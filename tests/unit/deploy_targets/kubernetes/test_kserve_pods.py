"""How many pods KServe is asked for, and why there are none."""

from __future__ import annotations

import pytest
from support.inference_services import (
    VERSION,
    deployment_of,
    inference_service,
    revision,
    settings,
)

from deploy_targets.kubernetes import kserve
from deploy_targets.kubernetes.endpoint import Known
from deploy_targets.kubernetes.growth import Growth
from deploy_targets.kubernetes.pods import Pods
from deploy_targets.kubernetes.servers import InferenceService
from headgate.errors import RevisionFailedError, TargetUnavailableError
from headgate.records import Traffic


class Cluster:
    """What was asked of one."""

    def __init__(self):
        self.asked = []

    def merge(self, kind, name, change):
        self.asked.append((kind, name, change))


@pytest.mark.parametrize(("most", "has"), [(0, 1), (9, 1)])
def test_kserve_is_asked_for_pods_and_its_deployment_is_left_alone(monkeypatch, most, has):
    """Its Deployment would be changed back, or an autoscaler would go on from what it has."""
    monkeypatch.setattr(Pods, "wait_until_ready", lambda *_: None)
    cluster, live, new = Cluster(), inference_service(4, most), inference_service(1, most, name="v2-b")
    servers = {
        "v1-a": InferenceService("wine--v1-a", live, deployment_of(live, 4, 4)),
        "v2-b": InferenceService("wine--v2-b", new, deployment_of(new, has, has)),
    }
    both = dict.fromkeys(servers, VERSION)
    known = Known(traffic=Traffic.all_to("v1-a"), revisions=both, served=("v1-a",))
    growth = Growth(cluster, "wine", known, lambda: servers, lambda *_: None, settings())
    wanted = Traffic.split("v1-a", "v2-b", 5000)
    assert list(growth.stages(wanted, servers)) == [wanted]
    assert {kind for kind, *_ in cluster.asked} == {"inferenceservices"}
    asked = {name: change["spec"]["predictor"] for _, name, change in cluster.asked}
    assert asked["wine--v2-b"] == {"minReplicas": 2}
    assert ("wine--v1-a" in asked) is bool(most), "an autoscaler leaves what was live its pods"


def test_as_many_are_there_as_were_asked_for_or_as_an_autoscaler_found_to_do():
    fixed, follows = inference_service(3), inference_service(3, 9)
    asked = {
        kind: InferenceService("wine--v1-a", one, deployment_of(one, 6, 6)).asked
        for kind, one in (("fixed", fixed), ("follows", follows))
    }
    assert asked == {"fixed": 3, "follows": 6}
    assert InferenceService("wine--v1-a", follows, None).asked == 3
    assert InferenceService("wine--v1-a", fixed, None).ready == 0


SAID = "ReconcileFailed no host name"
FAILED = {"type": "PredictorReady", "status": "False", "reason": "ReconcileFailed", "message": "no host name"}
FAILURE = {"lastFailureInfo": {"reason": "InvalidPredictorSpec", "message": "no container"}}


@pytest.mark.parametrize(("status", "says"), [
    ({}, ""), ({"conditions": [{"type": "Ready", "status": "Unknown"}]}, ""),
    ({"conditions": [FAILED, {"type": "Ready", "status": "False"}]}, f"PredictorReady is False: {SAID}"),
    ({"modelStatus": FAILURE}, "InvalidPredictorSpec: no container"),
])  # fmt: skip
def test_what_kserve_says_is_told(status, says):
    assert kserve.says({"status": status}) == says


class Told:
    """A namespace with what a test says."""

    def __init__(self, *found, service=None, deployment=None):
        self.found, self.service, self.deployment = list(found), service, deployment
        self.logs = []

    def list(self, *_):
        return self.found

    def find(self, kind, _name):
        return self.service if kind == "inferenceservices" else self.deployment

    def log(self, _pod, container, *_, **__):
        self.logs.append(container)
        return "the end of its log"


def of_kserve(told):
    return Pods(told, "wine", "v1-a", "inferenceservices")


@pytest.mark.usefixtures("waitless")
def test_a_kserve_that_makes_no_deployment_is_said_with_its_own_words():
    told = Told(service=inference_service(conditions=[FAILED]))
    says = (
        r"gets no pods after 60 s: KServe has made no Deployment of InferenceService wine--v1-a \(PredictorReady is F"
    )
    with pytest.raises(RevisionFailedError, match=says) as raised:
        of_kserve(told).wait(1, revision())
    assert "see that KServe runs" in raised.value.fix
    assert of_kserve(told).why_not().startswith("KServe has made no Deployment")


def test_kserves_minute_does_not_run_while_the_api_server_is_away(waitless):
    theirs, looks = inference_service(), []

    class Away(Told):
        def find(self, kind, name):
            looks.append(kind)
            if 1 < looks.count("inferenceservices") < 5:
                waitless.skip(50)
                raise TargetUnavailableError("it is being restarted")
            self.deployment = deployment_of(theirs, 1, 1) if looks.count("inferenceservices") > 5 else None
            return super().find(kind, name)

    of_kserve(Away(service=theirs)).wait(1, revision())
    assert looks.count("inferenceservices") == 6


def test_a_server_that_cannot_start_is_found_under_kserves_name_for_it():
    ended = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
    statuses = [{"name": "log", "state": {"running": {}}}, {"name": "kserve-container", "state": ended}]
    theirs = inference_service()
    told = Told(
        {"metadata": {"name": "p"}, "status": {"containerStatuses": statuses}},
        service=theirs, deployment=deployment_of(theirs, 1, 0),
    )  # fmt: skip
    with pytest.raises(RevisionFailedError, match="exit code 137, OOMKilled"):
        of_kserve(told).wait(1, revision())
    assert told.logs == ["kserve-container"]


def test_ready_is_what_its_deployment_says():
    theirs = inference_service()
    told = Told(service=theirs, deployment=deployment_of(theirs, 1, 1))
    of_kserve(told).wait(1, revision())
    of_kserve(told).wait_until_told_to_end(1, 0.1)
    with pytest.raises(TargetUnavailableError, match="has not 2 ready pods after 0 s: they take too long"):
        of_kserve(Told(service=theirs, deployment=told.deployment)).wait_until_ready(2, 0)
