"""`make demo` as a new user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import demo
import pytest
from support import watched_logs

from headgate.home import Home
from headgate.release_file import load_release
from registry import Entry, Journal, Kind

DEMO = Path(__file__).parents[2] / "examples" / "demo.py"


@pytest.mark.timeout(900)
@pytest.mark.expects_errors("headgate_server: request .*: the model raised")
def test_the_demo_ends_as_it_is_told(tmp_path):
    watched_logs.watch(tmp_path / "home" / "logs")
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


def test_a_demo_that_is_not_the_first_here_has_a_first_version_too(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADGATE_HOME", str(tmp_path))
    journal = Journal(Home(tmp_path).ensure().journal_url)
    for before, name in ((), "wine"), (("wine",), "wine-2"), (("wine-2",), "wine-3"):
        for endpoint in before:
            journal.append(Entry(endpoint=endpoint, release_id="r", kind=Kind.NOTE, what="seen", actor="dana"))
        assert demo.unused_name() == name
    journal.close()
    file = demo.write_file(tmp_path, "v1", "wine-2", "runs:/1/model", "docker")
    spec = load_release(file)
    assert (spec.endpoint, spec.target.kind) == ("wine-2", "docker")
