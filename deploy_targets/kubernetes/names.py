"""What is called how in a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deploy_targets.kubernetes import kserve
from deploy_targets.kubernetes.steering.files import ENDPOINT, PORT, REVISION
from headgate.errors import TargetError

if TYPE_CHECKING:
    from collections.abc import Mapping

MANAGER = "headgate"
"""The field manager, and who everything is managed by."""
MANAGED = "app.kubernetes.io/managed-by"
VERSION, PODS, MOST, SCALER = "headgate.io/version", "headgate.io/pods", "headgate.io/most-pods", "headgate.io/scaler"
"""What a Deployment notes: what it serves, how many pods it has with all traffic at least, and, where their number
follows the load, at most, and what has it do so if that is not Kubernetes' own autoscaler."""
STATE = "headgate.io/state"
"""What an endpoint's object knows."""
GATEWAY = "headgate-gateway"
GATEWAY_LABELS = {"app.kubernetes.io/name": GATEWAY}
INSIDE_PORT = 9902
"""Of a gateway's pod: what tells of its Envoy, and asks single revisions."""
ADMIN_PORT = 9901
SERVERS = ("server", kserve.SERVER)
"""What the container of a model server is called: in pods of our own Deployments, and in KServe's."""

_LONGEST = 63
_KINDS = {
    "configmaps": "ConfigMap",
    "deployments": "Deployment",
    "horizontalpodautoscalers": "HorizontalPodAutoscaler",
    "httproutes": "HTTPRoute",
    "inferenceservices": "InferenceService",
    "networkpolicies": "NetworkPolicy",
    "poddisruptionbudgets": "PodDisruptionBudget",
    "rolebindings": "RoleBinding",
    "roles": "Role",
    "serviceaccounts": "ServiceAccount",
    "scaledobjects": "ScaledObject",
    "services": "Service",
}

__all__ = ["ENDPOINT", "PORT", "REVISION"]


def of_revision(endpoint: str, revision: str) -> str:
    """The name of all objects of a revision; clusters in Envoy are called so too.

    Raises:
        TargetError: it is too long for a Service, or does not begin with a letter.
    """
    name = f"{endpoint}--{revision}"
    if len(name) > _LONGEST or not name[0].isalpha():
        raise TargetError(
            f"Kubernetes takes names of up to {_LONGEST} characters that begin with a letter, not {name}",
            fix="choose another `endpoint:` in the release file",
        )
    return name


def of_endpoint(endpoint: str) -> str:
    """The name of an endpoint's ConfigMap."""
    # With a point, which no name of the gateway has.
    return f"headgate.{endpoint}"


def object_of(
    kind: str, path: str, namespace: str, name: str, labelled: Mapping[str, str], noted: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """What every manifest begins with.

    Args:
        kind: as paths have it, such as deployments.
        path: where the cluster has that kind, such as /apis/apps/v1.
        namespace: where.
        name: its.
        labelled: its labels.
        noted: its annotations.
    """
    return {
        "apiVersion": path.removeprefix("/apis/").removeprefix("/api/"), "kind": _KINDS[kind],
        "metadata": {"name": name, "namespace": namespace, "labels": dict(labelled),
                     **({"annotations": dict(noted)} if noted else {})},
    }  # fmt: skip


def image(reference: str) -> str:
    """An image as nodes know it: by digest, or, where it is in a Docker daemon only, by the name that it has there."""
    kind, _, digest = reference.partition(":")
    return f"headgate:{digest[:12]}" if kind == "sha256" else reference


def labels(endpoint: str, revision: str = "", more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Of everything that belongs to an endpoint, or to one of its revisions."""
    return {
        **(more or {}), MANAGED: MANAGER, ENDPOINT: endpoint, **({REVISION: revision} if revision else {}),
    }  # fmt: skip


def port(name: str, number: int, *, of_container: bool = False) -> dict[str, Any]:
    """A port of a Service, or of a container; with its protocol, without which old servers apply nothing."""
    told = {"containerPort": number} if of_container else {"port": 80, "targetPort": number}
    return {"name": name, "protocol": "TCP", **told}


def selector(chosen: Mapping[str, str]) -> str:
    """Labels as the API takes them."""
    return ",".join(f"{name}={value}" for name, value in sorted(chosen.items()))
