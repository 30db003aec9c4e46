"""InferenceServices as Headgate makes them, and what KServe makes of them; nothing here asks a cluster."""

from __future__ import annotations

from pathlib import Path

from deploy_targets.kubernetes import manifests, names
from deploy_targets.kubernetes.api import GROUPS, NEWEST
from deploy_targets.kubernetes.settings import KubernetesSettings
from headgate.records import Image, ModelVersion, Revision
from support import kserve_controller

VERSION = ModelVersion(name="wine", version=3, digest="sha256:ab")
IMAGE = Image(digest="sha256:ab", lock_digest="", path=Path("/a"), interpreter=None, size=1,
              reference="registry.example/wine@sha256:ab")  # fmt: skip


def settings(**more):
    base = {"kind": "kubernetes", "captures": "s3://bucket/live", "namespace": "models", "kserve": {}}
    return KubernetesSettings.model_validate({**base, **more})


def revision(**more):
    return Revision.of(VERSION, IMAGE, env={"A": "b"}, ready_timeout=60.0, **{"workers": 4, **more})


def path_of(kind):
    return GROUPS.get(kind) or f"/apis/{NEWEST[kind][0]}/{NEWEST[kind][1][0]}"


def made(of=None, pods=1, **more):
    return dict(manifests.of_revision(of or settings(), "wine", revision(**more), pods, path_of))


def inference_service(least=1, most=0, name="v1-a", **status):
    found = made(pods=least, workers=least, most_workers=most)["inferenceservices"]
    found["metadata"] |= {"name": f"wine--{name}", "uid": "1"}
    found["metadata"]["labels"][names.REVISION] = name
    return {**found, "status": status}


def deployment_of(found, replicas, ready):
    by_kserve = kserve_controller.deployment_of(found)
    by_kserve["spec"]["replicas"] = replicas
    return {**by_kserve, "status": {"readyReplicas": ready, "updatedReplicas": ready, "replicas": replicas}}
