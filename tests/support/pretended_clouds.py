"""An endpoint on a cloud's double whose machines only pretend to run an image, and clocks for what goes on there."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from deploy_targets import clouds
from headgate.records import Image, ModelVersion, Resources, Revision, Traffic
from support.clocks import Waitless, using
from support.vertex import PARENT, Vertex

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deploy_targets.azure_ml.target import AzureMlTarget
    from deploy_targets.vertex.target import VertexTarget
    from support.azure_ml import AzureMl

ENDPOINT = "churn"


class Cloud(NamedTuple):
    """A target and its double, with one live revision and another that is ready to be deployed."""

    target: VertexTarget | AzureMlTarget
    double: Vertex | AzureMl
    first: Revision
    second: Revision

    @property
    def site(self) -> object:
        """The live endpoint in the double."""
        known = self.double.sites
        return known.get(f"{PARENT}/endpoints/{ENDPOINT}") or known[ENDPOINT]


class _Ending(Waitless):
    """A clock that skips every wait, and has what goes on in a double end once so many seconds have been waited."""

    def __init__(self, seconds: float, end: Callable[[], None]) -> None:
        super().__init__()
        self._until, self._end = self.monotonic() + seconds, end

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        if self.monotonic() > self._until:
            self._end()


@contextmanager
def ending_after(seconds: float, end: Callable[[], None]) -> Iterator[None]:
    """Have waits be as long as a cloud's, which a clock skips, and what goes on there end after so many seconds."""
    with pytest.MonkeyPatch.context() as patch, using(_Ending(seconds, end)):
        patch.setattr(clouds, "_POLL_SECONDS", (1.0, 60.0))
        yield


def revision(version: int) -> Revision:
    image = Image(
        digest=f"sha256:{version}", lock_digest="", path=Path(), interpreter=None, size=1, reference=f"image{version}"
    )
    made = ModelVersion(name="wine", version=version, digest=image.digest)
    return Revision.of(made, image, env={}, workers=1, ready_timeout=300.0, resources=Resources(memory=2**29))


def live(target: VertexTarget | AzureMlTarget, double: Vertex | AzureMl) -> Cloud:
    """An endpoint with one live revision."""
    cloud = Cloud(target, double, revision(1), revision(2))
    target.deploy(ENDPOINT, cloud.first)
    target.route(ENDPOINT, Traffic.all_to(cloud.first.name))
    double.faults.clear()
    return cloud
