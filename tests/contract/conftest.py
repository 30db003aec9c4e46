"""The targets under test. A new one joins by a harness here, and passes the suite unchanged."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from harness import Harness, LocalHarness


@pytest.fixture(scope="session", params=["local"])
def harness(request: pytest.FixtureRequest) -> Harness:
    return {"local": lambda: LocalHarness(request.getfixturevalue("gateway_home"))}[request.param]()
