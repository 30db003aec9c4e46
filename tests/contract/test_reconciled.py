"""A release that dies between any two of its platform's calls leaves nothing that `reconcile` does not find."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from support.chaos import die
from support.simulated import Simulation
from support.simulated_platform import ENDPOINT, Process
from support.stack import wait_for

from deploy_targets import Feature
from headgate.phases import Phase
from headgate.records import Artifact, Image
from headgate.release_file import parse_release


class Watched:
    """A target, and what it says of the endpoint."""

    def __init__(self, target: Any) -> None:
        self._target = target

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)

    @property
    def traffic(self) -> Any:
        state = self.observe(ENDPOINT)
        return state.traffic if state else None

    @property
    def revisions(self) -> dict[str, Any]:
        state = self.observe(ENDPOINT)
        return state.revisions if state else {}


class OnPlatform(Simulation):
    """Releases that are simulated but for their platform."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, harness: Any, images: list[Image]) -> None:
        super().__init__(folder, patch)
        self.harness, self.images = harness, images
        self.target = Watched(harness.target)

    def release_and_die(self, kill: Any) -> None:
        """The next release, in a process that dies at one of the platform's calls."""

        def carry_out(target: Any) -> None:
            # Connections are the parent's.
            self.journal.engine.dispose(close=False)
            self.target = Watched(target)
            self.act("release")

        die(self.harness, kill, carry_out)
        self._name()
        self.processes.append(Process(len(self.processes), dead=True))

    def reconcile(self) -> None:
        """Until everything is in order: a cloud that is at work does nothing else meanwhile."""

        def is_in_order() -> bool:
            self.act("reconcile")
            return not self.disorder()

        wait_for(is_in_order, 60)

    def _release(self) -> None:
        self._carry_out(self._name())

    def _name(self) -> str:
        name = f"release-{len(self.releases)}"
        self.releases[name] = ""
        return name

    def _package(self, job: Any) -> tuple[Artifact, Image]:
        champion = job.champion
        image = next(one for one in self.images if champion is None or one.digest != champion.image.digest)
        job.enter(Phase.PACKAGED, image.digest, {"image": image.model_dump(mode="json")})
        artifact = Artifact(uri="/a", path=Path("/a"), run_id=None, flavors=(), requirements=(), python="3.11",
                            has_example=False)  # fmt: skip
        return artifact, image

    def _spec(self) -> Any:
        lacks = self.harness.target.UNSUPPORTED
        how = "strategy: {kind: blue-green}\n" if Feature.SPLIT in lacks else ""
        size = "runtime: {memory: 512Mi}\n" if Feature.MEMORY_LIMIT not in lacks else ""
        return parse_release(
            f"model: {ENDPOINT}\nartifact: /a\ntarget: {{kind: local}}\ngates: {{shadow: off}}\n"
            f"rollback: {{keep_warm: 0s}}\n{how}{size}"
        )


@pytest.fixture
def world(harness, models, tmp_path_factory):
    images = [harness.revision(models("pyfunc", does=does), 1).image for does in ("double", "negative")]
    with pytest.MonkeyPatch.context() as patch:
        yield OnPlatform(tmp_path_factory.mktemp("reconciled"), patch, harness, images)
    harness.target.delete(ENDPOINT)


def test_nothing_is_left_of_a_first_release_that_died(world, harness):
    for kill in harness.kills()[:2]:
        world.release_and_die(kill)
        world.reconcile()
        assert harness.traces(ENDPOINT) == [], kill


@pytest.mark.timeout(1800)
def test_one_version_is_left_of_a_release_that_died(world, harness):
    world.act("release")
    for kill in harness.kills():
        world.release_and_die(kill)
        world.reconcile()
        named = {name for trace in harness.traces(ENDPOINT) for name in re.findall(r"v\d+-[0-9a-f]{8}", trace)}
        assert named | set(world.target.revisions) == {world.target.traffic.holder}, kill
