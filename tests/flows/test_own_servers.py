"""Servers of one's own, as docs/own-servers.md sets them up: Prefect, MLflow and the journal on PostgreSQL.

The two workers have different environments: this checkout, and the wheel, installed under another Python elsewhere.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import psutil
import pytest
from conftest import LONG, QUICK, open_world
from support import own_servers, watched_logs
from support.journals import Postgres, running_postgres
from support.runs import by_schedule, every_ten_seconds
from support.stack import HEADGATE, Stack, headgate, wait_for

from headgate.home import Home
from headgate.phases import Outcome, Phase
from headgate.stack import Ports, Supervisor
from headgate.stack.ports import free_port
from registry import Kind, history
from registry.lease import holder

REPOSITORY = Path(__file__).parents[2]
UV = str(Path(sys.executable).parent / "uv")
SECRET = "what MLflow signs with"
AWAY = (
    "ConnectionRefusedError|Connection refused|server closed the connection|terminating connection|"
    "CannotConnectNowError|does not answer"
)

pytestmark = [pytest.mark.timeout(1500), pytest.mark.expects_errors(AWAY, watched_logs.PREFECT_AWAY)]


@dataclass
class Platform:
    """The servers, and what the test does to them."""

    stack: Stack
    folder: Path
    elsewhere: Path
    postgres: Postgres
    prefect: ExitStack
    prefect_port: int
    prefect_database: str

    def run(self, *command: str, expect: int = 0, **env: str) -> str:
        """Run a command in another folder than the checkout; gives what it printed."""
        done = subprocess.run(
            command, cwd=self.elsewhere, env={**os.environ, **self.stack.env, **env}, capture_output=True, text=True,
            check=False, timeout=600,
        )  # fmt: skip
        assert done.returncode == expect, f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def released(self, file: str, expect: int = 0) -> str:
        """Have a worker release a file; gives how it ended."""
        said = self.run(HEADGATE, "release", file, "--watch", "--json", expect=expect)
        return json.loads(next(line for line in said.splitlines() if line.startswith("{")))["outcome"]

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        """Start a command in another folder than the checkout; what it prints goes to files there."""
        with (self.elsewhere / "out").open("wb") as out, (self.elsewhere / "err").open("wb") as err:
            return subprocess.Popen(
                command, cwd=self.elsewhere, env={**os.environ, **self.stack.env}, stdout=out, stderr=err
            )

    def printed(self, name: str) -> str:
        """What the last command that was started has printed on `out` or `err`."""
        return (self.elsewhere / name).read_text()

    def restart_prefect(self) -> None:
        self.prefect.close()
        self.prefect.enter_context(own_servers.prefect_server(self.folder, self.prefect_database, self.prefect_port))

    def deployments(self) -> list[dict[str, object]]:
        """What a worker is told of each deployment."""
        found = self.stack.prefect.post("/deployments/filter", json={}).json()
        kept = ("name", "entrypoint", "path", "pull_steps", "work_pool_name", "job_variables")
        return sorted(({key: one[key] for key in kept} for one in found), key=lambda one: str(one["entrypoint"]))


@pytest.fixture(scope="module")
def other_python(tmp_path_factory):
    """An installation of the wheel, under another Python where there is one; gives its interpreter."""
    folder = tmp_path_factory.mktemp("another place")
    subprocess.run([UV, "build", "-q", "--wheel", "--out-dir", str(folder), str(REPOSITORY)], check=True)
    (wheel,) = folder.glob("*.whl")
    known = [subprocess.run([UV, "python", "find", one], check=False, capture_output=True) for one in ("3.12", "3.13")]
    others = [found.stdout.decode().strip() for found in known if found.returncode == 0]
    subprocess.run([UV, "venv", "-q", "--python", (others or [sys.executable])[0], str(folder / "venv")], check=True)
    python = folder / "venv" / "bin" / "python"
    locked = ["--constraints", str(REPOSITORY / "requirements.lock")]
    subprocess.run([UV, "pip", "install", "-q", "--python", str(python), *locked, f"{wheel}[postgresql]"], check=True)
    return str(python)


@pytest.fixture(scope="module")
def platform(tmp_path_factory, layers_cache):
    """Everything of docs/own-servers.md but the workers."""
    root, folder = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("own")
    with ExitStack() as opened:
        postgres = opened.enter_context(running_postgres(tmp_path_factory.mktemp("postgres")))
        postgres.create("prefect", "mlflow", "journal")
        database = f"{postgres.url.replace('+psycopg', '+asyncpg')}/prefect"
        prefect = opened.enter_context(ExitStack())
        port = free_port(for_what="Prefect")
        api = prefect.enter_context(own_servers.prefect_server(folder, database, port))
        tracking = opened.enter_context(own_servers.mlflow_server(folder, f"{postgres.url}/mlflow"))
        env = {
            "HEADGATE_HOME": str(root), "PREFECT_API_URL": api, "MLFLOW_TRACKING_URI": tracking,
            "PREFECT_HOME": str(folder / "client"), "HEADGATE_JOURNAL_URL": f"{postgres.url}/journal",
        }  # fmt: skip
        takes = opened.enter_context(own_servers.receiver(folder, SECRET, **env))
        layers_cache(Home(root).ensure())
        headgate("up", root=root, env=env)
        opened.callback(headgate, "down", root=root, env=env)
        headgate("connect", "--receiver", takes, root=root, env={**env, "HEADGATE_WEBHOOK_SECRET": SECRET})
        ports = Ports.remembered(Home(root))
        watched_logs.watch(folder)
        elsewhere = tmp_path_factory.mktemp("nowhere")
        yield Platform(Stack(root, ports, env), folder, elsewhere, postgres, prefect, port, database)
        watched_logs.unwatch(folder)


def test_beside_servers_of_ones_own_only_the_gateway_and_the_guard_are_started(platform):
    assert set(Supervisor(platform.stack.home).states()) == {"gateway", "guard"}
    said = headgate("up", root=platform.stack.root, env=platform.stack.env).stderr
    assert f"PREFECT_API_URL names {platform.stack.env['PREFECT_API_URL']}, which is used" in said
    doctor = subprocess.run(
        [HEADGATE, "doctor", "--json"], env={**os.environ, **platform.stack.env}, capture_output=True, check=False
    )  # fmt: skip
    found = {one["subject"]: one for one in json.loads(doctor.stdout)}
    assert platform.stack.env["PREFECT_API_URL"] in found["prefect"]["problem"]
    assert platform.stack.env["MLFLOW_TRACKING_URI"] in found["mlflow"]["problem"]
    assert found["mlflow webhook"]["severity"] == "ok"
    # There may be no worker at this moment.
    assert {name for name, one in found.items() if one["severity"] == "error"} <= {"work pool headgate"}
    assert "prefect lease storage" in [name for name, one in found.items() if one["severity"] == "warning"]


def test_a_deployment_does_not_say_who_has_deployed_it(platform, other_python):
    def deploy(python: str, folder: Path) -> list[dict[str, object]]:
        command = [python, "-m", "prefect", "--no-prompt", "deploy", "--all"]
        subprocess.run(
            [*command, "--prefect-file", "prefect.yaml"], cwd=folder, env={**os.environ, **platform.stack.env},
            check=True, capture_output=True,
        )  # fmt: skip
        return platform.deployments()

    connected = platform.deployments()
    assert {one["entrypoint"] for one in connected} >= {"flows.release.release", "flows.reconcile.reconcile"}
    step = {"prefect.deployments.steps.set_working_directory": {"directory": "."}}
    assert all(one["pull_steps"] == [step] for one in connected), "they stay where they are, on every worker"
    installed = subprocess.run(
        [other_python, "-c", "import flows; print(flows.__path__[0])"], capture_output=True, text=True, check=True,
        cwd=platform.elsewhere,
    ).stdout.strip()  # fmt: skip
    assert not installed.startswith(str(REPOSITORY))
    assert deploy(sys.executable, REPOSITORY) == connected
    assert deploy(other_python, Path(installed)) == connected
    assert str(REPOSITORY) not in json.dumps(connected)
    assert str(Path(installed).parent) not in json.dumps(connected)


@pytest.fixture
def world(platform, monkeypatch):
    for name, value in platform.stack.env.items():
        monkeypatch.setenv(name, value)
    with open_world(platform.stack, monkeypatch) as made:
        made.journal.close()
        made.journal = type(made.journal)(platform.stack.env["HEADGATE_JOURNAL_URL"])
        yield made


def test_a_day_on_servers_of_ones_own(platform, world, models, other_python, tmp_path):
    env = platform.stack.env
    reference = tmp_path / "reference.parquet"
    pd.DataFrame({"x": np.tile(np.arange(1.0, 21.0), 25)}).to_parquet(reference)
    more = QUICK + "release_when: {alias: release-me}\n"
    more += f"monitor: {{schedule: '* * * * *', min_rows: 20, reference: {json.dumps(str(reference))}}}\n"

    def file(does: str, text: str = more) -> str:
        written = tmp_path / "release.yaml"
        written.write_text(world.text(models("pyfunc", does=does), text))
        return str(written)

    def elsewhere():
        return own_servers.worker(platform.folder, "worker-elsewhere", other_python, **env)

    with elsewhere():
        # Prefect's own command, in a folder that has nothing to do with Headgate, and a worker of another environment.
        platform.run(
            str(Path(sys.executable).parent / "prefect"), "deployment", "run", "release/local", "--watch", "--param",
            f"spec={file('double')}",
        )  # fmt: skip
        assert world.live == 1
    with own_servers.worker(platform.folder, "worker-here", **env), world.traffic():
        assert f"{world.endpoint} is watched" in platform.run(HEADGATE, "watch", file("double"))
        with every_ten_seconds("reconcile/local"):
            wait_for(lambda: world.journal.read(world.endpoint, kinds=(Kind.CHECK,)), 180)
            wait_for(lambda: by_schedule(world, "reconcile"), 180)
        released_by_alias(world, models)
        platform.run(HEADGATE, "unwatch", world.endpoint)
        approving = file("double", QUICK + "approvals: [{before: shift, expires: 5s}]\n")
        assert platform.released(approving, expect=3) == "rejected"
        assert world.live == 2
    with elsewhere() as process, world.traffic():
        a_worker_dies(platform, world, file("double", LONG), process)
    with elsewhere(), own_servers.worker(platform.folder, "worker-here", **env), world.traffic(may_lose=True):
        servers_go_and_come_back(platform, world, file("double", LONG))
        assert platform.released(file("double", QUICK)) == "promoted"


def released_by_alias(world, models) -> None:
    mlflow.set_tracking_uri(world.stack.env["MLFLOW_TRACKING_URI"])
    with mlflow.start_run() as run:
        mlflow.log_artifacts(str(models("pyfunc", does="negative")), "model")
    client = mlflow.MlflowClient()
    version = client.create_model_version(world.endpoint, f"{run.info.artifact_uri}/model", run.info.run_id)
    client.set_registered_model_alias(world.endpoint, "release-me", version.version)
    assert world.ended(2).outcome is Outcome.PROMOTED


def a_worker_dies(platform: Platform, world, file: str, process: subprocess.Popen[bytes]) -> None:
    """Kill the worker with all that it has started: the guard puts clients back on the champion."""
    watching = platform.start(HEADGATE, "release", file, "--watch", "--json")
    wait_for(lambda: is_shifting(world), 180)
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for one in family:
        one.kill()
    assert watching.wait(180) == 4
    assert world.live == 2
    wait_for(lambda: holder(world.journal, world.endpoint) is None, 60)


def servers_go_and_come_back(platform: Platform, world, file: str) -> None:
    """Stop the databases of all servers for a while, and Prefect: whoever watches the release is told how it ended."""
    watching = platform.start(HEADGATE, "release", file, "--watch", "--json")
    wait_for(lambda: is_shifting(world), 180)
    platform.postgres.stop("fast")
    wait_for(lambda: "waits for the journal" in platform.printed("err"), 60)
    platform.postgres.start()
    platform.restart_prefect()
    code = watching.wait(240)
    ended = json.loads(platform.printed("out").splitlines()[-1])
    outcome = {0: "promoted", 1: "failed", 4: "rolled back"}[code]
    assert ended["outcome"] == outcome
    assert "the journal answers again" in platform.printed("err")
    wait_for(lambda: holder(world.journal, world.endpoint) is None, 120)
    wait_for(lambda: world.live == (ended["version"] if outcome == "promoted" else 2), 120)


def is_shifting(world) -> bool:
    """Whether clients are given the version of the release in flight."""
    flight = history.in_flight(world.journal, world.endpoint)
    return flight is not None and flight.phase is Phase.SHIFTING and len(world.state.traffic.weights) > 1
