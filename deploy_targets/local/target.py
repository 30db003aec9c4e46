"""The local target: a revision is one supervised server process, behind the gateway of the local stack."""

from __future__ import annotations

import shutil
import time
import uuid
from typing import TYPE_CHECKING, ClassVar

import httpx

from deploy_targets import envoy_config, prediction_log
from deploy_targets.envoy import Gateway
from deploy_targets.protocol import Feature
from headgate.errors import HomeError, RevisionFailedError, TargetError, TargetUnavailableError
from headgate.home import Home
from headgate.records import (
    Counts,
    EndpointState,
    Finding,
    Payload,
    Prediction,
    Revision,
    RevisionState,
    Traffic,
    Window,
)
from headgate.stack import Ports, Program, Supervisor
from headgate.stack.ports import HOST, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import pyarrow as pa

_READY_POLL_SECONDS = 0.1
_INVOKE_SECONDS = 60.0
_LOG_LINES = 15


class LocalTarget:
    """Processes of `serving/`, each in its model's own environment, with weights in Envoy.

    Args:
        home: the folder of the local stack; HEADGATE_HOME by default.
    """

    UNSUPPORTED: ClassVar[Mapping[Feature, str]] = {
        Feature.AUTOSCALING: "a fixed number of worker processes runs; set replicas.min and replicas.max alike",
        Feature.CPU_LIMIT: "processes share this machine's cores",
        Feature.MEMORY_LIMIT: "processes share this machine's memory",
    }
    LATENCY_BOUNDS: ClassVar[tuple[float, ...]] = envoy_config.LATENCY_SECONDS

    def __init__(self, home: Home | None = None) -> None:
        self._home = home or Home.from_env()
        ports = Ports.remembered(self._home)
        if ports is None:
            raise TargetUnavailableError("the local stack was never started", fix="headgate up")
        self._gateway = Gateway(self._home.gateway, ports)
        self._supervisor = Supervisor(self._home)

    def preflight(self) -> list[Finding]:
        """Whether the gateway and the supervisor run."""
        findings = []
        if not self._supervisor.is_up():
            findings.append(
                Finding(severity="error", subject="supervisor", problem="supervisord is not up", fix="headgate up")
            )
        elif not self._gateway.is_up():
            findings.append(
                Finding(
                    severity="error", subject="gateway", problem="Envoy is not up",
                    fix=f"headgate up, then read {self._supervisor.log_file('gateway')}",
                )
            )  # fmt: skip
        return findings

    def observe(self, endpoint: str) -> EndpointState | None:
        """Read the revisions' processes, Envoy's health checks and the routes in effect."""
        revisions = self._gateway.revisions(endpoint)
        traffic = self._gateway.traffic(endpoint)
        if not revisions and traffic is None:
            return None
        if not self._supervisor.is_up():
            raise TargetUnavailableError("supervisord does not answer", fix="headgate up")
        programs = self._supervisor.states()
        seen = {}
        for name, state in revisions.items():
            program = programs.get(_program_name(endpoint, name))
            running = program is not None and program.state == "RUNNING"
            detail = state.detail or ("" if running else f"its process is {program.state if program else 'gone'}")
            seen[name] = state.model_copy(update={"ready": state.ready and running, "detail": detail})
        return EndpointState(endpoint=endpoint, url=self._gateway.url(endpoint), revisions=seen, traffic=traffic)

    def deploy(self, endpoint: str, revision: Revision) -> None:
        """Start the revision's process, wait until it is ready, and make it known to Envoy."""
        existing = self._gateway.revisions(endpoint).get(revision.name)
        port = _port_of(existing) if existing else self._choose_port(endpoint)
        program = self._program(endpoint, revision, port)
        try:
            self._supervisor.ensure(program)
            self._wait_until_ready(program.name, port, revision)
            self._gateway.add(endpoint, revision.name, port, revision.version)
        except BaseException:
            if existing is None:
                self._discard(endpoint, revision.name)
            raise

    def route(self, endpoint: str, traffic: Traffic) -> None:
        """Write the weights; a revision that is to get traffic must be ready."""
        states = self._gateway.revisions(endpoint)
        for name, weight in traffic.weights.items():
            if weight > 0 and (name not in states or not states[name].ready):
                detail = states[name].detail if name in states else "is not deployed"
                raise TargetError(f"no traffic to {name} of {endpoint}: it {detail}", fix="headgate status")
        if traffic.mirror and traffic.mirror.revision not in states:
            raise TargetError(f"no mirror to {traffic.mirror.revision} of {endpoint}: it is not deployed")
        self._gateway.set_traffic(endpoint, traffic)

    def counts(self, endpoint: str) -> Mapping[str, Counts]:
        """Envoy's counters, one reading."""
        return self._gateway.counts(endpoint)

    def captured(self, endpoint: str, window: Window) -> Iterator[pa.RecordBatch]:
        """The log of every revision's process."""
        for folder in sorted((self._home.revisions / endpoint).glob("*/predictions")):
            yield from prediction_log.read(folder, endpoint, folder.parent.name, window)

    def invoke(self, endpoint: str, payload: Payload, revision: str | None = None) -> Prediction:
        """Call through the gateway, or one revision's process directly."""
        url = self._gateway.url(endpoint)
        if revision is not None:
            states = self._gateway.revisions(endpoint)
            if revision not in states:
                raise TargetError(f"{endpoint} has no revision {revision}", fix="headgate status")
            url = f"{states[revision].address}/invocations"
        request_id = str(uuid.uuid4())
        began = time.perf_counter()
        try:
            reply = httpx.post(
                url, content=payload.body, timeout=_INVOKE_SECONDS,
                headers={"content-type": payload.content_type, "x-request-id": request_id},
            )  # fmt: skip
        except httpx.HTTPError as error:
            raise TargetUnavailableError(f"{url} does not answer: {error}", fix="headgate status") from error
        return Prediction(
            status=reply.status_code, body=reply.content,
            request_id=reply.headers.get("x-request-id", request_id), seconds=time.perf_counter() - began,
        )  # fmt: skip

    def retire(self, endpoint: str, revision: str) -> None:
        """Take the revision out of Envoy, then end its process and remove what it wrote."""
        traffic = self._gateway.traffic(endpoint)
        if traffic is not None and traffic.uses(revision):
            raise TargetError(
                f"{revision} of {endpoint} still has traffic: {traffic.weight(revision)} basis points"
                + (", mirrored" if traffic.mirror and traffic.mirror.revision == revision else "")
            )
        self._gateway.remove(endpoint, revision)
        self._discard(endpoint, revision)

    def delete(self, endpoint: str) -> None:
        """Remove the route first, then every revision."""
        if self._gateway.traffic(endpoint) is not None:
            self._gateway.set_traffic(endpoint, None)
        for name in self._gateway.revisions(endpoint):
            self.retire(endpoint, name)
        shutil.rmtree(self._home.revisions / endpoint, ignore_errors=True)

    def _choose_port(self, endpoint: str) -> int:
        taken = {
            _port_of(state)
            for name in {endpoint, *self._gateway.endpoints()}
            for state in self._gateway.revisions(name).values()
        }
        try:
            return free_port(for_what=f"a revision of {endpoint}", besides=taken)
        except HomeError as error:
            raise RevisionFailedError(error.message, fix=error.fix) from error

    def _program(self, endpoint: str, revision: Revision, port: int) -> Program:
        scratch = self._scratch(endpoint, revision.name)
        scratch.mkdir(parents=True, exist_ok=True)
        env = {
            **revision.env,
            "HEADGATE_HOST": HOST,
            "HEADGATE_SCRATCH": str(scratch),
            "HEADGATE_WORKERS": str(revision.workers),
            "HEADGATE_REVISION": revision.name,
            "HEADGATE_ENDPOINT": endpoint,
            "PORT": str(port),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
        }
        command = [str(revision.image.interpreter), "-m", "serving"]
        return Program(
            _program_name(endpoint, revision.name), command, env, folder=revision.image.path, stop_seconds=20
        )

    def _wait_until_ready(self, program: str, port: int, revision: Revision) -> None:
        deadline = time.monotonic() + revision.ready_timeout
        with httpx.Client(base_url=f"http://{HOST}:{port}", timeout=2) as client:
            while not _answers(client):
                state = self._supervisor.states().get(program)
                if state is None or state.has_ended:
                    raise RevisionFailedError(
                        f"{revision.name} cannot start ({state.detail if state else 'no process'}):\n"
                        + self._supervisor.log_tail(program, _LOG_LINES),
                        fix=f"the whole log is {self._supervisor.log_file(program)}",
                    )
                if time.monotonic() > deadline:
                    raise RevisionFailedError(
                        f"{revision.name} is not ready after {revision.ready_timeout:g} s; its log ends:\n"
                        + self._supervisor.log_tail(program, _LOG_LINES),
                        fix="raise runtime.ready_timeout, or see why loading takes so long",
                    )
                time.sleep(_READY_POLL_SECONDS)

    def _discard(self, endpoint: str, revision: str) -> None:
        self._supervisor.remove(_program_name(endpoint, revision))
        shutil.rmtree(self._scratch(endpoint, revision), ignore_errors=True)

    def _scratch(self, endpoint: str, revision: str) -> Path:
        return self._home.revisions / endpoint / revision


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/ping").status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def _program_name(endpoint: str, revision: str) -> str:
    return f"{endpoint}--{revision}"


def _port_of(state: RevisionState) -> int:
    return int(state.address.rpartition(":")[2])
