"""What is applied is what the official models of Kubernetes' API know, and what its strictest standard allows."""

from __future__ import annotations

import json
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from pydantic import ValidationError
from support import crds

from deploy_targets.kubernetes import endpoint, gateway, gateways, manifests, names, preflight
from deploy_targets.kubernetes.api import GROUPS, NEWEST, Api
from deploy_targets.kubernetes.gateway_api import GatewayApi
from deploy_targets.kubernetes.settings import KServe, KubernetesSettings, Toleration
from deploy_targets.kubernetes.target import KubernetesTarget
from deploy_targets.protocol import Feature
from headgate.capture import Capture
from headgate.errors import TargetError
from headgate.gateway_limits import EndpointLimits
from headgate.records import Image, Mirror, ModelVersion, Resources, Revision, Traffic

ROOT = Path(__file__).parents[4]
VERSION = ModelVersion(name="wine", version=3, digest="sha256:ab")
KNOWN = endpoint.Known(traffic=Traffic.split("v1-a", "v2-b", 2500), revisions={"v1-a": VERSION, "v2-b": VERSION})
IMAGE = Image(digest="sha256:ab", lock_digest="", path=Path("/a"), interpreter=None, size=1,
              reference="registry.example/wine@sha256:ab")  # fmt: skip
SETTINGS = KubernetesSettings(kind="kubernetes", captures="s3://bucket/live")
IN_MODELS = SETTINGS.model_copy(update={"namespace": "models"})


def revision(**more):
    return Revision.of(VERSION, IMAGE, env={"A": "b"}, ready_timeout=60.0, **{"workers": 4, **more})


def path_of(kind):
    return GROUPS.get(kind) or f"/apis/{NEWEST[kind][0]}/{NEWEST[kind][1][0]}"


def made(settings=SETTINGS, pods=1, **more):
    return dict(manifests.of_revision(settings, "wine", revision(**more), pods, path_of))


EVERYTHING = [
    *made(
        KubernetesSettings(
            kind="kubernetes", captures="file:///live", captures_claim="log", service_account="servers",
            secret="keys",  # noqa: S106 - what it is called
            pull_secrets=("registry",), node_selector={"gpu": "a100"}, priority_class="models", memory_target=80,
            tolerations=(Toleration(key="gpu", operator="Exists"),), labels={"team": "a"},
            metrics=({"type": "Pods", "pods": {"metric": {"name": "waiting"},
                      "target": {"type": "AverageValue", "averageValue": "5"}}},),
        ),
        most_workers=9, resources=Resources(cpu=1.5, memory=2**30, gpu=1), secrets={"TOKEN": "secret:wine/token"},
    ).values(),
    *gateway.manifests(SETTINGS, "sha256:0123456789abcdef", 2),
    *yaml.safe_load_all(preflight.role(IN_MODELS)),
    endpoint.Endpoint(Api("", "models"), "wine", gateways.ConfigMap(), {}).manifest(KNOWN),
]  # fmt: skip


@pytest.mark.parametrize("version", ["1.25", "1.31", "1.37"])
@pytest.mark.parametrize("manifest", EVERYTHING, ids=lambda one: f"{one['kind']} {one['metadata']['name']}")
def test_every_manifest_is_one_of_the_api(manifest, version):
    """By Kubernetes' own OpenAPI description; `strict` knows no field that is not there."""
    assert kubernetes_validate.validate(manifest, version, strict=True) == version


@pytest.mark.parametrize(("image", "server"), [
    (IMAGE.model_copy(update={"server": "headgate_server"}), "headgate_server"),
    # As a record of before the package had this name is read.
    (Image.model_validate(IMAGE.model_dump(mode="json", exclude={"server"})), "serving"),
])  # fmt: skip
def test_what_sends_the_log_is_the_servers_package_in_that_image(image, server):
    older = revision().model_copy(update={"image": image})
    for settings in (SETTINGS, SETTINGS.model_copy(update={"kserve": KServe(mode="Standard")})):
        kind = "deployments" if settings.kserve is None else "inferenceservices"
        spec = dict(manifests.of_revision(settings, "wine", older, 1, path_of))[kind]["spec"]
        pod = spec["template"]["spec"] if settings.kserve is None else spec["predictor"]
        commands = {one["name"]: one.get("command") for one in pod["containers"]}
        assert commands.pop("log") == ["python3", "-m", f"{server}.ship"]
        assert set(commands.values()) == {None}, "the image says what its server is"


