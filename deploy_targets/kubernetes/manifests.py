"""What a revision is in a cluster, as manifests: nothing here asks anybody.

Sources: https://kubernetes.io/docs/reference/kubernetes-api, and for the security of pods the `restricted` standard,
https://kubernetes.io/docs/concepts/security/pod-security-standards.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from deploy_targets.kubernetes import kserve, names, scaling
from deploy_targets.kubernetes.names import ENDPOINT, PORT, REVISION
from headgate.references import CLUSTER

if TYPE_CHECKING:
    from collections.abc import Callable

    from deploy_targets.kubernetes.settings import KubernetesSettings
    from headgate.records import Revision

SCRATCH = "/var/lib/headgate"
KINDS = ("deployments", "services", "poddisruptionbudgets", "networkpolicies", "horizontalpodautoscalers")
"""What a revision consists of, in the order in which it is made; with KServe an InferenceService is the first."""

_STRATEGY = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
_USER = 65532
_PROBE_SECONDS = 2
_LEAVE = "import time; time.sleep(5)"
"""From the moment that a pod is told to end until its server stops to take requests: nobody knows of it at once."""
_DRAIN_SECONDS = 45
_PATIENCE_SECONDS = 30
_OF_LOG = {"cpu": "25m", "memory": "96Mi"}
_LOG_BYTES, _SCRATCH_BYTES, _TMP_SIZE = 2**30, 2**30, "256Mi"
"""What a log has where the release file says nothing, what a server may write besides, and what it may under /tmp."""


def of_revision(
    settings: KubernetesSettings, endpoint: str, revision: Revision, pods: int, path_of: Callable[[str], str]
) -> list[tuple[str, dict[str, Any]]]:
    """The kind and the manifest of each object of a revision.

    Args:
        settings: of the target.
        endpoint: where.
        revision: which.
        pods: how many there are to be.
        path_of: where the cluster has a kind, which depends on its version.
    """
    # Until it has all traffic it is not to be without a pod.
    least = max(1, min(pods, revision.workers))
    if settings.kserve is None:
        servers = {"deployments": _deployment(settings, endpoint, revision, pods)}
    else:
        pod, count = _pod(settings, endpoint, revision), least if revision.most_workers else pods
        servers = {kserve.INFERENCE_SERVICES: kserve.spec(settings, revision, count, pod, _STRATEGY)}
    made = {
        **servers, "services": _service(endpoint, revision), "poddisruptionbudgets": _budget(endpoint, revision),
        "networkpolicies": _network(endpoint, revision),
    }  # fmt: skip
    wanted = {kind: spec for kind, spec in made.items() if kind != "networkpolicies" or _is_closed(settings)}
    if revision.most_workers and settings.kserve is None:
        wanted[scaling.kind_for(settings)] = scaling.spec(settings, endpoint, revision, least)
    name = names.of_revision(endpoint, revision.name)
    return [(kind, _object(kind, path_of(kind), name, settings, endpoint, revision) | {"spec": spec})
            for kind, spec in wanted.items()]  # fmt: skip


def _object(
    kind: str, path: str, name: str, settings: KubernetesSettings, endpoint: str, revision: Revision
) -> dict[str, Any]:
    labels, noted = names.labels(endpoint, revision.name, settings.labels), _noted(settings, revision)
    if kind == kserve.INFERENCE_SERVICES and settings.kserve is not None:
        kserve.deployment(name)
        labels, noted = labels | kserve.LABELS, noted | kserve.noted(settings.kserve.mode, revision)
    elif kind != "deployments":
        noted = {}
    return names.object_of(kind, path, settings.namespace, name, labels, noted)


def _is_closed(settings: KubernetesSettings) -> bool:
    """Only of our own gateway is it known who may come."""
    return settings.network_policy and settings.gateway is None


def _noted(settings: KubernetesSettings, revision: Revision) -> dict[str, str]:
    """What is read back from what makes the pods."""
    scaler = scaling.kind_for(settings)
    most = {names.MOST: str(revision.most_workers)} if revision.most_workers else {}
    most |= {names.SCALER: scaler} if most and scaler != scaling.HPA else {}
    return {names.VERSION: revision.version.model_dump_json(), names.PODS: str(revision.workers), **most}


def _chosen(endpoint: str, revision: Revision) -> dict[str, str]:
    return {ENDPOINT: endpoint, REVISION: revision.name}


def _deployment(settings: KubernetesSettings, endpoint: str, revision: Revision, pods: int) -> dict[str, Any]:
    chosen = _chosen(endpoint, revision)
    return {
        # With an autoscaler the number is that one's, and not in what we apply.
        **({} if revision.most_workers else {"replicas": pods}),
        "revisionHistoryLimit": 0,
        "progressDeadlineSeconds": math.ceil(revision.ready_timeout) + 600,
        "selector": {"matchLabels": chosen},
        "strategy": _STRATEGY,
        "template": {
            "metadata": {"labels": names.labels(endpoint, revision.name, settings.labels)},
            "spec": _pod(settings, endpoint, revision),
        },
    }  # fmt: skip


def _pod(settings: KubernetesSettings, endpoint: str, revision: Revision) -> dict[str, Any]:
    mounts = [{"name": "scratch", "mountPath": SCRATCH}, {"name": "tmp", "mountPath": "/tmp"}]  # noqa: S108 - its own
    volumes: list[dict[str, Any]] = [
        # Whose pod writes more is evicted.
        {"name": "scratch", "emptyDir": {"sizeLimit": str(_log_bytes(revision) + _SCRATCH_BYTES)}},
        {"name": "tmp", "emptyDir": {"sizeLimit": _TMP_SIZE}},
    ]
    shared = []
    if settings.captures_claim:
        folder = settings.captures.removeprefix("file://")
        shared = [{"name": "captures", "mountPath": folder}]
        volumes.append({"name": "captures", "persistentVolumeClaim": {"claimName": settings.captures_claim}})
    servers = [
        _with_secrets(_container(settings, endpoint, revision), revision)
        | _serving(settings, revision)
        | {"volumeMounts": mounts},
        _container(settings, endpoint, revision)
        | {
            "name": "log",
            "command": ["python3", "-m", f"{revision.image.server}.ship"],
            "resources": {"requests": _OF_LOG},
            "volumeMounts": [*mounts, *shared],
        },
    ]
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": _DRAIN_SECONDS,
        "securityContext": {
            "runAsNonRoot": True, "runAsUser": _USER, "runAsGroup": _USER, "fsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        **({"serviceAccountName": settings.service_account} if settings.service_account else {}),
        **({"imagePullSecrets": [{"name": one} for one in settings.pull_secrets]} if settings.pull_secrets else {}),
        **settings.scheduling,
        "topologySpreadConstraints": [
            {
                "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": _chosen(endpoint, revision)},
            }
        ],
        "containers": servers,
        "volumes": volumes,
    }  # fmt: skip


def _log_bytes(revision: Revision) -> int:
    """What the server is told to keep of its log (headgate/capture.py)."""
    return int(revision.env.get("HEADGATE_LOG_KEEP", _LOG_BYTES))


def _container(settings: KubernetesSettings, endpoint: str, revision: Revision) -> dict[str, Any]:
    env = {
        # A second worker's memory would have the autoscaler start pods that no request asks for.
        **({"HEADGATE_SERVER_WORKERS": "1"} if settings.memory_target is not None else {}),
        **revision.env, "HEADGATE_WORKERS": "1", "HEADGATE_REVISION": revision.name, "HEADGATE_ENDPOINT": endpoint,
        "HEADGATE_SCRATCH": SCRATCH, "HEADGATE_CAPTURES": settings.captures, "PORT": str(PORT),
    }  # fmt: skip
    return {
        "image": names.image(revision.image.reference),
        "imagePullPolicy": settings.pull,
        "env": [{"name": name, "value": value} for name, value in sorted(env.items())],
        **({"envFrom": [{"secretRef": {"name": settings.secret}}]} if settings.secret else {}),
        "securityContext": {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        },
    }  # fmt: skip


def _with_secrets(container: dict[str, Any], revision: Revision) -> dict[str, Any]:
    """Have the kubelet read the secrets when it starts the container; only the names are in the manifest."""
    told = []
    for name, reference in sorted(revision.secrets.items()):
        secret, _, key = reference.removeprefix(f"{CLUSTER}:").partition("/")
        told.append({"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}})
    return {**container, "env": [*container["env"], *told]}


def _serving(settings: KubernetesSettings, revision: Revision) -> dict[str, Any]:
    ping = {"httpGet": {"path": "/ping", "port": PORT}, "timeoutSeconds": 2}
    return {
        "name": names.SERVERS[0],
        "ports": [names.port("http", PORT, of_container=True)],
        "resources": _resources(settings, revision),
        "startupProbe": {
            **ping, "periodSeconds": _PROBE_SECONDS,
            # Who releases it is to say first that it takes too long.
            "failureThreshold": math.ceil((revision.ready_timeout + _PATIENCE_SECONDS) / _PROBE_SECONDS),
        },
        "readinessProbe": {**ping, "periodSeconds": _PROBE_SECONDS, "failureThreshold": 2},
        "livenessProbe": {**ping, "timeoutSeconds": 5, "periodSeconds": 10, "failureThreshold": 6},
        "lifecycle": {"preStop": {"exec": {"command": ["python3", "-c", _LEAVE]}}},
    }  # fmt: skip


def _resources(settings: KubernetesSettings, revision: Revision) -> dict[str, Any]:
    asked = revision.resources
    found = {
        "cpu": f"{round(asked.cpu * 1000)}m" if asked.cpu else None,
        "memory": str(asked.memory) if asked.memory else None,
        settings.gpu_resource: str(asked.gpu) if asked.gpu else None,
    }
    limits = {name: value for name, value in found.items() if value is not None}
    # An autoscaler takes its percent of what is asked for.
    requests = {"cpu": "500m", **limits} if revision.most_workers else limits
    return {**({"limits": limits} if limits else {}), **({"requests": requests} if requests else {})}


def _service(endpoint: str, revision: Revision) -> dict[str, Any]:
    return {"selector": _chosen(endpoint, revision), "ports": [names.port("http", PORT)]}


def _budget(endpoint: str, revision: Revision) -> dict[str, Any]:
    """A node that is emptied takes one pod of it at a time."""
    return {"maxUnavailable": 1, "selector": {"matchLabels": _chosen(endpoint, revision)}}


def _network(endpoint: str, revision: Revision) -> dict[str, Any]:
    return {
        "podSelector": {"matchLabels": _chosen(endpoint, revision)},
        "policyTypes": ["Ingress"],
        "ingress": [
            {
                "from": [{"podSelector": {"matchLabels": names.GATEWAY_LABELS}}],
                "ports": [{"protocol": "TCP", "port": PORT}],
            }
        ],
    }
