"""A revision's servers as an InferenceService of KServe, in its Standard mode: KServe makes the Deployment.

Nothing here asks anybody. Sources: https://github.com/kserve/kserve at 0.21. Of its API, pkg/apis/serving/v1beta1, that
is component.go, predictor_custom.go and inference_service_validation.go; of its controller, reconcilers/deployment, hpa
and ingress.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headgate.errors import TargetError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deploy_targets.kubernetes.settings import KubernetesSettings
    from headgate.records import Revision

INFERENCE_SERVICES = "inferenceservices"
SERVER = "kserve-container"
"""The name of a model server's container; KServe takes none of another name for it."""
MODE, CLASS = "serving.kserve.io/deploymentMode", "serving.kserve.io/autoscalerClass"
LABELS = {"networking.kserve.io/visibility": "cluster-local"}
"""KServe makes no Ingress and no route of its own: clients would come by these past the gateway that splits them."""
TAKEN = frozenset({"PYTHONPATH", "STORAGE_URI", "PROTOCOL"})
"""What a server's environment cannot have: the first is refused since 0.18, by the others KServe is told to fetch a
model, and which of its protocols are spoken."""

_FIXED = {"Standard": "none", "RawDeployment": "external"}
"""By mode, the class at which KServe gives a Deployment `minReplicas` pods. Since KServe 0.16 that is `none`, and
`external` leaves them alone; before that `external` was the one."""
_FOLLOWS_LOAD = "hpa"
_SUFFIX, _PREFIX = "-predictor", "isvc."
_LONGEST = 63 - len(_PREFIX) - len(_SUFFIX)
"""KServe makes a label `isvc.NAME-predictor` of an InferenceService's name, and labels have 63 characters."""
_BROKEN = "False"


def deployment(name: str) -> str:
    """The name of the Deployment, and of the autoscaler, that KServe makes of an InferenceService.

    Raises:
        TargetError: the InferenceService's is too long for it.
    """
    if len(name) > _LONGEST:
        raise TargetError(
            f"KServe takes names of up to {_LONGEST} characters, not {name}, which has {len(name)}",
            fix="choose a shorter `endpoint:` in the release file",
        )
    return f"{name}{_SUFFIX}"


def owner(found: Mapping[str, Any]) -> str:
    """The InferenceService that KServe has made an object of; empty where it was made by somebody else."""
    owners = found["metadata"].get("ownerReferences", [])
    return next((str(one["name"]) for one in owners if one["kind"] == "InferenceService"), "")


def mode(found: Mapping[str, Any]) -> str:
    """The mode that an InferenceService was applied with, or is in by now."""
    return str(found["metadata"]["annotations"][MODE])


def noted(of_mode: str, revision: Revision) -> dict[str, str]:
    """By which KServe knows what to make of an InferenceService."""
    return {MODE: of_mode, CLASS: _FOLLOWS_LOAD if revision.most_workers else _FIXED[of_mode]}


def spec(
    settings: KubernetesSettings, revision: Revision, pods: int, pod: Mapping[str, Any], strategy: Mapping[str, Any]
) -> dict[str, Any]:
    """An InferenceService's.

    Args:
        settings: of the target.
        revision: which.
        pods: how many there are to be; where their number follows the load, at least.
        pod: the spec of a pod whose first container is the model server.
        strategy: by which the Deployment replaces its pods.
    """
    server, *others = pod["containers"]
    follows = {"maxReplicas": revision.most_workers, "scaleMetric": "cpu", "scaleTarget": settings.cpu_target}
    predictor = {
        **pod,
        "containers": [{**server, "name": SERVER}, *others],
        "deploymentStrategy": dict(strategy),
        **to_have(pods)["spec"]["predictor"],
        **(follows if revision.most_workers else {}),
    }
    return {"predictor": predictor}


def to_have(pods: int) -> dict[str, Any]:
    """The change of an InferenceService that has KServe, or its autoscaler, see to so many pods at least."""
    return {"spec": {"predictor": {"minReplicas": pods}}}


def says(found: Mapping[str, Any]) -> str:
    """Why an InferenceService is not well, in KServe's words; empty where it says nothing."""
    status = found.get("status", {})
    failure = status.get("modelStatus", {}).get("lastFailureInfo", {})
    told = [f"{failure.get('reason', '')}: {failure.get('message', '')}".strip(": ")] if failure else []
    told += [
        f"{one['type']} is {one['status']}: " + f"{one.get('reason', '')} {one.get('message', '')}".strip()
        for one in status.get("conditions", [])
        if one["status"] == _BROKEN and (one.get("reason") or one.get("message"))
    ]
    return "; ".join(told)