def test_a_field_that_the_api_does_not_have_is_found():
    wrong = {**EVERYTHING[0], "spec": {**EVERYTHING[0]["spec"], "replica": 1}}
    with pytest.raises(kubernetes_validate.ValidationError, match="replica"):
        kubernetes_validate.validate(wrong, "1.31", strict=True)


def test_servers_have_one_worker_where_memory_starts_pods():
    def told(settings):
        pod = made(settings, most_workers=9, resources=Resources(memory=2**30))["deployments"]["spec"]["template"]
        (server,) = [one for one in pod["spec"]["containers"] if one["name"] in names.SERVERS]
        return {one["name"]: one["value"] for one in server["env"]}.get("HEADGATE_SERVER_WORKERS")

    assert told(SETTINGS) is None
    assert told(SETTINGS.model_copy(update={"memory_target": 80})) == "1"


WITH_KEDA = KubernetesSettings.model_validate({
    "kind": "kubernetes", "captures": "s3://bucket/live", "keda": {"triggers": [
        {"type": "prometheus", "metadata": {
            "serverAddress": "http://prometheus:9090", "threshold": "20",
            "query": 'sum(rate(rq{cluster="$DEPLOYMENT"}[1m])) # $ENDPOINT $REVISION',
        }},
        {"type": "aws-sqs-queue", "metadata": {"queueURL": "https://q", "queueLength": "5"}, "authentication": "sqs"},
    ]},
})  # fmt: skip


def test_keda_scales_in_the_place_of_kubernetes_own_autoscaler():
    found = made(WITH_KEDA, workers=0, most_workers=9)
    assert "horizontalpodautoscalers" not in found
    assert found["deployments"]["metadata"]["annotations"]["headgate.io/scaler"] == "scaledobjects"
    scaled = found["scaledobjects"]
    crds.validate(scaled)
    assert scaled["spec"]["minReplicaCount"] == 1, "until it has all traffic"
    assert scaled["spec"]["maxReplicaCount"] == 9
    query = scaled["spec"]["triggers"][0]["metadata"]["query"]
    assert query.endswith(f"# wine {revision(workers=0, most_workers=9).name}")
    assert f'cluster="{scaled["metadata"]["name"]}"' in query
    with pytest.raises(crds.InvalidError, match="minReplicas"):
        crds.validate({**scaled, "spec": {**scaled["spec"], "minReplicas": 1}})


def test_a_number_that_does_not_follow_the_load_has_no_scaler():
    assert made(WITH_KEDA).keys().isdisjoint(("scaledobjects", "horizontalpodautoscalers"))


def test_only_keda_leaves_no_pod():
    of = {one: KubernetesTarget(settings).UNSUPPORTED for one, settings in (("hpa", SETTINGS), ("keda", WITH_KEDA))}
    assert Feature.SCALE_TO_ZERO in of["hpa"]
    assert Feature.SCALE_TO_ZERO not in of["keda"]
    assert Feature.SCALE_TO_ZERO in KubernetesTarget.UNSUPPORTED


def test_a_route_is_one_of_gateway_api():
    settings = KubernetesSettings.model_validate({
        "kind": "kubernetes", "captures": "s3://b/live",
        "gateway": {"name": "public", "namespace": "edge", "section": "https", "hostname": "models.example"},
    })  # fmt: skip
    there = GatewayApi(Api("", "models"), settings, settings.gateway)
    traffic = Traffic(weights={"v1-a": 7500, "v2-b": 2500}, mirror=Mirror(revision="v2-b", share=100))
    spec = there.form.content("wine", KNOWN.model_copy(update={"traffic": traffic}))
    crds.validate({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {}, **spec})


