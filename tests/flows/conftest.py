"""Releases on the whole local stack, run in this process as a user's own Python would."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from client import Client
from support import cluster
from support.cloud_worlds import on_sagemaker
from support.oci_registry import registry
from support.processor import slowness
from support.stack import HEADGATE, http, prefect_settings, wait_for
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from deploy_targets import open_target
from deploy_targets.docker import DockerTarget
from deploy_targets.local import LocalTarget
from headgate.errors import EndpointBusyError
from headgate.records import ReleaseResult
from headgate.release_file import parse_release
from headgate.stack import Supervisor
from headgate.target_settings import settings_of
from registry import Journal, Kind, Lease, Versions, history
from registry.lease import holder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx
    from support.cloud_worlds import CloudWorld
    from support.stack import Stack

collect_ignore = [] if cluster.CONTEXT and not cluster.LOAD else ["test_kubernetes_releases.py"]

_numbers = itertools.count(1)

# Wide margins, which a few seconds of traffic can show.
WIDE = "judge: {error_rate: {margin_points: 20%}, latency: {quantiles: [0.5], floor: 1s}}\n"
QUICK = (
    "gates: {shadow: {min_requests: 40, max_duration: 20s, max_disagreement: 20%}}\n"
    "strategy: {steps: [20%, 50%], min_requests: 60, min_duration: 2s, max_duration: 30s}\n" + WIDE
)


# It looks for longer than a test takes, unless someone ends it.
LONG = QUICK.replace("min_duration: 2s, max_duration: 30s", "min_duration: 50s, max_duration: 60s")


class World:
    """One endpoint of its own, and everything that can be seen of it."""

    def __init__(self, stack: Stack, kind: str = "local", **settings: Any) -> None:
        self.stack = stack
        self.settings = {"kind": kind, **settings}
        self.endpoint = f"flow-{next(_numbers)}{os.environ.get('PYTEST_XDIST_WORKER', '')}"
        ours: Any = {"local": LocalTarget, "docker": DockerTarget}
        self.target: Any = (
            ours[kind](stack.home) if kind in ours else open_target(settings_of(kind).model_validate(self.settings))
        )
        self.client_options: dict[str, Any] = {}
        self.journal = Journal(stack.home.journal_url)

    def text(self, artifact: Path | str, more: str = QUICK) -> str:
        target = json.dumps(self.settings)
        return f"model: {self.endpoint}\nartifact: {json.dumps(str(artifact))}\ntarget: {target}\n{more}"

    def release(self, artifact: Path | str, more: str = QUICK, **options: Any) -> ReleaseResult:
        from flows.release import release

        # Also in a thread, which knows no other settings than those that Prefect was imported with.
        with prefect_settings(self.stack.env):
            return asyncio.run(release(parse_release(self.text(artifact, more)), **options))

    def submit(self, artifact: Path | str, more: str = QUICK, **parameters: str) -> str:
        """Have the stack's worker release something; gives the flow run's id."""
        from tasks.deployments import submit

        spec = parse_release(self.text(artifact, more)).model_dump(mode="json")
        return str(submit("release/local", {"spec": spec, **parameters}))

    def ended(self, number: int = 1, seconds: float = 240.0) -> ReleaseResult:
        """How the endpoint's release of that number ended, counted from 1, once it has and lets go of the endpoint."""
        wait_for(lambda: len(self.outcomes()) >= number and holder(self.journal, self.endpoint) is None, seconds)
        return ReleaseResult.model_validate(self.outcomes()[number - 1])

    def outcomes(self) -> list[Any]:
        """The results of what has ended, in order; a release that was held has one more."""
        rows = self.journal.read(self.endpoint, kinds=(Kind.DECISION,))
        return [row.evidence["result"] for row in rows if row.what == "outcome"]

    def run_state(self, run: str) -> str:
        """What Prefect says about a flow run."""
        return str(self.stack.prefect.get(f"/flow_runs/{run}").json()["state"]["name"])

    def rollback(self, reason: str = "test", **options: Any) -> ReleaseResult:
        from flows.rollback import rollback

        return asyncio.run(rollback(self.endpoint, reason, **options))

    @property
    def live(self) -> int | None:
        reign = history.champion(self.journal, self.endpoint)
        return reign.revision.version.version if reign else None

    @property
    def versions(self) -> Versions:
        return Versions(self.stack.ports.mlflow_url, self.endpoint, self.endpoint)

    @property
    def aliases(self) -> dict[str, int]:
        return self.versions.aliases()

    @property
    def state(self):
        return self.target.observe(self.endpoint)

    def ask(self, x: float = 1.0) -> httpx.Response:
        return http.post(self.state.url, json={"dataframe_records": [{"x": x}]})

    @contextmanager
    def traffic(self, *, low: float = 1.0, rate: float = 100.0, may_lose: bool = False) -> Iterator[Client]:
        """Clients that ask for the double of numbers from `low` on; without `may_lose` each has to get an answer.

        `rate` is what a usual machine is asked a second; a slow one is asked as much less often.
        """
        rows = pd.DataFrame({"x": [low + number for number in range(20)]})
        truth = rows["x"].map(lambda x: {"x": x * 2})
        with Client(self.state.url, rows, truth, rate / slowness(), **self.client_options) as client:
            yield client
        assert may_lose or client.lost == 0

    def assert_only(self, version: int) -> None:
        """Traffic, aliases, history and processes all agree on one version, and nothing else is in flight."""
        assert self.live == version
        assert self.state.traffic.holder.startswith(f"v{version}-")
        assert self.state.traffic.mirror is None
        assert self.aliases == {"champion": version}
        assert history.in_flight(self.journal, self.endpoint) is None
        assert self.journal.verify(self.endpoint) > 0

    def share(self, version: int) -> int:
        """A version's basis points of the traffic."""
        weights = self.state.traffic.weights
        return sum(weight for name, weight in weights.items() if name.startswith(f"v{version}-"))

    def delete(self) -> None:
        """Remove the endpoint, which nobody gives back to its champion meanwhile."""
        busy = retry_if_exception_type(EndpointBusyError)
        for attempt in Retrying(retry=busy, stop=stop_after_delay(60), wait=wait_fixed(0.2), reraise=True):
            with attempt, Lease(self.journal, self.endpoint, "end", unpark=True) as lease:
                self.target.delete(self.endpoint, fence=lease.fence)

    def processes(self) -> set[str]:
        """The versions that have a process."""
        names = [name for name in Supervisor(self.stack.home).states() if name.startswith(f"{self.endpoint}--")]
        return {name.removeprefix(f"{self.endpoint}--").partition("-")[0] for name in names}


