"""The Helm chart: Helm itself lints and renders it, and what it renders is what Kubernetes and Prefect take."""

from __future__ import annotations

import json
import shutil

import kubernetes_validate
import pytest
import yaml
from helm_python.chart import lint
from mlflow.server.security_utils import should_block_cors_request
from prefect.client.schemas.objects import FlowRun
from prefect.utilities.templating import apply_values
from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration
from support import crds
from support.chart import CHART, CLOSED, DIGEST, LEAST, MUCH, container, environment, job, pods, rendered

from deploy_targets.kubernetes import gateway, preflight
from deploy_targets.kubernetes.settings import KServe, KubernetesSettings
from headgate.limits import (
    GATEWAY_CONNECTIONS,
    GATEWAY_DRAIN,
    GATEWAY_HEADER_SIZE,
    GATEWAY_HEADERS,
    GATEWAY_IDLE,
    GATEWAY_MEMORY,
    GATEWAY_UPLOAD,
)
from headgate.stack.programs import LEASE_STORAGE

EACH = pytest.mark.parametrize("values", [LEAST, MUCH, CLOSED], ids=["least", "much", "closed"])
SET = {
    GATEWAY_CONNECTIONS: "5000", GATEWAY_MEMORY: "512", GATEWAY_HEADER_SIZE: "64", GATEWAY_HEADERS: "2.5",
    GATEWAY_UPLOAD: "300", GATEWAY_IDLE: "610", GATEWAY_DRAIN: "120",
}  # fmt: skip
"""What the gateway's values in MUCH say, as variables."""
VALIDATED_BY_THEIR_OWN = {"HTTPRoute", "ServiceMonitor"}


@EACH
def test_it_is_good_helm(values):
    report = lint(CHART, values, strict=True, namespace="headgate")
    assert report["errors"] == []
    assert {one["error"] for one in report["messages"]} <= {"icon is recommended"}


@pytest.mark.parametrize("version", ["1.25", "1.37"])
@EACH
def test_every_manifest_is_one_of_the_api(values, version):
    for manifest in rendered(values).values():
        if manifest["kind"] in VALIDATED_BY_THEIR_OWN:
            crds.validate(manifest)
        else:
            kubernetes_validate.validate(manifest, version, strict=True)


def test_what_has_a_definition_of_its_own_is_checked_too():
    found = rendered(MUCH)
    assert {kind for kind, _, _ in found} >= VALIDATED_BY_THEIR_OWN
    for kind, name in (("ServiceMonitor", "hg-receiver"), ("HTTPRoute", "hg-prefect")):
        manifest = found[kind, "", name]
        with pytest.raises(crds.InvalidError, match="unknown"):
            crds.validate({**manifest, "spec": {**manifest["spec"], "unknown": 1}})


@EACH
def test_every_object_names_its_namespace(values):
    """Objects of `targets` are in others, so that `kubectl apply` takes them all with no namespace of its own only."""
    found = rendered(values)
    targets = {one["namespace"] for one in values.get("targets", [])}
    assert {namespace for _, namespace, _ in found} == {"", *targets}
    assert {(kind, name) for kind, namespace, name in found if namespace} <= {
        ("Role", "headgate-release"), ("RoleBinding", "headgate-release"),
    }  # fmt: skip


def test_none_are_started_where_none_are_wanted():
    found = rendered({**LEAST, "worker": {"replicas": 0}})
    assert found["Deployment", "", "hg-worker"]["spec"]["replicas"] == 0


@EACH
def test_pods_keep_to_the_restricted_standard(values):
    for component, pod in pods(rendered(values)).items():
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        assert pod["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        wanted = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        if component != "postgresql":
            wanted["readOnlyRootFilesystem"] = True
        assert container(pod)["securityContext"] == wanted


def test_only_who_asks_the_api_server_has_an_account():
    found = {name: pod["spec"] for name, pod in pods(rendered(LEAST)).items()}
    accounts = {name: spec["serviceAccountName"] for name, spec in found.items() if "serviceAccountName" in spec}
    assert accounts == {
        "worker": "hg-worker", "guard": "hg-worker", "flow-run": "hg-worker", "first-secret": "hg-first-secret",
    }  # fmt: skip
    for name in found.keys() - accounts.keys():
        assert found[name]["automountServiceAccountToken"] is False


def test_a_target_gets_the_rules_of_its_role_and_no_more():
    found = rendered(MUCH)

    def rules(namespace):
        return found["Role", namespace, "headgate-release"]["rules"]

    of_namespace = KubernetesSettings(
        kind="kubernetes", captures="s3://b/live", namespace="others", kserve=KServe(mode="Standard")
    )
    assert rules("others") == yaml.safe_load(preflight.role(of_namespace))["rules"]
    more = KubernetesSettings.model_validate({
        "kind": "kubernetes", "captures": "s3://b/live", "namespace": "models",
        "gateway": {"name": "g", "hostname": "h"}, "keda": {"triggers": [{"type": "cpu", "metadata": {}}]},
    })  # fmt: skip
    assert rules("models") == yaml.safe_load(preflight.role(more))["rules"]
    binding = found["RoleBinding", "models", "headgate-release"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "hg-worker", "namespace": "headgate"}]


