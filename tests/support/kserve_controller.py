"""KServe's controller for tests, in its Standard mode: what InferenceServices say becomes Deployments, Services and
autoscalers.

It reads the fields of InferenceServices as KServe 0.21 documents them, and none of Headgate's notes. As KServe does, it
changes back what others have changed of a Deployment, tells of it in the InferenceService's status, keeps one that is
deleted until it has let go of it, and leaves what it has made to the cluster, by owner references.
"""

from __future__ import annotations

import copy
import logging
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from deploy_targets.kubernetes.api import Api
from headgate.errors import TargetError
from support import crds

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 0.1
_KIND = "inferenceservices"
_MANAGER, _FINALIZER = "kserve", "inferenceservice.finalizers"
_MODES = ("Standard", "RawDeployment")
_CLASSES = ("hpa", "kpa", "external", "keda", "none")
_SERVER, _PORT = "kserve-container", 8080
_CPU_PERCENT = 80
_DEFAULTS = {"requests": {"cpu": "10m", "memory": "64Mi"}}
"""What an operator has written into KServe's ConfigMap for servers that ask for nothing."""


@contextmanager
def controller(context: str, namespace: str) -> Iterator[Controller]:
    """One that runs."""
    running = Controller(Api(context, namespace))
    thread = threading.Thread(target=running.run)
    thread.start()
    try:
        yield running
    finally:
        running.stop.set()
        thread.join()


