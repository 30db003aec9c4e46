"""InferenceServices as servers: what is applied, what is read back, who is asked for pods, and what is refused."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from support import crds, kserve_controller
from support.inference_services import (
    VERSION,
    deployment_of,
    inference_service,
    made,
    path_of,
    revision,
    settings,
)

from deploy_targets.kubernetes import kserve, manifests, names, preflight
from deploy_targets.kubernetes.api import Api, NotAllowedError
from deploy_targets.kubernetes.fleet import Fleet
from deploy_targets.kubernetes.servers import Deployment, InferenceService
from deploy_targets.kubernetes.target import KubernetesTarget
from deploy_targets.protocol import Feature
from headgate.errors import TargetError, TargetUnavailableError
from headgate.records import Resources
from headgate.release_file import parse_release

IN_MODELS = "/namespaces/models"
SERVICES, DEPLOYMENTS = (f"{path}{IN_MODELS}/{kind}" for path, kind in (
    ("/apis/serving.kserve.io/v1beta1", "inferenceservices"), ("/apis/apps/v1", "deployments")
))  # fmt: skip


MUCH = {
    "service_account": "servers", "secret": "keys", "pull_secrets": ["registry"], "node_selector": {"gpu": "a100"},
    "priority_class": "models", "tolerations": [{"key": "gpu", "operator": "Exists"}], "labels": {"team": "a"},
}  # fmt: skip


@pytest.mark.parametrize("mode", ["Standard", "RawDeployment"])
@pytest.mark.parametrize("most", [0, 9])
def test_it_is_one_of_kserves_and_its_pods_are_kubernetes_own(mode, most):
    found = made(settings(kserve={"mode": mode}, **MUCH), most_workers=most,
                 resources=Resources(cpu=1.5, memory=2**30, gpu=1))["inferenceservices"]  # fmt: skip
    crds.validate(found)
    refused = kserve_controller.refusal(found)
    assert refused == "" if mode == "Standard" else "deploymentStrategy" in refused, (
        "KServe 0.21 has another name for it"
    )
    for wrong, says in (({"minReplica": 1}, "minReplica"), ({"scaleTarget": "70"}, "scaleTarget")):
        spoiled = {**found, "spec": {"predictor": {**found["spec"]["predictor"], **wrong}}}
        with pytest.raises(crds.InvalidError, match=says):
            crds.validate(spoiled)


@pytest.mark.parametrize(("mode", "most", "scaled_by"), [
    ("Standard", 0, "none"), ("RawDeployment", 0, "external"), ("Standard", 9, "hpa"),
])  # fmt: skip
def test_kserve_is_told_who_sees_to_the_number_of_pods(mode, most, scaled_by):
    found = made(settings(kserve={"mode": mode}), pods=3, most_workers=most)
    assert found.keys() == {"inferenceservices", "services", "poddisruptionbudgets", "networkpolicies"}
    noted, predictor = found["inferenceservices"]["metadata"], found["inferenceservices"]["spec"]["predictor"]
    assert noted["annotations"]["serving.kserve.io/deploymentMode"] == mode
    assert noted["annotations"]["serving.kserve.io/autoscalerClass"] == scaled_by
    assert noted["labels"]["networking.kserve.io/visibility"] == "cluster-local", "no way past the gateway"
    assert predictor["minReplicas"] == 3
    followed = {name: predictor.get(name) for name in ("maxReplicas", "scaleMetric", "scaleTarget")}
    told = (9, "cpu", 70) if most else (None, None, None)
    assert followed == dict(zip(followed, told, strict=True))


def test_its_pods_are_those_of_a_deployment_but_for_a_name():
    (own, theirs) = made(settings(kserve=None))["deployments"], made()["inferenceservices"]
    pod, predictor = own["spec"]["template"]["spec"], crds.pod_of(theirs)
    assert [one["name"] for one in pod["containers"]] == ["server", "log"]
    assert [one.pop("name") for one in predictor["containers"]] == ["kserve-container", "log"]
    for one in pod["containers"]:
        del one["name"]
    assert predictor == pod
    assert theirs["spec"]["predictor"]["deploymentStrategy"] == own["spec"]["strategy"]


def test_a_service_finds_the_pods_that_kserve_makes():
    found = made()
    by_kserve = kserve_controller.deployment_of(
        {**found["inferenceservices"], "metadata": {**found["inferenceservices"]["metadata"], "uid": "1"}}
    )
    labels = by_kserve["spec"]["template"]["metadata"]["labels"]
    assert found["services"]["spec"]["selector"].items() <= labels.items()
    assert found["networkpolicies"]["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
    assert by_kserve["metadata"]["name"] == kserve.deployment(found["inferenceservices"]["metadata"]["name"])


def test_a_name_that_kserve_makes_no_label_of_is_refused():
    one = revision()
    least = 48 - len("--") - len(one.name)
    manifests.of_revision(settings(), "a" * least, one, 1, path_of)
    with pytest.raises(
        TargetError, match=r"KServe takes names of up to 48 characters, not a+--\S+, which has 49"
    ) as no:
        manifests.of_revision(settings(), "a" * (least + 1), one, 1, path_of)
    assert "shorter `endpoint:`" in no.value.fix
    manifests.of_revision(settings(kserve=None), "a" * (least + 1), one, 1, path_of)


@pytest.mark.parametrize(("wrong", "says"), [
    ({"keda": {"triggers": [{"type": "cpu", "metadata": {}}]}}, "so keda cannot be had"),
    ({"metrics": [{"type": "Pods"}], "memory_target": 80}, "so metrics and memory_target cannot be had: take metrics"),
    ({"kserve": {"mode": "Knative"}}, "Standard"), ({"kserve": {"canary": 1}}, "canary"),
])  # fmt: skip
def test_what_kserve_cannot_do_is_refused(wrong, says):
    with pytest.raises(ValidationError, match=says):
        settings(**wrong)


def test_none_while_nobody_asks_is_not_to_be_had():
    assert "KServe's autoscaler leaves one pod" in KubernetesTarget(settings()).UNSUPPORTED[Feature.SCALE_TO_ZERO]
    assert "KEDA" in KubernetesTarget.UNSUPPORTED[Feature.SCALE_TO_ZERO]


def test_scarce_pods_and_an_autoscaler_of_kserves_do_not_go_together():
    spec = parse_release("model: wine\nartifact: /a\ntarget: {kind: local}\nruntime: {replicas: {min: 1, max: 5}}\n"
                         "gates: {shadow: off}\n")  # fmt: skip
    (found,) = preflight.misfits(settings(surge=2), spec)
    assert (found.subject, "up to 5" in found.problem) == ("target.surge", True)
    assert list(preflight.misfits(settings(surge=2, kserve=None), spec)) == []


@pytest.mark.parametrize(("name", "fits"), [("PROTOCOL", False), ("STORAGE_URI", False), ("THREADS", True)])
def test_what_kserve_takes_for_its_own_is_not_for_servers(name, fits):
    spec = parse_release(
        f"model: wine\nartifact: /a\ntarget: {{kind: local}}\nruntime: {{env: {{{name}: x}}}}\ngates: {{shadow: off}}\n"
    )
    found = [(one.subject, one.problem) for one in preflight.misfits(settings(), spec)]
    told = f"KServe refuses {name} in a server's environment, or takes it for its own"
    assert found == ([] if fits else [("runtime.env", told)])
    assert list(preflight.misfits(settings(kserve=None), spec)) == []


def test_the_role_has_inference_services_where_they_are_used():
    assert "inferenceservices" in preflight.role(settings())
    assert "inferenceservices" not in preflight.role(settings(kserve=None))


@pytest.fixture
def with_kserve(server):
    served = {"versions": [{"version": "v1alpha1"}, {"version": "v1beta1"}]}
    server.objects["/apis/serving.kserve.io"] = served
    for group in ("policy", "autoscaling"):
        server.objects[f"/apis/{group}"] = {"versions": [{"version": NEWEST_OF[group]}]}
    return server


NEWEST_OF = {"policy": "v1", "autoscaling": "v2"}


def test_a_cluster_without_kserve_is_said(server):
    server.objects["/version"] = {}
    (found,) = preflight._kserve(Api("", "models"), settings())
    assert found.subject == "target.kserve"
    assert "has no KServe" in found.problem
    assert "or take kserve out" in found.fix
    assert list(preflight._kserve(Api("", "models"), settings(kserve=None))) == []
    assert Fleet(Api("", "models"), settings()).of("wine") == {}


@pytest.mark.parametrize("now", [{}, None], ids=["with-kserve", "without"])
def test_servers_of_both_kinds_are_seen_whatever_the_release_file_says_by_now(with_kserve, now):
    theirs, own = inference_service(name="v2-b"), made(settings(kserve=None))["deployments"]
    own["metadata"]["labels"][names.REVISION] = "v1-a"
    with_kserve.objects[SERVICES] = {"items": [theirs]}
    with_kserve.objects[DEPLOYMENTS] = {"items": [own, deployment_of(theirs, 1, 1)]}
    found = Fleet(Api("", "models"), settings(kserve=now)).of("wine")
    assert {name: (type(one), one.version) for name, one in found.items()} == {
        "v1-a": (Deployment, VERSION), "v2-b": (InferenceService, VERSION),
    }  # fmt: skip
    assert found["v2-b"].ready == found["v2-b"].answering == 1


def test_a_revision_stays_what_it_was_made_as(with_kserve):
    theirs = inference_service()
    for now, was, kind in (
        ({}, Deployment("wine--v1-a", made(settings(kserve=None))["deployments"]), "deployments"),
        (None, InferenceService("wine--v1-a", theirs, None), "inferenceservices"),
    ):
        one = Fleet(Api("", "models"), settings(kserve=now))
        assert kind in dict(one.manifests("wine", revision(), 1, was))
        assert kind not in dict(one.manifests("wine", revision(), 1))


def test_a_plan_shows_the_inference_service(with_kserve):
    found = KubernetesTarget(settings()).manifests("wine", revision())
    assert [one["kind"] for one in found] == [
        "InferenceService", "Service", "PodDisruptionBudget", "NetworkPolicy", "ConfigMap",
    ]  # fmt: skip
    assert found[0]["apiVersion"] == "serving.kserve.io/v1beta1"
    assert found[0]["spec"]["predictor"]["minReplicas"] == 4


@pytest.mark.parametrize(("more", "deploy", "step"), [
    ({}, "PATCH inferenceservices, services", "PUT configmaps, once a step"),
    ({"kserve": None}, "PATCH deployments, services", "PUT configmaps, once a step"),
    ({"gateway": {"name": "shared"}, "url": "http://a"}, "PATCH inferenceservices", "PUT httproutes, once a step"),
])  # fmt: skip
def test_a_plan_names_the_calls_that_are_made(more, deploy, step):
    calls = KubernetesTarget(settings(**more)).CALLS
    assert calls["deploy"][0].startswith(deploy)
    assert calls["shift"][1].startswith(step)


def test_one_of_that_name_that_is_somebody_elses_is_refused(with_kserve):
    one = revision()
    with_kserve.objects[f"{SERVICES}/{names.of_revision('wine', one.name)}"] = {"metadata": {"name": "x"}}
    with pytest.raises(
        TargetError, match=r"has an InferenceService wine--\S+ that is not Headgate's\n.*kubectl delete"
    ):
        Fleet(Api("", "models"), settings()).apply("wine", one, 1, None)
    assert {verb for verb, *_ in with_kserve.asked} == {"GET"}


@pytest.mark.usefixtures("waitless")
def test_one_that_does_not_go_is_said(with_kserve):
    theirs = inference_service()
    with_kserve.objects[SERVICES] = {"items": [theirs]}
    with_kserve.objects[f"{DEPLOYMENTS}/wine--v1-a-predictor"] = deployment_of(theirs, 1, 1)
    with pytest.raises(TargetUnavailableError, match=r"deployments/wine--v1-a-predictor of models do not go") as raised:
        Fleet(Api("", "models"), settings()).remove("wine", "v1-a")
    assert "finalizers" in raised.value.fix
    assert ("DELETE", f"{SERVICES}/wine--v1-a") in {(verb, path) for verb, path, _ in with_kserve.asked}


def test_one_that_kserve_has_not_seen_goes_also_where_the_file_says_nothing_of_kserve_by_now(with_kserve):
    with_kserve.objects[SERVICES] = {"items": [inference_service()]}
    without = Fleet(Api("", "models"), settings(kserve=None))
    assert without.revisions("wine") == {"v1-a"}
    without.remove("wine", "v1-a")
    assert ("DELETE", f"{SERVICES}/wine--v1-a") in {(verb, path) for verb, path, _ in with_kserve.asked}


def test_who_may_not_see_them_any_more_is_told_where_there_are_some(with_kserve, monkeypatch):
    listed = Api.list

    def as_allowed(self, kind, chosen):
        if kind == "inferenceservices":
            raise NotAllowedError("the cluster does not allow GET inferenceservices")
        return listed(self, kind, chosen)

    monkeypatch.setattr(Api, "list", as_allowed)
    without = Fleet(Api("", "models"), settings(kserve=None))
    assert without.of("wine", also_hidden=True) == {}
    with_kserve.objects[DEPLOYMENTS] = {"items": [deployment_of(inference_service(), 1, 1)]}
    with pytest.raises(NotAllowedError) as raised:
        without.of("wine")
    assert "target.kserve" in raised.value.fix