def pods_of(manifest):
    return manifest["spec"]["template"]["spec"]


@pytest.mark.parametrize("pod", [
    pods_of(made()["deployments"]), pods_of(gateway.manifests(SETTINGS, "sha256:0123", 2)[-1]),
], ids=["server", "gateway"])  # fmt: skip
def test_pods_keep_to_the_restricted_standard(pod):
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in [*pod["containers"], *pod.get("initContainers", [])]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        }  # fmt: skip


@pytest.mark.parametrize(("keep", "gib"), [("", 2), ("5Gi", 6)])
def test_a_pod_has_room_for_as_much_of_the_log_as_is_to_be_kept(keep, gib):
    env = Capture(keep=keep).env if keep else {}
    one = Revision.of(VERSION, IMAGE, env=env, ready_timeout=60.0, workers=1)
    ((_, deployment), *_) = manifests.of_revision(SETTINGS, "wine", one, 1, path_of)
    scratch = next(part for part in pods_of(deployment)["volumes"] if part["name"] == "scratch")
    assert scratch["emptyDir"]["sizeLimit"] == str(gib * 2**30)


def test_servers_know_nothing_of_the_cluster():
    assert pods_of(made()["deployments"])["automountServiceAccountToken"] is False


def test_limits_are_what_the_release_file_says():
    (server, log) = pods_of(made(resources=Resources(cpu=1.5, memory=2**30, gpu=2))["deployments"])["containers"]
    assert server["resources"]["limits"] == {"cpu": "1500m", "memory": str(2**30), "nvidia.com/gpu": "2"}
    assert server["resources"]["requests"] == server["resources"]["limits"]
    assert "limits" not in log["resources"]


def test_every_container_asks_for_cpu_where_an_autoscaler_takes_its_percent_of_that():
    server, log = pods_of(made(most_workers=9)["deployments"])["containers"]
    assert "limits" not in server["resources"]
    assert all(one["resources"]["requests"]["cpu"] for one in (server, log))


def test_a_number_that_follows_the_load_is_not_in_the_deployment():
    following = made(pods=2, most_workers=9)
    assert "replicas" not in following["deployments"]["spec"]
    scaler = following["horizontalpodautoscalers"]["spec"]
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (2, 9)
    fixed = made(pods=2)
    assert fixed["deployments"]["spec"]["replicas"] == 2
    assert "horizontalpodautoscalers" not in fixed


def test_a_folder_of_a_claim_is_mounted_where_it_is_named():
    settings = KubernetesSettings(kind="kubernetes", captures="file:///live", captures_claim="log")
    server, log = pods_of(made(settings)["deployments"])["containers"]
    assert {"name": "captures", "mountPath": "/live"} in log["volumeMounts"]
    assert {"name": "captures", "mountPath": "/live"} not in server["volumeMounts"]


@pytest.mark.parametrize("wrong", [
    {"captures": "file:///live"}, {"captures": "s3://bucket", "captures_claim": "log"}, {"captures": "ftp://x"},
    {"captures": "s3://bucket", "namespace": "Models"}, {"captures": "s3://bucket", "surge": 0},
    {"captures": "s3://bucket", "keda": {"triggers": []}},
    {"captures": "s3://bucket", "memory_target": 80, "keda": {"triggers": [{"type": "cpu", "metadata": {}}]}},
])  # fmt: skip
def test_settings_that_cannot_work_are_refused(wrong):
    with pytest.raises(ValidationError):
        KubernetesSettings.model_validate({"kind": "kubernetes", **wrong})


@pytest.mark.parametrize("name", ["9lives", "a" * 60])
def test_names_that_no_service_can_have_are_refused(name):
    with pytest.raises(TargetError, match="choose another `endpoint:`"):
        names.of_revision(name, "v1-12345678")