class Controller:
    """Makes of InferenceServices what they say, until it is stopped."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._seen: dict[str, Any] = {}
        self.stop = threading.Event()

    def run(self) -> None:
        while not self.stop.wait(_LOOK_SECONDS):
            try:
                found = self._api.list(_KIND, "")
                for one in found:
                    self._reconcile(one)
                there = {one["metadata"]["uid"] for one in found}
                self._seen = {uid: seen for uid, seen in self._seen.items() if uid in there}
            except TargetError as error:
                logger.warning("not reconciled: %s", error)

    def _reconcile(self, found: dict[str, Any]) -> None:
        metadata = found["metadata"]
        if metadata.get("annotations", {}).get("serving.kserve.io/deploymentMode") not in _MODES:
            return
        finalizers = metadata.get("finalizers", [])
        if "deletionTimestamp" in metadata:
            self._change(metadata["name"], {"metadata": {"finalizers": [x for x in finalizers if x != _FINALIZER]}})
            return
        if _FINALIZER not in finalizers:
            self._change(metadata["name"], {"metadata": {"finalizers": [*finalizers, _FINALIZER]}})
        if refused := refusal(found):
            self._tell(found, {"conditions": [_condition("PredictorReady", "False", "ReconcileFailed", refused)]})
            return
        deployment = self._api.find("deployments", f"{metadata['name']}-predictor")
        seen = self._version_of(found, deployment)
        if deployment is None or self._seen.get(metadata["uid"]) != seen:
            deployment = self._make(found)
            self._seen[metadata["uid"]] = self._version_of(found, deployment)
        self._tell(found, status_of(deployment))

    @staticmethod
    def _version_of(found: dict[str, Any], deployment: dict[str, Any] | None) -> list[Any]:
        told = [found["metadata"].get(part) for part in ("generation", "labels", "annotations")]
        return [*told, deployment and (deployment["metadata"]["uid"], deployment["metadata"]["generation"])]

    def _make(self, found: dict[str, Any]) -> dict[str, Any]:
        self._apply("services", service_of(found))
        made = self._apply("deployments", deployment_of(found))
        path, name = self._api.version_of("horizontalpodautoscalers"), made["metadata"]["name"]
        if scaler := autoscaler_of(found, path.removeprefix("/apis/")):
            self._apply("horizontalpodautoscalers", scaler)
        else:
            self._api.delete("horizontalpodautoscalers", name)
        return made

    def _apply(self, kind: str, manifest: dict[str, Any]) -> dict[str, Any]:
        reply = self._api._send(
            "PATCH", self._api.path(kind, manifest["metadata"]["name"]), body=manifest,
            params={"fieldManager": _MANAGER, "force": "true"}, content_type="application/apply-patch+yaml",
        )  # fmt: skip
        there: dict[str, Any] = reply.json()
        return there

    def _change(self, name: str, change: dict[str, Any]) -> None:
        self._api.merge(_KIND, name, change)

    def _tell(self, found: dict[str, Any], status: dict[str, Any]) -> None:
        if found.get("status") != status:
            self._api._send(
                "PATCH", f"{self._api.path(_KIND, found['metadata']['name'])}/status", body={"status": status},
                content_type="application/merge-patch+json", excused=(404,),
            )  # fmt: skip


def refusal(found: dict[str, Any]) -> str:
    """Why KServe, or its webhook, takes an InferenceService for wrong; empty where it does not."""
    predictor, noted = found["spec"]["predictor"], found["metadata"]["annotations"]
    least, most = predictor.get("minReplicas", 1), predictor.get("maxReplicas", 0)
    servers = [one for one in predictor.get("containers", []) if one["name"] == _SERVER]
    standard = noted["serving.kserve.io/deploymentMode"] == "Standard"
    checks = {
        f"[{noted.get('serving.kserve.io/autoscalerClass')}] is not a supported autoscaler class type":
            noted.get("serving.kserve.io/autoscalerClass", "hpa") in _CLASSES,
        "'MinReplicas' cannot be greater than MaxReplicas": not most or least <= most,
        f"there is no container {_SERVER}": len(servers) == 1,
        "customizing deploymentStrategy is only supported for raw deployment mode":
            standard or "deploymentStrategy" not in predictor,
        "the scale metric is not supported": standard or "scaleMetric" not in predictor,
        "must be no more than 63 characters": len(f"isvc.{found['metadata']['name']}-predictor") <= 63,
    }  # fmt: skip
    return next((told for told, is_so in checks.items() if not is_so), "")


def _metadata(found: dict[str, Any]) -> dict[str, Any]:
    metadata = found["metadata"]
    name, owner = f"{metadata['name']}-predictor", {"controller": True, "blockOwnerDeletion": True}
    return {
        "name": name, "namespace": metadata["namespace"],
        "labels": {**metadata.get("labels", {}), "serving.kserve.io/inferenceservice": metadata["name"],
                   "component": "predictor", "app": f"isvc.{name}"},
        "annotations": metadata.get("annotations", {}),
        "ownerReferences": [{"apiVersion": found["apiVersion"], "kind": "InferenceService", "name": metadata["name"],
                             "uid": metadata["uid"], **owner}],
    }  # fmt: skip


def deployment_of(found: dict[str, Any]) -> dict[str, Any]:
    """The Deployment that KServe makes."""
    predictor, metadata = found["spec"]["predictor"], _metadata(found)
    pod = {"terminationGracePeriodSeconds": 30, **copy.deepcopy(crds.pod_of(found))}
    for container in pod["containers"]:
        container.setdefault("env", []).append({"name": "INFERENCE_SERVICE_NAME", "value": found["metadata"]["name"]})
        if container["name"] == _SERVER:
            resources = container.get("resources", {})
            container["resources"] = {
                **resources, "requests": {**_DEFAULTS["requests"], **resources.get("requests", {})}
            }  # fmt: skip
            container.setdefault("readinessProbe", {"tcpSocket": {"port": _PORT}})
    spec = {
        "selector": {"matchLabels": {"app": metadata["labels"]["app"]}},
        "template": {"metadata": {part: metadata[part] for part in ("labels", "annotations")}, "spec": pod},
        "strategy": predictor.get("deploymentStrategy", {"type": "RollingUpdate"}),
        "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600,
    }  # fmt: skip
    # Of every other class its number is somebody else's.
    if _class_of(found) == "none" and "minReplicas" in predictor:
        spec["replicas"] = predictor["minReplicas"]
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}


def service_of(found: dict[str, Any]) -> dict[str, Any]:
    """The Service that KServe makes."""
    metadata, (first, *_) = _metadata(found), found["spec"]["predictor"]["containers"]
    port = first["ports"][0]["containerPort"] if first.get("ports") else _PORT
    told = {"name": "http", "protocol": "TCP", "port": 80, "targetPort": port}
    spec = {"clusterIP": "None", "selector": {"app": metadata["labels"]["app"]}, "ports": [told]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}


def autoscaler_of(found: dict[str, Any], version: str) -> dict[str, Any] | None:
    """The HorizontalPodAutoscaler that KServe makes; None where there is to be none."""
    if _class_of(found) != "hpa":
        return None
    predictor, metadata = found["spec"]["predictor"], _metadata(found)
    least = max(1, predictor.get("minReplicas", 1))
    target = {"type": "Utilization", "averageUtilization": predictor.get("scaleTarget", _CPU_PERCENT)}
    spec = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": metadata["name"]},
        "minReplicas": least, "maxReplicas": max(least, predictor.get("maxReplicas", 0)),
        "metrics": [{"type": "Resource", "resource": {"name": predictor.get("scaleMetric", "cpu"), "target": target}}],
    }  # fmt: skip
    return {"apiVersion": version, "kind": "HorizontalPodAutoscaler", "metadata": metadata, "spec": spec}


def _class_of(found: dict[str, Any]) -> str:
    told: str = found["metadata"]["annotations"].get("serving.kserve.io/autoscalerClass", "hpa")
    return told


def status_of(deployment: dict[str, Any]) -> dict[str, Any]:
    """What KServe tells of an InferenceService, by its Deployment."""
    conditions = {one["type"]: one for one in deployment.get("status", {}).get("conditions", [])}
    available, progressing = conditions.get("Available", {}), conditions.get("Progressing", {})
    why = progressing if progressing.get("status") == "False" else available
    is_ready = available.get("status") == "True"
    told = ("True" if is_ready else "False", why.get("reason", ""), why.get("message", ""))
    return {
        "deploymentMode": "Standard",
        "conditions": [
            _condition("IngressReady", "True"), _condition("PredictorReady", *told), _condition("Ready", *told),
        ],
        "modelStatus": {"transitionStatus": "UpToDate" if is_ready else "InProgress"},
    }  # fmt: skip


def _condition(kind: str, status: str, reason: str = "", message: str = "") -> dict[str, str]:
    told = {"type": kind, "status": status, "reason": reason, "message": message}
    return {name: value for name, value in told.items() if value}