GATEWAY_OF = {**LEAST, "gateway": {"image": "registry.example/gateway@sha256:ab"}}


def of_the_command_line(image, replicas, values, monkeypatch, **limits):
    """What `headgate gateway` prints where variables set its limits, with the chart's own settings of its pods."""
    for name, value in limits.items():
        monkeypatch.setenv(name, value)
    settings = KubernetesSettings(kind="kubernetes", captures="s3://b/live", namespace="headgate")
    for wanted in gateway.manifests(settings, image, replicas):
        if wanted["kind"] == "Deployment":
            pod = wanted["spec"]["template"]["spec"]
            placed = values.keys() & {"nodeSelector", "tolerations", "affinity", "hostAliases"}
            pod |= {key: values[key] for key in placed}
            if secrets := values["image"].get("pullSecrets"):
                pod["imagePullSecrets"] = [{"name": one} for one in secrets]
            (envoy,) = (one for one in pod["containers"] if one["name"] == "envoy")
            envoy["resources"] = values["gateway"].get("resources", envoy["resources"])
        yield wanted


def test_its_gateway_is_that_of_the_command_line(monkeypatch):
    found = rendered(MUCH)
    of = {"image": MUCH["gateway"]["image"], "replicas": 3, "values": MUCH, "monkeypatch": monkeypatch}
    for wanted in of_the_command_line(**of, **SET):
        assert found[wanted["kind"], "", wanted["metadata"]["name"]] == wanted
    assert not [name for _, _, name in rendered(LEAST) if name == gateway.GATEWAY]


@pytest.mark.parametrize(("limits", "variables"), [
    ({}, {}),
    ({"limits": {"memoryMiB": 64}}, {GATEWAY_MEMORY: "64"}),
    ({"limits": {"memoryMiB": 1500}}, {GATEWAY_MEMORY: "1500"}),
    ({"limits": {"connections": 1_000_000, "memoryMiB": 1_048_576}},
     {GATEWAY_CONNECTIONS: "1000000", GATEWAY_MEMORY: "1048576"}),
    ({"timeouts": {"headersSeconds": 0.1, "uploadSeconds": 100, "idleSeconds": 86_400, "drainSeconds": 3600}},
     {GATEWAY_HEADERS: "0.1", GATEWAY_UPLOAD: "100", GATEWAY_IDLE: "86400", GATEWAY_DRAIN: "3600"}),
], ids=["default", "little memory", "some memory", "much", "timeouts"])  # fmt: skip
def test_the_gateways_limits_are_those_of_the_variables(limits, variables, monkeypatch):
    values = {**GATEWAY_OF, "gateway": {**GATEWAY_OF["gateway"], **limits}}
    found = rendered(values)
    for wanted in of_the_command_line(values["gateway"]["image"], 2, values, monkeypatch, **variables):
        assert found[wanted["kind"], "", wanted["metadata"]["name"]] == wanted


def test_a_pool_of_kubernetes_starts_a_job_for_each_flow_run_with_secrets_by_reference():
    found = rendered({**LEAST, "worker": {"env": {"AWS_REGION": "eu-west-1"}}})
    template = json.loads(found["ConfigMap", "", "hg-pool"]["data"]["template.json"])
    names, manifest = template["variables"]["properties"], template["job_configuration"]["job_manifest"]
    assert names["image"]["default"] == "registry.example/headgate:0.1.0"
    assert names["env"]["default"]["PREFECT_API_URL"] == "http://hg-prefect:4200/api"
    placeholders = {part.split(" }}")[0] for part in json.dumps(template["job_configuration"]).split("{{ ")[1:]}
    assert placeholders <= names.keys()
    assert manifest["spec"]["template"]["spec"]["serviceAccountName"] == "hg-worker"
    # As Prefect's worker does it, which asks its server besides.
    given = {name: one["default"] for name, one in names.items() if "default" in one} | {"name": "release"}
    given["env"] = {**given["env"], "OF_THE_DEPLOYMENT": "1"}
    prepared = KubernetesWorkerJobConfiguration(**apply_values(template["job_configuration"], given))
    prepared.prepare_for_flow_run(FlowRun(flow_id="00000000-0000-0000-0000-000000000000"))
    (made,) = prepared.job_manifest["spec"]["template"]["spec"]["containers"]
    assert made["image"] == "registry.example/headgate:0.1.0"
    by_name = {one["name"]: one for one in made["env"]}
    assert len(by_name) == len(made["env"]), "each variable is there once"
    assert by_name["HEADGATE_JOURNAL_URL"] == {
        "name": "HEADGATE_JOURNAL_URL",
        "valueFrom": {"secretKeyRef": {"name": "hg-secrets", "key": "HEADGATE_JOURNAL_URL"}},
    }
    assert {by_name[name]["value"] for name in ("AWS_REGION", "OF_THE_DEPLOYMENT")} == {"eu-west-1", "1"}
    for left_out in ("completions", "parallelism"):
        prepared.job_manifest["spec"]["template"]["spec"].pop(left_out)
    kubernetes_validate.validate(prepared.job_manifest, "1.37", strict=True)


