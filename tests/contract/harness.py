"""What the contract suite needs of a target under test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from deploy_targets.local import LocalTarget
from headgate.home import Home
from headgate.records import ModelVersion, Revision
from images import build_image, fetch_artifact

if TYPE_CHECKING:
    from pathlib import Path

    from deploy_targets import DeployTarget


class Harness(Protocol):
    """A target, and how to make revisions for it and break them."""

    target: DeployTarget

    def revision(self, model: Path, version: int, *, ready_timeout: float = 60.0) -> Revision:
        """A revision of a model, ready to be deployed."""
        ...

    def kill(self, endpoint: str, revision: str) -> None:
        """End a revision's server behind the target's back."""
        ...

    def traces(self, endpoint: str) -> list[str]:
        """What is left of an endpoint, anywhere."""
        ...


class LocalHarness:
    """The local target on a real supervisord and a real Envoy."""

    def __init__(self, root: Path) -> None:
        self._home = Home(root)
        self.target = LocalTarget(self._home)

    def revision(self, model: Path, version: int, *, ready_timeout: float = 60.0) -> Revision:
        image = build_image(self._home, fetch_artifact(str(model), self._home.root))
        return Revision.of(
            ModelVersion(name="contract", version=version, digest=image.digest), image,
            env={"OMP_NUM_THREADS": "1"}, workers=1, ready_timeout=ready_timeout,
        )  # fmt: skip

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
