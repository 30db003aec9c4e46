"""The deployments of prefect.yaml, run by a worker as CI and schedules run them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import QUICK
from prefect.client.base import PrefectHttpxSyncClient
from support.stack import wait_for

from headgate.sign_in import PrefectSignIn
from registry import Kind

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def prefect(world):
    """The `prefect` command in the repository, with everything of prefect.yaml deployed."""

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [Path(sys.executable).parent / "prefect", *arguments],
            cwd=REPOSITORY, env={**os.environ, **world.stack.env}, capture_output=True, text=True, check=False,
        )  # fmt: skip

    deployed = command("--no-prompt", "deploy", "--all")
    assert deployed.returncode == 0, deployed.stdout + deployed.stderr
    return command


@pytest.fixture
def run(prefect):
    """Run a deployment to its end; gives whether it completed."""

    def command(deployment: str, **parameters: str) -> bool:
        chosen = [part for name, value in parameters.items() for part in ("--param", f"{name}={value}")]
        return prefect("deployment", "run", deployment, *chosen, "--watch", "--watch-interval", "1").returncode == 0

    return command


def test_release_and_rollback(world, models, run, tmp_path):
    file = tmp_path / "release.yaml"
    file.write_text(world.text(models("pyfunc", does="double")))
    assert run("release/local", spec=file)
    world.assert_only(1)
    file.write_text(world.text(tmp_path / "nothing"))
    assert not run("release/local", spec=file)
    world.assert_only(1)
    with world.traffic():
        world.release(models("pyfunc", does="negative"))
    world.assert_only(2)
    assert run("rollback/local", endpoint=world.endpoint, reason="a customer called", actor="ann")
    world.assert_only(1)
    last = world.journal.read(world.endpoint, kinds=(Kind.LIVE,))[-1]
    assert (last.actor, last.reason) == ("ann", "a customer called")
    assert not run("rollback/local", endpoint=world.endpoint, reason="again")


def test_monitor_sees_the_drift_and_rolls_back(world, models, run, tmp_path):
    reference = tmp_path / "reference.parquet"
    pd.DataFrame({"x": np.tile(np.arange(1.0, 21.0), 25)}).to_parquet(reference)
    drift = f"window: 10m, min_rows: 50, trigger: {{violations: 1, of: 1}}, reference: {json.dumps(str(reference))}"
    text = f"{QUICK}monitor: {{{drift}}}\nrollback: {{on: [errors, drift]}}\n"
    world.release(models("pyfunc", does="periodic"), text)
    with world.traffic():
        world.release(models("pyfunc", does="negative"), text)
    file = tmp_path / "release.yaml"
    file.write_text(world.text("unused", text))
    with world.traffic(low=500) as client:
        wait_for(lambda: client.total > 150)
        assert run("monitor/local", spec=file)
    world.assert_only(1)
    assert "drift" in world.journal.read(world.endpoint, kinds=(Kind.LIVE,))[-1].reason


def test_a_watched_release_streams_its_phases_and_has_the_documented_exit_code(world, models, tmp_path):
    file = tmp_path / "release.yaml"

    def watch(artifact, more: str, expect: int, *options: str):
        file.write_text(world.text(artifact, more))
        return world.stack.headgate("release", str(file), "--watch", "--json", *options, expect=expect)

    done = watch(models("pyfunc", does="double"), QUICK, 0, "--actor", "ci")
    last = json.loads(done.stdout.splitlines()[-1])
    assert (last["outcome"], last["version"]) == ("promoted", 1)
    assert re.search(r"phase started.*phase deployed.*live v1-.*outcome: promoted", done.stderr, re.DOTALL)
    started = world.journal.read(world.endpoint, release_id=last["release_id"])[0]
    assert started.actor == "ci"
    failed = watch(tmp_path / "nothing", QUICK, 1)
    assert json.loads(failed.stdout.splitlines()[-1])["outcome"] == "failed"
    # Refused before it began: there is no outcome, and the run's own error says which code it is.
    frozen = watch("unused", QUICK + "freeze: [{start: '* * * * *', end: '0 0 1 1 *'}]\n", 3)
    assert "is frozen until" in frozen.stderr
    unknown = watch("unused", QUICK, 2, "--deployment", "elsewhere")
    assert "the Prefect server has no deployment release/elsewhere" in unknown.stderr
    late = watch(models("pyfunc", does="negative"), "approvals: [{before: deploy}]\n", 5, "--timeout", "1")
    assert "goes on after 1 s" in late.stderr
    wait_for(lambda: world.stack.json("approvals"))
    world.stack.headgate("abort", world.endpoint, "--reason", "seen enough")
    world.assert_only(1)


def test_servers_of_ones_own_are_connected_and_what_people_have_set_of_a_pool_stays(world, tmp_path):
    headgate = Path(sys.executable).parent / "headgate"
    # A busy server whose database is locked says so with 503; Prefect's own client asks again, and its replies raise.
    url = f"{world.stack.env['PREFECT_API_URL']}/"
    api = PrefectHttpxSyncClient(base_url=url, auth=PrefectSignIn.of(url, world.stack.env))

    def connect(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [headgate, "connect", *arguments], env={**os.environ, **world.stack.env, "HEADGATE_ENGINE": "off", **env},
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    def pool(name: str) -> dict[str, Any]:
        return api.get(f"work_pools/{name}").json()

    def deployed() -> dict[str, Any]:
        return api.get("deployments/name/release/local").json()

    before = deployed()
    api.patch("work_pools/headgate", json={"concurrency_limit": 7})
    try:
        again = connect()
        assert again.returncode == 0, again.stderr
        assert pool("headgate")["concurrency_limit"] == 7
        assert deployed()["work_pool_name"] == "headgate"
        assert deployed()["job_variables"] == before["job_variables"]
        wrong = connect("--type", "docker")
        assert wrong.returncode == 2
        assert "headgate is of type process, and cannot become docker" in wrong.stderr
        made = connect("--pool", "elsewhere")
        assert made.returncode == 0, made.stderr
        assert deployed()["work_pool_name"] == "elsewhere"
        template = pool("elsewhere")["base_job_template"]
        template["variables"]["properties"]["stream_output"]["default"] = False
        file = tmp_path / "template.json"
        file.write_text(json.dumps(template))
        api.patch("work_pools/elsewhere", json={"is_paused": True})
        assert connect("--pool", "elsewhere", "--template", str(file)).returncode == 0
        changed = pool("elsewhere")
        assert changed["base_job_template"] == template
        assert changed["is_paused"]
        nobody = connect("--receiver", "http://127.0.0.1:1", MLFLOW_TRACKING_URI="")
        assert nobody.returncode == 2
        assert "MLFLOW_TRACKING_URI" in nobody.stderr
    finally:
        connect()
        api.patch("work_pools/headgate", json={"concurrency_limit": None})
        api.delete("work_pools/elsewhere")
        api.close()
