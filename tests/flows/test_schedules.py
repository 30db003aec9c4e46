"""What has to run by itself does: a schedule starts checks and reconcile, on the local stack and on PostgreSQL."""

from __future__ import annotations

import json
import os
import subprocess
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from conftest import QUICK, open_world, without
from support.own_servers import own_servers, prefect_server
from support.runs import by_schedule, every_ten_seconds
from support.stack import HEADGATE, http, prefect_settings, wait_for

from headgate.sign_in import PREFECT_SIGN_IN
from registry import Kind
from tasks.deployments import open_client
from tasks.upkeep import ask_prefect, of_prefect


@pytest.fixture(scope="module")
def postgresql(stack, postgres, tmp_path_factory):
    """Prefect and the journal on PostgreSQL, with a worker of their own."""
    engine = sa.create_engine(f"{postgres}/postgres", isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for name in ("prefect", "journal"):
            connection.execute(sa.text(f"CREATE DATABASE {name}"))
    engine.dispose()
    prefect = postgres.replace("+psycopg", "+asyncpg")
    with own_servers(stack, tmp_path_factory.mktemp("own"), f"{prefect}/prefect", f"{postgres}/journal") as servers:
        yield servers


@pytest.fixture(params=["stack", "postgresql"])
def servers(request):
    return request.getfixturevalue(request.param)


def test_checks_and_reconcile_start_by_themselves(servers, monkeypatch, models, tmp_path):
    reference = tmp_path / "reference.parquet"
    pd.DataFrame({"x": np.tile(np.arange(1.0, 21.0), 25)}).to_parquet(reference)
    text = f"{QUICK}monitor: {{schedule: '* * * * *', min_rows: 20, reference: {json.dumps(str(reference))}}}\n"
    file = tmp_path / "release.yaml"
    with open_world(servers, monkeypatch) as world:
        file.write_text(world.text(models("pyfunc", does="double"), text))
        world.stack.headgate("release", str(file))
        with world.traffic(rate=20):
            said = world.stack.headgate("watch", str(file)).stderr
            assert f"{world.endpoint} is watched; the next check is at " in said
            with every_ten_seconds("reconcile/local"), every_ten_seconds("monitor/local", world.endpoint):
                (first, *_) = wait_for(lambda: world.journal.read(world.endpoint, kinds=(Kind.CHECK,)), 180)
                wait_for(lambda: by_schedule(world, "reconcile"), 180)
                wait_for(lambda: by_schedule(world, "monitor"), 60)
        assert first.actor == "monitor"
        checked = [run for run in by_schedule(world, "monitor") if world.endpoint in run["parameters"]["spec"]]
        assert {run["state"]["name"] for run in [*checked, *by_schedule(world, "reconcile")]} == {"Completed"}
        problems = [
            one for one in world.stack.json("status", world.endpoint)["upkeep"] if one["subject"] == world.endpoint
        ]
        assert problems == []
        world.stack.headgate("unwatch", world.endpoint)
        # A release of the repository's own schedules.
        assert "the flows" in world.stack.headgate("connect", env=dict(world.stack.env)).stderr


def test_a_worker_that_is_gone_is_said_to_be(stack):
    """Prefect takes a worker for gone that has not been heard of for three of its heartbeats."""
    url = stack.env["PREFECT_API_URL"]
    wait_for(lambda: ask_prefect(url, env=stack.env).workers == {"headgate": 1}, 60)
    with without(stack, "worker"):
        wait_for(lambda: ask_prefect(url, env=stack.env).workers == {"headgate": 0}, 150)
        # Runs that are late by then are errors, too, and endpoints that other tests watch and that nothing checks.
        found = {one["subject"]: one["problem"] for one in stack.json("doctor", expect=1) if one["severity"] == "error"}
        assert found["work pool headgate"] == "workers online: 0"
        others = {name: problem for name, problem in found.items() if not name.startswith("schedule of ")}
        unchecked = {name for name, problem in others.items() if problem.startswith("is not checked")}
        assert set(others) - unchecked == {"worker", "work pool headgate"}, others
        gone = 'headgate_workers_online{work_pool="headgate"} 0.0'
        metrics = wait_for(lambda: gone in (text := http.get(f"{stack.ports.receiver_url}/metrics").text) and text, 60)
        assert "headgate_prefect_up 1.0" in metrics
    wait_for(lambda: ask_prefect(url, env=stack.env).workers == {"headgate": 1}, 60)


def test_a_server_whose_background_services_do_nothing_is_said_to(stack, tmp_path, monkeypatch):
    """As it was with SQLAlchemy 2.1: the server answers, and makes no run of any schedule."""
    off = {f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "false" for name in ("SCHEDULER", "LATE_RUNS")}
    with prefect_server(tmp_path, **off) as url:
        env = {**os.environ, **stack.env, "PREFECT_API_URL": url, "PREFECT_HOME": str(tmp_path)}
        del env[PREFECT_SIGN_IN]
        assert not ask_prefect(url).deployed
        done = subprocess.run([HEADGATE, "connect"], env={**env, "HEADGATE_ENGINE": "off"}, capture_output=True,
                              text=True, check=False)  # fmt: skip
        assert done.returncode == 0, done.stderr
        # New schedules are given 90 s.
        soon = datetime.now(UTC) + timedelta(minutes=2)
        assert ask_prefect(url).schedules == []
        (found,) = ask_prefect(url, soon).schedules
        assert (found.name, found.next_run) == ("reconcile/local", None)
        from prefect.states import Scheduled

        with prefect_settings({"PREFECT_API_URL": url}), open_client() as client:
            deployment = client.read_deployment_by_name("reconcile/local")
            for minutes in (10, 20):
                due = soon + timedelta(minutes=minutes)
                client.create_flow_run_from_deployment(deployment.id, state=Scheduled(scheduled_time=due))
        late, workers = of_prefect(ask_prefect(url, soon + timedelta(minutes=15)))
        assert late.problem.startswith("its oldest run is 5 min late (Scheduled), and the Prefect server did not mark")
        assert workers.problem == "workers online: 0"
    assert ask_prefect(url).problem.startswith("does not answer")
