"""`make demo` as a new user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[2] / "examples" / "demo.py"


@pytest.mark.timeout(900)
def test_the_demo_ends_as_it_is_told(tmp_path):
    done = subprocess.run(
        [sys.executable, DEMO], env={**os.environ, "HEADGATE_HOME": str(tmp_path / "home")}, capture_output=True,
        text=True, check=False, timeout=800,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "home" / "result.json").read_text())
    versions = {row["version"]: row for row in result["versions"]}
    assert [(row["version"], row["outcome"]) for row in result["versions"]] == [
        ("v1", "promoted"), ("v2", "promoted"), ("v3", "rejected"), ("v4", "rolled back"), ("drift", "v2 stays"),
        ("drift", "back on v1"),
    ]  # fmt: skip
    assert 20 < result["asked_per_second"] <= 150
    assert result["requests_per_second"] > 0.8 * result["asked_per_second"]
    assert result["lost_by_shifting_traffic"] == 0
    assert versions["v3"]["answers"] == 0, "no client saw an answer of v3"
    assert versions["v2"]["failed"] == 0
    assert 0 < versions["v4"]["failed"] < 40
    assert versions["v4"]["failed"] == versions["v4"]["bad answers clients saw"] - versions["v4"]["wrong"]
    assert not list((tmp_path / "home" / "supervisor").glob("*.sock")), "nothing is left running"