@contextmanager
def open_world(stack, monkeypatch, kind: str = "local", **settings: Any) -> Iterator[World]:
    for name, value in stack.env.items():
        monkeypatch.setenv(name, value)
    with prefect_settings(stack.env):
        opened = World(stack, kind, **settings)
        try:
            yield opened
            opened.delete()
        finally:
            opened.journal.close()


@pytest.fixture
def world(stack, monkeypatch):
    with open_world(stack, monkeypatch) as opened:
        yield opened


@pytest.fixture(scope="module")
def aws(tmp_path_factory):
    """SageMaker's double, where one cloud is enough."""
    with on_sagemaker(tmp_path_factory.mktemp("cloud")) as running:
        yield running


@pytest.fixture
def in_cloud(stack, monkeypatch, images, docker_base, layers_cache, tmp_path):
    """Opens a world on a cloud's double, whose minutes are seconds; in a journal of its own."""

    @contextmanager
    def opened(where: CloudWorld, **settings: Any) -> Iterator[World]:
        monkeypatch.setenv("HEADGATE_JOURNAL_URL", f"sqlite:///{tmp_path}/journal.db")
        layers_cache(stack.home)
        monkeypatch.setattr(where.target, "LOOK_SECONDS", 1.0)
        monkeypatch.setattr(where.target, "LOG_DELAY", 10.0)
        # The clouds' own clients wait for seconds between their tries.
        monkeypatch.setattr("deploy_targets.vertex.google._RETRIES", 0)
        monkeypatch.setattr("deploy_targets.azure_ml.arm._RETRIES", 0)
        for name, value in {**where.environment, "HEADGATE_BASE_IMAGE": docker_base}.items():
            monkeypatch.setenv(name, value)
        with open_world(stack, monkeypatch, where.kind, **where.settings, **settings) as world:
            headers = {"authorization": where.authorization(world.target)}
            world.client_options = {"headers": headers, "revision": where.revision}
            world.more = f"image: {{repository: {images}/{world.endpoint}}}\n"
            yield world
            where.double.faults.clear()
        assert not [name for name in where.left() if name.startswith(world.endpoint)]

    return opened


@contextmanager
def in_background(call, *args):
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(call, *args)


@contextmanager
def without(stack: Stack, program: str) -> Iterator[None]:
    supervisor = Supervisor(stack.home)
    supervisor._call("stopProcess", program)
    try:
        yield
    finally:
        supervisor._call("startProcess", program)


@pytest.fixture
def unguarded(stack):
    """Nobody sees to what is abandoned, until the test does."""
    with without(stack, "guard"):
        yield


@pytest.fixture
def workerless(stack):
    """Nor does a run that an automation or a schedule starts."""
    with without(stack, "worker"):
        yield


@pytest.fixture
def background(world, tmp_path):
    """`headgate release` in a process of its own; gives the process."""
    started = []

    def release(artifact, more=QUICK, *options, **env):
        file = tmp_path / f"release-{len(started)}.yaml"
        file.write_text(world.text(artifact, more))
        command = [HEADGATE, "release", str(file), "--json", *options]
        environment = {**os.environ, "HEADGATE_HOME": str(world.stack.root), **env}
        started.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
        return started[-1]

    yield release
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def shifting(world, models, background):
    """A release that has a share of the traffic, in a process of its own, for as long as a test needs it."""
    world.release(models("pyfunc", does="double"))
    with world.traffic():
        process = background(models("pyfunc", does="negative"), LONG)
        wait_for(lambda: world.share(2) > 0, 180)
        yield process


@pytest.fixture
def docker_world(stack, monkeypatch, docker_base, layers_cache):
    layers_cache(stack.home)
    monkeypatch.setenv("HEADGATE_BASE_IMAGE", docker_base)
    with open_world(stack, monkeypatch, "docker") as opened:
        yield opened


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """A registry of images; its address."""
    with registry(tmp_path_factory.mktemp("registry")) as host:
        yield host
