"""What makes a revision's pods follow the load: Kubernetes' own autoscaler, or KEDA, which also takes the last one.

Sources: https://kubernetes.io/docs/reference/kubernetes-api/autoscaling/horizontal-pod-autoscaler-v2,
https://keda.sh/docs/latest/reference/scaledobject-spec.
"""

from __future__ import annotations

from string import Template
from typing import TYPE_CHECKING, Any

from deploy_targets.kubernetes import names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deploy_targets.kubernetes.settings import Keda, KubernetesSettings
    from headgate.records import Revision

HPA, KEDA, KSERVE = "horizontalpodautoscalers", "scaledobjects", "inferenceservices"
"""The last is an autoscaler that KServe makes, of what an InferenceService says."""


def kind_for(settings: KubernetesSettings) -> str:
    """What new revisions are scaled by."""
    if settings.kserve is not None:
        return KSERVE
    return KEDA if settings.keda is not None else HPA


def kind_of(deployment: Mapping[str, Any]) -> str:
    """What a revision was made to be scaled by; empty where its number of pods does not follow the load."""
    noted = deployment["metadata"]["annotations"]
    return noted.get(names.SCALER, HPA) if names.MOST in noted else ""


def at_least(kind: str, pods: int) -> dict[str, int]:
    """The part of a scaler's spec that says how many pods it leaves; Kubernetes' own leaves one."""
    return {"minReplicaCount": pods} if kind == KEDA else {"minReplicas": max(1, pods)}


def spec(settings: KubernetesSettings, endpoint: str, revision: Revision, least: int) -> dict[str, Any]:
    """A scaler's, of the kind for new revisions."""
    called = {"ENDPOINT": endpoint, "REVISION": revision.name, "DEPLOYMENT": names.of_revision(endpoint, revision.name)}
    scaled = {"apiVersion": "apps/v1", "kind": "Deployment", "name": called["DEPLOYMENT"]}
    if settings.keda is not None:
        return {
            "scaleTargetRef": scaled, **at_least(KEDA, least), "maxReplicaCount": revision.most_workers,
            **_of_keda(settings.keda, called),
        }  # fmt: skip
    shares = {"cpu": settings.cpu_target, "memory": settings.memory_target}
    resources = [
        {"type": "Resource",
         "resource": {"name": name, "target": {"type": "Utilization", "averageUtilization": percent}}}
        for name, percent in shares.items() if percent is not None
    ]  # fmt: skip
    return {
        "scaleTargetRef": scaled, **at_least(HPA, least), "maxReplicas": revision.most_workers,
        "metrics": [*resources, *(_filled(one, called) for one in settings.metrics)],
    }  # fmt: skip


def _of_keda(keda: Keda, called: Mapping[str, str]) -> dict[str, Any]:
    return {
        "pollingInterval": round(keda.polling),
        "cooldownPeriod": round(keda.cooldown),
        "triggers": [
            {
                "type": one.type,
                "metadata": _filled(one.metadata, called),
                **({"authenticationRef": {"name": one.authentication}} if one.authentication else {}),
            }
            for one in keda.triggers
        ],
    }


def _filled(told: Any, called: Mapping[str, str]) -> Any:  # noqa: ANN401 - whatever YAML has
    """The same, with the names of what is scaled in its texts."""
    if isinstance(told, str):
        return Template(told).safe_substitute(called)
    if isinstance(told, dict):
        return {name: _filled(one, called) for name, one in told.items()}
    return [_filled(one, called) for one in told] if isinstance(told, list | tuple) else told
