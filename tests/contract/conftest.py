"""The targets under test. A new one joins by a harness here, and passes the suite unchanged."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from harness import DockerHarness, Harness, LocalHarness

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session", params=["local", "docker"])
def harness(request: pytest.FixtureRequest) -> Harness:
    if request.param == "local":
        return LocalHarness(request.getfixturevalue("gateway_home"))
    return request.getfixturevalue("docker_harness")


@pytest.fixture(scope="session")
def docker_harness(gateway_home: Path, docker_base: str) -> Iterator[DockerHarness]:
    made = DockerHarness(gateway_home, docker_base)
    yield made
    made.remove_images()
