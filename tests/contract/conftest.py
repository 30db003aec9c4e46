"""The targets under test. A new one joins by a harness here, and passes the suite unchanged."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from harness import DockerHarness, Harness, LocalHarness


@pytest.fixture(scope="session", params=["local", "docker"])
def harness(request: pytest.FixtureRequest) -> Harness:
    root = request.getfixturevalue("gateway_home")
    if request.param == "local":
        return LocalHarness(root)
    return DockerHarness(root, request.getfixturevalue("docker_base"))


@pytest.fixture(scope="session")
def docker_harness(gateway_home: Path, docker_base: str) -> DockerHarness:
    return DockerHarness(gateway_home, docker_base)
