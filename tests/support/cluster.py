"""A namespace of a real cluster, with a gateway and a place for the log, for as long as tests last.

`HEADGATE_TEST_KUBERNETES` names a context of KUBECONFIG; `make test-kubernetes` sets it. Nothing here runs without it.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from deploy_targets.kubernetes import gateway, names
from deploy_targets.kubernetes.api import Api
from deploy_targets.kubernetes.settings import KubernetesSettings
from headgate.errors import TargetUnavailableError
from headgate.spec import ImageSettings
from images.gateway import build_gateway
from support import crds
from support.stack import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from headgate.home import Home

CONTEXT = os.environ.get("HEADGATE_TEST_KUBERNETES", "")
LOAD = os.environ.get("HEADGATE_TEST_KUBERNETES_LOAD", "")
"""A command that brings an image of this machine's Docker to the nodes, such as `kind load docker-image`."""


END_API = os.environ.get("HEADGATE_TEST_KUBERNETES_END_API", "")
"""A command that ends the API server, which something starts again, as a kubelet does where it is a static pod."""


KINDS = ("kubernetes", "kubernetes_kserve", *(() if LOAD else ("kubernetes_gateway_api",))) if CONTEXT else ()
"""The targets of the suite that are run: a gateway of this machine's reaches pods where nodes share its network."""


def load(image: str) -> None:
    """Bring an image to the nodes, where they do not share this machine's Docker."""
    if LOAD:
        subprocess.run([*LOAD.split(), image], check=True, capture_output=True)


def kubectl(*arguments: str) -> str:
    done = subprocess.run(["kubectl", "--context", CONTEXT, *arguments], capture_output=True, text=True, check=True)
    return done.stdout


def restart_api() -> None:
    """End the API server, and wait until it is back."""
    subprocess.run(shlex.split(END_API), check=True, capture_output=True)
    api = Api(CONTEXT, "default")

    def answers() -> bool:
        try:
            return bool(api.call("GET", "/version"))
        except TargetUnavailableError:
            return False

    wait_for(lambda: not answers())
    wait_for(answers, 180)


_DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


def make_kind(plural: str) -> bool:
    """See that the cluster has a kind of custom resource; whether it had none."""
    definition = crds.definition(plural)
    api = Api(CONTEXT, "default")
    known = {one["metadata"]["name"] for one in api.call("GET", _DEFINITIONS)["items"]}
    if is_new := definition["metadata"]["name"] not in known:
        api.call("POST", _DEFINITIONS, definition)
    wait_for(lambda: definition["spec"]["group"] in {one["name"] for one in api.call("GET", "/apis")["groups"]})
    return is_new


def remove_kind(plural: str) -> None:
    """Take a kind that was made here away again."""
    Api(CONTEXT, "default").call("DELETE", f"{_DEFINITIONS}/{crds.definition(plural)['metadata']['name']}")


@contextmanager
def namespace(
    home: Home, base: str, captures: Path, *, own_gateway: bool = True, name: str = ""
) -> Iterator[KubernetesSettings]:
    """A new namespace with everything that a release needs; it is removed with all that is in it."""
    name = name or f"headgate-test-{uuid.uuid4().hex[:6]}"
    captures.mkdir(parents=True, exist_ok=True)
    captures.chmod(0o777)
    settings = KubernetesSettings(
        kind="kubernetes", context=CONTEXT, namespace=name, captures=f"file://{captures}", captures_claim="captures",
    )  # fmt: skip
    api = Api(CONTEXT, name)
    api.call("POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    size = {"storage": "1Gi"}
    volume = {
        "capacity": size, "accessModes": ["ReadWriteMany"], "hostPath": {"path": str(captures)},
        "storageClassName": name, "persistentVolumeReclaimPolicy": "Retain",
    }  # fmt: skip
    claim = {"accessModes": ["ReadWriteMany"], "resources": {"requests": size}, "storageClassName": name}
    try:
        api.call(
            "POST", "/api/v1/persistentvolumes",
            {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": volume},
        )  # fmt: skip
        api.create("persistentvolumeclaims", {"apiVersion": "v1", "kind": "PersistentVolumeClaim",
                                              "metadata": {"name": "captures"}, "spec": claim})  # fmt: skip
        if not own_gateway:
            yield settings
            return
        image = build_gateway(home, ImageSettings(base=base))
        load(names.image(image))
        gateway.install(settings, image, 2)
        yield settings.model_copy(update={"url": _url(api)})
    finally:
        end(name)


def end(name: str) -> None:
    """Remove a namespace, with all that is in it; nothing happens where it is gone."""
    api = Api(CONTEXT, name)
    for kind in ("namespaces", "persistentvolumes"):
        api._send("DELETE", f"/api/v1/{kind}/{name}", excused=(404, 409))
    wait_for(lambda: name not in _namespaces(api), 180)


def _url(api: Api) -> str:
    """Where this machine reaches the gateway: a port of a node."""
    api.merge("services", gateway.GATEWAY, {"spec": {"type": "NodePort"}})
    service = api.find("services", gateway.GATEWAY)
    assert service is not None
    nodes: list[dict[str, Any]] = api.call("GET", "/api/v1/nodes")["items"]
    addresses = [one["address"] for one in nodes[0]["status"]["addresses"] if one["type"] == "InternalIP"]
    return f"http://{addresses[0]}:{service['spec']['ports'][0]['nodePort']}"


def _namespaces(api: Api) -> list[str]:
    return [one["metadata"]["name"] for one in api.call("GET", "/api/v1/namespaces")["items"]]
