"""What the contract suite needs of a target under test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import httpx
from support.chaos import Kill
from support.processor import patient

from deploy_targets.docker import DockerTarget
from deploy_targets.local import LocalTarget
from deploy_targets.protocol import Feature
from headgate.home import Home
from headgate.records import Image, ModelVersion, Payload, Revision, Traffic
from headgate.spec import ImageSettings
from images import build_container, build_image, fetch_artifact

if TYPE_CHECKING:
    from pathlib import Path

    from deploy_targets import DeployTarget

READY_SECONDS = patient(60.0)
"""How long a revision may take to start, where a test says nothing of it."""


@dataclass
class Reply:
    """What a client gets."""

    status: int
    revision: str
    request_id: str


class Harness(Protocol):
    """A target, and how to make revisions for it and break them."""

    target: DeployTarget
    never_ready: str
    """What is said of a revision that does not become ready."""
    ids_reach_servers: bool
    """Whether a request's id is told to the revision's server."""

    def revision(self, model: Path, version: int, *, ready_timeout: float = READY_SECONDS) -> Revision:
        """A revision of a model, ready to be deployed."""
        ...

    def again(self) -> DeployTarget:
        """The same target, for another process."""
        ...

    def ask(self, endpoint: str, payload: Payload, times: int = 1) -> list[Reply]:
        """What clients do."""
        ...

    def is_gone(self, endpoint: str, url: str) -> bool:
        """Whether nobody answers there."""
        ...

    def kills(self) -> list[Kill]:
        """The points at which a process that changes something may die."""
        ...

    def points(self) -> list[tuple[Any, str, Any]]:
        """The calls that change something: owner, method, and a name for it."""
        ...

    def kill(self, endpoint: str, revision: str) -> None:
        """End a revision's server behind the target's back."""
        ...

    def traces(self, endpoint: str) -> list[str]:
        """What is left of an endpoint, anywhere."""
        ...


def part(target: DeployTarget, old: str, new: str, share: int) -> Traffic:
    """Traffic of which the new revision has a share; all of it where the platform splits none."""
    if Feature.SPLIT in target.UNSUPPORTED and share:
        return Traffic.all_to(new)
    return Traffic.split(old, new, share)


def revision_of(image: Image, version: int, ready_timeout: float, **more: Any) -> Revision:
    named = ModelVersion(name="contract", version=version, digest=image.digest)
    more = {"workers": 1, **more}
    return Revision.of(named, image, env={"OMP_NUM_THREADS": "1"}, ready_timeout=ready_timeout, **more)


class BehindEnvoy:
    """What the local and the Docker target share."""

    target: DeployTarget
    never_ready, ids_reach_servers = "not ready after 6 s", True

    def ask(self, endpoint: str, payload: Payload, times: int = 1) -> list[Reply]:
        url, headers = self.target.observe(endpoint).url, {"content-type": payload.content_type}
        with httpx.Client() as client:
            replies = [client.post(url, content=payload.body, headers=headers) for _ in range(times)]
        return [
            Reply(reply.status_code, reply.headers.get("x-headgate-revision", ""), reply.headers["x-request-id"])
            for reply in replies
        ]

    def is_gone(self, endpoint: str, url: str) -> bool:
        return httpx.post(url, content=b"{}").status_code == httpx.codes.NOT_FOUND

    def kills(self) -> list[Kill]:
        """Of a server, of the gateway's files, of a server's end: what a change on this machine consists of."""
        return [
            Kill("start", 1, "before"), Kill("start"), Kill("write"), Kill("write", 2, "before"), Kill("write", 2),
            Kill("write", 3), Kill("write", 4), Kill("end", 1, "before"), Kill("end"),
        ]  # fmt: skip

    def points(self) -> list[tuple[Any, str, Any]]:
        target = type(self.target)
        return [(target, "_start", "start"), (target, "_end", "end"), (type(self.target._gateway), "_write", "write")]


class LocalHarness(BehindEnvoy):
    """The local target on a real supervisord and a real Envoy."""

    def __init__(self, root: Path) -> None:
        self._home = Home(root)
        self._made: set[str] = set()
        self.target = LocalTarget(self._home)

    def revision(self, model: Path, version: int, *, ready_timeout: float = READY_SECONDS) -> Revision:
        image = build_image(self._home, fetch_artifact(str(model), self._home.root))
        made = revision_of(image, version, ready_timeout)
        self._made.add(made.name)
        return made

    def again(self) -> DeployTarget:
        return LocalTarget(self._home)

    def kill(self, endpoint: str, revision: str) -> None:
        import psutil

        from headgate.stack import Supervisor

        psutil.Process(Supervisor(self._home).states()[f"{endpoint}--{revision}"].pid).kill()

    def traces(self, endpoint: str) -> list[str]:
        from headgate.stack import Supervisor
        from headgate.stack.sockets import Sockets

        path = Sockets(self._home).path
        sockets = [f"socket of {name}" for name in self._made if path(f"{endpoint}--{name}").exists()]
        programs = [name for name in Supervisor(self._home).states() if name.startswith(f"{endpoint}--")]
        files = [str(path) for path in (self._home.supervisor / "programs").glob(f"{endpoint}--*")]
        folders = [str(path) for path in (self._home.revisions / endpoint).glob("*")]
        return programs + files + folders + sockets


class DockerHarness(BehindEnvoy):
    """The Docker target on a real daemon and a real Envoy."""

    def __init__(self, root: Path, base: str) -> None:
        self._home, self._base = Home(root), base
        self.target = DockerTarget(self._home)
        self.docker = self.target._client
        self._images: set[str] = set()

    def revision(self, model: Path, version: int, *, ready_timeout: float = READY_SECONDS, **more: Any) -> Revision:
        artifact = fetch_artifact(str(model), self._home.root)
        image = build_container(self._home, artifact, "contract", ImageSettings(base=self._base))
        self._images.add(image.reference)
        return revision_of(image, version, ready_timeout, **more)

    def remove_images(self) -> None:
        from docker.errors import APIError, ImageNotFound

        for reference in self._images:
            try:
                self.docker.images.remove(reference, force=True)
            except ImageNotFound:
                continue
            except APIError as error:
                # Another process of the tests runs it, as the same model is the same image.
                if error.status_code != httpx.codes.CONFLICT:
                    raise

    def again(self) -> DeployTarget:
        return DockerTarget(self._home)

    def kill(self, endpoint: str, revision: str) -> None:
        import psutil

        container = self.target._find(endpoint, revision)
        assert container is not None
        # By its process, as `docker kill` would count as somebody's wish to stop it.
        psutil.Process(container.attrs["State"]["Pid"]).kill()

    def traces(self, endpoint: str) -> list[str]:
        labels = [f"io.headgate.endpoint={endpoint}", f"io.headgate.home={self.target._home_id}"]
        containers = [found.name for found in self.docker.containers.list(all=True, filters={"label": labels})]
        others = self.docker.containers.list(all=True, filters={"network": self.target._network})
        networks = [] if others else [found.name for found in self.docker.networks.list(names=[self.target._network])]
        return containers + networks + [str(path) for path in (self._home.revisions / endpoint).glob("*")]
