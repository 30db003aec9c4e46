"""The Helm chart as Helm renders it, and the pods of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from helm_python import Chart

from deploy_targets.kubernetes import gateway

CHART = Path(__file__).parents[2] / "ops" / "helm" / "headgate"
VALUES, SCHEMA = CHART / "values.yaml", CHART / "values.schema.json"
DIGEST = f"sha256:{'ab' * 32}"
LEAST = {"image": {"repository": "registry.example/headgate"}}
_WAYS = {
    "ingress": {
        "enabled": True, "className": "nginx", "annotations": {"auth": "oauth2"}, "host": "NAME.example",
        "tls": [{"secretName": "NAME-tls", "hosts": ["NAME.example"]}],
    },
    "httpRoute": {
        "enabled": True, "annotations": {"a": "b"}, "parentRefs": [{"name": "public", "namespace": "edge"}],
        "hostnames": ["NAME.other.example"],
    },
    "service": {"type": "LoadBalancer", "annotations": {"internal": "true"}},
    "resources": {"requests": {"cpu": 1}, "limits": {"memory": "2Gi"}},
}  # fmt: skip
_OWN = {"resources": {"requests": {"cpu": "50m", "memory": "1Gi"}, "limits": {"memory": "1Gi"}}}


def _ways(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(_WAYS).replace("NAME", name))
    return found


MUCH: dict[str, Any] = {
    "image": {"repository": "registry.example/headgate", "digest": DIGEST, "pullSecrets": ["registry"]},
    "existingSecret": "mine", "database": {"host": "db.example", "port": 6432},
    "prefect": _ways("prefect"),
    "mlflow": {"artifacts": "s3://bucket/mlflow", "allowedHosts": "mlflow.example,mlflow:5000", **_ways("models")},
    "receiver": {**_OWN, "service": {"type": "NodePort"}}, "guard": _OWN, "jobs": _OWN,
    "worker": {
        "type": "process", "pool": "mine", "env": {"AWS_REGION": "eu-west-1"}, "annotations": {"role": "arn"},
        "envFrom": [{"secretRef": {"name": "keys"}}], "graceSeconds": 1200,
        "volumes": [{"name": "log", "persistentVolumeClaim": {"claimName": "captures"}}],
        "volumeMounts": [{"name": "log", "mountPath": "/live"}],
    },
    "targets": [{"namespace": "models", "gatewayApi": True, "keda": True}, {"namespace": "others", "kserve": True}],
    "gateway": {
        "image": "registry.example/gateway@sha256:ab", "replicas": 3, **_OWN,
        "limits": {"connections": 5000, "memoryMiB": 512, "headersKiB": 64},
        "timeouts": {"headersSeconds": 2.5, "uploadSeconds": 300, "idleSeconds": 610, "drainSeconds": 120},
    },
    "networkPolicies": {
        "enabled": True, "ports": [443], "egress": [{"to": [{"ipBlock": {"cidr": "10.1.0.0/16"}}]}],
        "clients": [{"namespaceSelector": {"matchLabels": {"name": "edge"}}}],
        "monitoring": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}],
    },
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}, "interval": "15s"},
    "nodeSelector": {"pool": "system"}, "tolerations": [{"key": "a", "operator": "Exists"}],
    "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 1, "podAffinityTerm": {"topologyKey": "zone", "labelSelector": {"matchLabels": {"a": "b"}}}},
    ]}},
    "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"},
        {"maxSkew": 2, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
         "labelSelector": {"matchLabels": {"own": "1"}}},
    ],
    "hostAliases": [{"ip": "10.0.0.1", "hostnames": ["db.example"]}],
}  # fmt: skip
CLOSED: dict[str, Any] = {
    **LEAST, "networkPolicies": {"enabled": True}, "database": {"image": f"postgres@{DIGEST}", **_OWN},
    "worker": {"envFrom": [{"configMapRef": {"name": "more"}}]},
}  # fmt: skip
"""With network policies, and the database that the chart starts."""

Objects = dict[tuple[str, str, str], dict[str, Any]]


def texts(values: dict[str, Any], folder: Path = CHART, revision: int = 1) -> dict[str, str]:
    """What Helm makes of the chart's templates, by their path.

    Args:
        values: as a person gives them.
        folder: of the chart.
        revision: of the release.
    """
    with Chart.load(folder) as chart:
        return chart.render(values=values, name="hg", namespace=NAMESPACE, revision=revision)


NAMESPACE = "headgate"
"""Of the release."""


def rendered(values: dict[str, Any], folder: Path = CHART, revision: int = 1) -> Objects:
    """The objects in it, by kind, namespace and name; the release's own namespace is the empty one."""
    made = texts(values, folder, revision)
    found = [one for name, text in made.items() if not name.endswith(".txt") for one in yaml.safe_load_all(text)]
    return {(one["kind"], _elsewhere(one["metadata"]), one["metadata"]["name"]): one for one in found if one}


def _elsewhere(metadata: dict[str, Any]) -> str:
    """The namespace of an object, where it is not the release's; `kubectl apply` needs one in each."""
    namespace = str(metadata["namespace"])
    return "" if namespace == NAMESPACE else namespace


def pods(found: Objects) -> dict[str, dict[str, Any]]:
    """The pod template of each program of the release, by its component; the gateway's has tests of its own."""
    templates = [
        one["spec"]["template"] for (kind, _, name), one in found.items()
        if kind in ("Deployment", "StatefulSet", "Job") and name != gateway.GATEWAY
    ]  # fmt: skip
    pool = json.loads(found["ConfigMap", "", "hg-pool"]["data"]["template.json"])
    templates.append(pool["job_configuration"]["job_manifest"]["spec"]["template"])
    return {one["metadata"]["labels"]["app.kubernetes.io/component"]: one for one in templates}


def container(pod: dict[str, Any]) -> dict[str, Any]:
    """The one container of a pod template."""
    (one,) = pod["spec"]["containers"]
    return dict(one)


def environment(pod: dict[str, Any]) -> dict[str, str]:
    """Its variables that have a value, and not a reference to one."""
    return {one["name"]: one["value"] for one in container(pod)["env"] if "value" in one}


def job(found: Objects, component: str) -> dict[str, Any]:
    """The one Job of a component."""
    jobs = [manifest for (kind, _, _), manifest in found.items() if kind == "Job"]
    labelled = {one["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"]: one for one in jobs}
    assert len(labelled) == len(jobs)
    return labelled[component]
