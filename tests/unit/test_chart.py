"""The Helm chart: Helm itself lints and renders it, and what it renders is what Kubernetes and Prefect take."""

from __future__ import annotations

import json
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from helm_python import Chart, HelmError
from helm_python.chart import lint
from prefect.utilities.templating import apply_values
from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration

from deploy_targets.kubernetes import gateway, preflight
from deploy_targets.kubernetes.settings import KServe, KubernetesSettings
from headgate.stack.programs import LEASE_STORAGE

CHART = Path(__file__).parents[2] / "ops" / "helm" / "headgate"
LEAST = {"image": {"repository": "registry.example/headgate"}}
MUCH = {
    **LEAST,
    "image": {"repository": "registry.example/headgate", "tag": "9", "pullSecrets": ["registry"]},
    "existingSecret": "mine", "database": {"host": "db.example"},
    "mlflow": {"artifacts": "s3://bucket/mlflow", "allowedHosts": "mlflow.example"},
    "worker": {
        "type": "process", "pool": "mine", "env": {"AWS_REGION": "eu-west-1"}, "annotations": {"role": "arn"},
        "envFrom": [{"secretRef": {"name": "keys"}}],
        "volumes": [{"name": "log", "persistentVolumeClaim": {"claimName": "captures"}}],
        "volumeMounts": [{"name": "log", "mountPath": "/live"}],
    },
    "targets": [{"namespace": "models", "gatewayApi": True, "keda": True}, {"namespace": "others", "kserve": True}],
    "gateway": {"image": "registry.example/gateway@sha256:ab", "replicas": 3},
    "nodeSelector": {"pool": "system"}, "tolerations": [{"key": "a", "operator": "Exists"}],
    "hostAliases": [{"ip": "10.0.0.1", "hostnames": ["db.example"]}],
}  # fmt: skip


def rendered(values):
    with Chart.load(CHART) as chart:
        texts = chart.render(values=values, name="hg", namespace="headgate")
    found = [one for name, text in texts.items() if not name.endswith(".txt") for one in yaml.safe_load_all(text)]
    return {(one["kind"], one["metadata"].get("namespace", ""), one["metadata"]["name"]): one for one in found if one}


@pytest.mark.parametrize("values", [LEAST, MUCH], ids=["least", "much"])
def test_it_is_good_helm(values):
    report = lint(CHART, values, strict=True, namespace="headgate")
    assert report["errors"] == []
    assert {one["error"] for one in report["messages"]} <= {"icon is recommended"}


@pytest.mark.parametrize("version", ["1.25", "1.37"])
@pytest.mark.parametrize("values", [LEAST, MUCH], ids=["least", "much"])
def test_every_manifest_is_one_of_the_api(values, version):
    for manifest in rendered(values).values():
        kubernetes_validate.validate(manifest, version, strict=True)


def test_a_database_of_ones_own_needs_its_passwords():
    with pytest.raises(HelmError, match="existingSecret has to name a Secret"):
        rendered({**LEAST, "database": {"host": "db.example"}})


def test_none_are_started_where_none_are_wanted():
    found = rendered({**LEAST, "worker": {"replicas": 0}})
    assert found["Deployment", "", "hg-worker"]["spec"]["replicas"] == 0


def test_an_image_has_to_be_named():
    with pytest.raises(HelmError, match=r"image\.repository has to name an image"):
        rendered({})


@pytest.mark.parametrize("values", [LEAST, MUCH], ids=["least", "much"])
def test_pods_keep_to_the_restricted_standard(values):
    for (kind, _, name), manifest in rendered(values).items():
        if kind not in ("Deployment", "Job") or name == gateway.GATEWAY:
            continue
        pod = manifest["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
            }  # fmt: skip


def test_only_who_asks_the_api_server_has_an_account():
    found = {
        name: manifest["spec"]["template"]["spec"].get("serviceAccountName")
        for (kind, _, name), manifest in rendered(LEAST).items() if kind in ("Deployment", "Job")
    }  # fmt: skip
    assert {name for name, account in found.items() if account == "hg-worker"} == {"hg-worker", "hg-guard"}
    assert {found["hg-prefect"], found["hg-mlflow"], found["hg-receiver"], found["hg-connect-1"]} == {None}


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


def test_its_gateway_is_that_of_the_command_line():
    settings = KubernetesSettings(kind="kubernetes", captures="s3://b/live", namespace="headgate")
    found = rendered(MUCH)
    placed = {key: MUCH[key] for key in ("nodeSelector", "tolerations", "hostAliases")}
    placed["imagePullSecrets"] = [{"name": "registry"}]
    for wanted in gateway.manifests(settings, MUCH["gateway"]["image"], 3):
        if wanted["kind"] == "Deployment":
            wanted["spec"]["template"]["spec"].update(placed)
        assert found[wanted["kind"], "headgate", wanted["metadata"]["name"]] == wanted
    assert not [name for _, _, name in rendered(LEAST) if name == gateway.GATEWAY]


def test_a_pool_of_kubernetes_starts_a_job_for_each_flow_run_with_secrets_by_reference():
    found = rendered(LEAST)
    template = json.loads(found["ConfigMap", "", "hg-pool"]["data"]["template.json"])
    names, job = template["variables"]["properties"], template["job_configuration"]["job_manifest"]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["envFrom"] == [{"secretRef": {"name": "hg-secrets"}}]
    assert names["image"]["default"] == "registry.example/headgate:0.1.0"
    assert names["env"]["default"]["PREFECT_API_URL"] == "http://hg-prefect:4200/api"
    assert "JOURNAL" not in json.dumps(template)
    placeholders = {part.split(" }}")[0] for part in json.dumps(template["job_configuration"]).split("{{ ")[1:]}
    assert placeholders <= names.keys()
    assert job["spec"]["template"]["spec"]["serviceAccountName"] == "hg-worker"
    # As Prefect's worker does it, which asks its server besides.
    given = {name: one["default"] for name, one in names.items() if "default" in one} | {"name": "release"}
    prepared = KubernetesWorkerJobConfiguration(**apply_values(template["job_configuration"], given))
    (container,) = prepared.job_manifest["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.example/headgate:0.1.0"
    assert container["envFrom"] == [{"secretRef": {"name": "hg-secrets"}}]


def test_the_secrets_are_those_that_programs_read():
    secret = rendered(LEAST)["Secret", "", "hg-secrets"]["stringData"]
    password = secret["POSTGRES_PASSWORD"]
    assert secret["HEADGATE_JOURNAL_URL"] == f"postgresql+psycopg://headgate:{password}@hg-postgresql:5432/headgate"
    assert secret["PREFECT_API_DATABASE_CONNECTION_URL"].startswith("postgresql+asyncpg://")
    assert ("Secret", "", "hg-secrets") not in rendered(MUCH)


def test_the_servers_keep_what_the_local_stack_has_them_keep():
    found = rendered(LEAST)

    def environment(name):
        (container,) = found["Deployment", "", name]["spec"]["template"]["spec"]["containers"]
        return {one["name"]: one["value"] for one in container["env"]}

    assert environment("hg-prefect")["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"] == LEASE_STORAGE
    assert "hg-mlflow:5000" in environment("hg-mlflow")["MLFLOW_SERVER_ALLOWED_HOSTS"]
    assert environment("hg-receiver")["HEADGATE_RECEIVER_PORT"] == "8000"