def test_the_servers_keep_what_the_local_stack_has_them_keep():
    found = pods(rendered(LEAST))
    assert environment(found["prefect"])["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"] == LEASE_STORAGE
    assert "hg-mlflow:5000" in environment(found["mlflow"])["MLFLOW_SERVER_ALLOWED_HOSTS"]
    assert "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS" not in environment(found["mlflow"])
    assert environment(found["receiver"])["HEADGATE_RECEIVER_PORT"] == "8000"


def test_mlflow_answers_browsers_by_the_names_that_it_is_given():
    known = environment(pods(rendered(MUCH))["mlflow"])
    names = {"models.example", "models.other.example", "mlflow.example", "mlflow:5000"}
    assert names <= set(known["MLFLOW_SERVER_ALLOWED_HOSTS"].split(","))
    origins = known["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"].split(",")
    assert set(origins) == {f"{scheme}://{name}" for scheme in ("http", "https") for name in names}
    assert not should_block_cors_request("https://models.example", "POST", origins)
    assert should_block_cors_request("https://elsewhere.example", "POST", origins)


def test_images_are_named_by_tag_or_by_digest():
    found = {name: container(pod)["image"] for name, pod in pods(rendered(MUCH)).items() if name != "flow-run"}
    assert set(found.values()) == {f"registry.example/headgate@{DIGEST}"}
    tagged = rendered({"image": {"repository": "registry.example/headgate", "tag": "9"}})
    assert container(pods(tagged)["guard"])["image"] == "registry.example/headgate:9"
    assert container(pods(rendered(CLOSED))["postgresql"])["image"] == f"postgres@{DIGEST}"


def test_an_upgrade_of_the_chart_alone_starts_no_pod_anew(tmp_path):
    newer = tmp_path / "headgate"
    shutil.copytree(CHART, newer)
    file = newer / "Chart.yaml"
    file.write_text(file.read_text().replace("\nversion: 0.1.0", "\nversion: 0.2.0+build"))
    for values in (LEAST, CLOSED, MUCH):
        old, new = rendered(values), rendered(values, newer)
        assert pods(new) == pods(old)
        assert new.keys() == old.keys(), "the names of Jobs are made of their pods"
    labels = new["Deployment", "", "hg-worker"]["metadata"]["labels"]
    assert labels["helm.sh/chart"] == "headgate-0.2.0_build"


def test_helm_connects_anew_at_each_upgrade_and_others_where_it_would_do_something_else():
    def names(values, revision=1):
        found = rendered(values, revision=revision)
        return [job(found, one)["metadata"]["name"] for one in ("connect", "first-secret")]

    first, (again, _) = names(LEAST), names(LEAST, 2)
    assert first[0].startswith("hg-connect-1-")
    assert again.startswith("hg-connect-2-")
    other = names({"image": {"repository": "registry.example/headgate", "tag": "9"}})
    assert not set(other) & set(first), "a Job that ran cannot be changed"
    more = names({**LEAST, "worker": {"home": "30Gi"}})
    assert (more[0] != first[0], more[1]) == (True, first[1]), "the pool is another, the Secret is not"


def test_pods_are_put_where_values_say():
    found = pods(rendered(MUCH))
    for component, pod in found.items():
        spec = pod["spec"]
        for key in ("nodeSelector", "tolerations", "affinity", "hostAliases"):
            assert spec[key] == MUCH[key]
        if component in ("connect", "first-secret"):
            continue
        own, said = (one["labelSelector"]["matchLabels"] for one in spec["topologySpreadConstraints"])
        assert own.items() <= pod["metadata"]["labels"].items()
        assert own["app.kubernetes.io/component"] == component
        assert said == {"own": "1"}


def test_each_program_has_its_own_resources():
    of = {"prefect": "prefect", "mlflow": "mlflow", "receiver": "receiver", "guard": "guard", "worker": "worker",
          "flow-run": "worker", "connect": "jobs", "first-secret": "jobs", "postgresql": "database"}  # fmt: skip
    assert pods(rendered(LEAST)).keys() == of.keys()
    for component, name in of.items():
        values = {**LEAST, name: {"resources": {"limits": {"memory": "77Mi"}}}}
        found = {key: container(pod)["resources"] for key, pod in pods(rendered(values)).items()}
        assert {key for key, one in found.items() if "limits" in one} == {key for key, one in of.items() if one == name}
        assert found[component]["limits"] == {"memory": "77Mi"}