def test_an_image_that_only_a_daemon_has_is_named_as_it_is_there():
    assert names.image("sha256:0123456789abcdef") == "headgate:0123456789ab"
    assert names.image("registry.example/wine@sha256:ab") == "registry.example/wine@sha256:ab"


def test_what_envoy_gets_tells_weights_copies_and_whom_to_ask_alone():
    told = {part: json.loads(text) for part, text in gateways.resources("wine", KNOWN).items()}
    route, too_large, measured = told["routes"]
    assert too_large["direct_response"] == {"status": 413}
    assert measured["route"] == route["route"], "with the same weights, copies and retries"
    weights = {one["name"]: one["weight"] for one in route["route"]["weighted_clusters"]["clusters"]}
    assert weights == {"wine--v1-a": 7500, "wine--v2-b": 2500}
    assert [one["name"] for one in told["clusters"]] == [
        "wine--v1-a", "ask--wine--v1-a", "wine--v2-b", "ask--wine--v2-b",
    ]  # fmt: skip
    assert [one["match"]["path"] for one in told["inside"]] == ["/wine/v1-a/invocations", "/wine/v2-b/invocations"]


def test_what_envoy_gets_has_the_limits_of_those_versions_that_are_asked():
    def told(traffic):
        known = KNOWN.model_copy(update={"traffic": traffic, "limits": {
            "v1-a": EndpointLimits(body=1000, request=10), "v2-b": EndpointLimits(body=2000, request=5, requests=7),
        }})  # fmt: skip
        found = gateways.resources("wine", known)
        route, _, measured = json.loads(found["routes"])
        breakers = {
            one["name"]: one["circuit_breakers"]["thresholds"][0]["max_requests"]
            for one in json.loads(found["clusters"])
        }
        assert breakers == {"wine--v1-a": 500, "ask--wine--v1-a": 500, "wine--v2-b": 7, "ask--wine--v2-b": 7}
        assert [one["route"]["timeout"] for one in json.loads(found["inside"])] == ["10s", "5s"]
        (most,) = (one["buffer"]["max_request_bytes"] for one in measured["typed_per_filter_config"].values())
        return most, route["match"]["headers"][0]["range_match"]["end"], route["route"]["timeout"]

    assert told(Traffic.all_to("v1-a")) == (1000, 1001, "10s")
    assert told(Traffic.all_to("v2-b")) == (2000, 2001, "5s")
    steps = [Traffic.split("v1-a", "v2-b", share) for share in (1, 500, 9999)]
    assert {told(one) for one in (*steps, Traffic.all_to("v1-a", Mirror(revision="v2-b", share=1)))} == {
        (2000, 2001, "10s")
    }, "a step changes nothing"


def test_the_workers_account_may_do_what_a_release_needs_and_no_more():
    written = list(yaml.safe_load_all((ROOT / "ops/kubernetes/worker.yaml").read_text()))
    assert yaml.safe_load(preflight.role(IN_MODELS)) in written


@pytest.mark.parametrize("kserve", [None, {"mode": "Standard"}])
def test_the_kubelet_reads_secrets_and_no_manifest_has_them(kserve):
    settings = KubernetesSettings(kind="kubernetes", captures="s3://bucket/live", kserve=kserve)
    given = {"TOKEN": "secret:wine/token", "DB_PASSWORD": "secret:db.prod/pass.word"}
    objects = made(settings, secrets=given)
    (pod,) = (spec for kind, one in objects.items() if (spec := _pod_of(kind, one)))
    server, log = pod["containers"]
    assert [one for one in server["env"] if "valueFrom" in one] == [
        {"name": "DB_PASSWORD", "valueFrom": {"secretKeyRef": {"name": "db.prod", "key": "pass.word"}}},
        {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "wine", "key": "token"}}},
    ]
    # What ships the log needs none.
    assert not [one for one in log["env"] if "valueFrom" in one]


def _pod_of(kind, made_object):
    if kind == "deployments":
        return made_object["spec"]["template"]["spec"]
    return made_object["spec"]["predictor"] if kind == "inferenceservices" else None
