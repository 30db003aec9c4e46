"""What the contract suite needs of a real cluster."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

from harness import BehindEnvoy, revision_of
from support import cluster
from support.chaos import Kill
from support.stack import wait_for

from deploy_targets.kubernetes import names
from deploy_targets.kubernetes.api import Api, operation
from deploy_targets.kubernetes.kserve import INFERENCE_SERVICES
from deploy_targets.kubernetes.manifests import KINDS
from deploy_targets.kubernetes.pods import has_ended
from deploy_targets.kubernetes.target import KubernetesTarget
from headgate.home import Home
from headgate.spec import ImageSettings
from images import build_container, fetch_artifact

if TYPE_CHECKING:
    from deploy_targets import DeployTarget
    from deploy_targets.kubernetes.settings import KubernetesSettings
    from headgate.records import Payload, Revision


READY_SECONDS = 180.0
"""Kubelets before 1.21 may forget to tell that a server is ready until they look again, 60 to 90 seconds later.

Source: https://github.com/kubernetes/kubernetes/issues/95140, seen here twice in two hundred pods.
"""


class KubernetesHarness(BehindEnvoy):
    """The Kubernetes target on a real cluster."""

    routes, servers, container, suffix = "configmaps", "deployments", names.SERVERS[0], ""
    """What an endpoint is, what makes its pods, the container of a server, and how a Deployment's name ends."""
    _double = SimpleNamespace(faults={})
    """Nothing is doubled here."""

    def __init__(self, root: Path, base: str, settings: KubernetesSettings) -> None:
        self._home, self._base, self._settings = Home(root), base, settings
        self.target = KubernetesTarget(settings)
        self._api = self.target._api

    def revision(self, model: Path, version: int, *, ready_timeout: float = READY_SECONDS, **more: Any) -> Revision:
        artifact = fetch_artifact(str(model), self._home.root)
        image = build_container(self._home, artifact, "contract", ImageSettings(base=self._base))
        cluster.load(names.image(image.reference))
        return revision_of(image, version, ready_timeout, **more)

    def again(self) -> DeployTarget:
        return KubernetesTarget(self._settings)

    def kills(self) -> list[Kill]:
        return [
            Kill(f"PATCH {self.servers}", 1, "before"), Kill(f"PATCH {self.servers}"), Kill("PATCH services"),
            *(Kill(f"PUT {self.routes}", number) for number in range(1, 5)), Kill("DELETE services"),
            Kill(f"DELETE {self.servers}"),
        ]  # fmt: skip

    def points(self) -> list[tuple[Any, str, Any]]:
        return [(Api, "_send", lambda _api, verb, path, **_: operation(verb, path))]

    def kill(self, endpoint: str, revision: str) -> None:
        # The first process of a container takes no SIGKILL from within.
        end = "import os, signal; os.kill(1, signal.SIGTERM)"
        of_name = f"deployment/{names.of_revision(endpoint, revision)}{self.suffix}"
        cluster.kubectl(
            "exec", "-n", self._settings.namespace, of_name, "-c", self.container, "--", "python3", "-c", end
        )

    def traces(self, endpoint: str) -> list[str]:
        kinds, chosen = {*KINDS, self.routes, self.servers}, {names.ENDPOINT: endpoint}
        found = [one for kind in kinds for one in self._api.list(kind, chosen)]
        found += [one for one in self._api.list("pods", chosen) if not has_ended(one)]
        folder = Path(self._settings.captures.removeprefix("file://")) / endpoint
        return [one["metadata"]["name"] for one in found] + [str(path) for path in folder.glob("*")]


class GatewayApiHarness(KubernetesHarness):
    """The same, behind a gateway of the cluster's."""

    routes = "httproutes"


class KServeHarness(KubernetesHarness):
    """The same, with InferenceServices as servers."""

    servers, container, suffix = INFERENCE_SERVICES, names.SERVERS[1], "-predictor"


class Clients:
    """Two that ask all the time, and count what they get."""

    def __init__(self, cloud: KubernetesHarness, endpoint: str, payload: Payload) -> None:
        self._cloud, self._endpoint, self._payload = cloud, endpoint, payload
        self.statuses: list[int] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(2)]

    def _run(self) -> None:
        while not self._stop.is_set():
            self.statuses.extend(reply.status for reply in self._cloud.ask(self._endpoint, self._payload, 10))

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        wait_for(lambda: len(self.statuses) > 20)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def pods(cloud: KubernetesHarness, endpoint: str, revision: Revision) -> list[str]:
    """Those that were not told to end."""
    found = cloud.target._api.list("pods", {names.ENDPOINT: endpoint, names.REVISION: revision.name})
    return [one["metadata"]["name"] for one in found if "deletionTimestamp" not in one["metadata"]]
