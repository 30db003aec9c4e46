"""What the contract suite needs of a target under test."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Protocol

from deploy_targets.docker import DockerTarget
from deploy_targets.local import LocalTarget
from headgate.home import Home
from headgate.records import Image, ModelVersion, Revision
from headgate.spec import ImageSettings
from images import build_container, build_image, fetch_artifact

if TYPE_CHECKING:
    from pathlib import Path

    from deploy_targets import DeployTarget


class Harness(Protocol):
    """A target, and how to make revisions for it and break them."""

    target: DeployTarget

    def revision(self, model: Path, version: int, *, ready_timeout: float = 60.0) -> Revision:
        """A revision of a model, ready to be deployed."""
        ...

    def again(self) -> DeployTarget:
        """The same target, for another process."""
        ...

    def kill(self, endpoint: str, revision: str) -> None:
        """End a revision's server behind the target's back."""
        ...

    def traces(self, endpoint: str) -> list[str]:
        """What is left of an endpoint, anywhere."""
        ...


def revision_of(image: Image, version: int, ready_timeout: float, **more: Any) -> Revision:
    named = ModelVersion(name="contract", version=version, digest=image.digest)
    return Revision.of(
        named, image, env={"OMP_NUM_THREADS": "1"}, workers=1, ready_timeout=ready_timeout, **more
    )  # fmt: skip


class LocalHarness:
    """The local target on a real supervisord and a real Envoy."""

    def __init__(self, root: Path) -> None:
        self._home = Home(root)
        self.target = LocalTarget(self._home)

    def revision(self, model: Path, version: int, *, ready_timeout: float = 60.0) -> Revision:
        image = build_image(self._home, fetch_artifact(str(model), self._home.root))
        return revision_of(image, version, ready_timeout)

    def again(self) -> DeployTarget:
        return LocalTarget(self._home)

    def kill(self, endpoint: str, revision: str) -> None:
        import psutil

        from headgate.stack import Supervisor

        psutil.Process(Supervisor(self._home).states()[f"{endpoint}--{revision}"].pid).kill()

    def traces(self, endpoint: str) -> list[str]:
        from headgate.stack import Supervisor

        programs = [name for name in Supervisor(self._home).states() if name.startswith(f"{endpoint}--")]
        files = [str(path) for path in (self._home.supervisor / "programs").glob(f"{endpoint}--*")]
        folders = [str(path) for path in (self._home.revisions / endpoint).glob("*")]
        return programs + files + folders


class DockerHarness:
    """The Docker target on a real daemon and a real Envoy."""

    def __init__(self, root: Path, base: str) -> None:
        self._home, self._base = Home(root), base
        self.target = DockerTarget(self._home)
        self.docker = self.target._client
        self._images: set[str] = set()

    def revision(self, model: Path, version: int, *, ready_timeout: float = 60.0, **more: Any) -> Revision:
        artifact = fetch_artifact(str(model), self._home.root)
        image = build_container(self._home, artifact, "contract", ImageSettings(base=self._base))
        self._images.add(image.reference)
        return revision_of(image, version, ready_timeout, **more)

    def remove_images(self) -> None:
        from docker.errors import ImageNotFound

        for reference in self._images:
            with contextlib.suppress(ImageNotFound):
                self.docker.images.remove(reference, force=True)

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
