"""What the local and the Docker target share: servers of this machine, each at a port, behind one Envoy."""

from __future__ import annotations

import shutil
import time
import uuid
import weakref
from abc import ABC, abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Self

import httpx

from deploy_targets import envoy_config, prediction_log
from deploy_targets.envoy import Gateway
from deploy_targets.protocol import ImageRepository
from headgate.errors import HomeError, RevisionFailedError, TargetError, TargetUnavailableError
from headgate.findings import Finding
from headgate.home import Home
from headgate.records import (
    Counts,
    EndpointState,
    Payload,
    Prediction,
    Revision,
    RevisionState,
    Traffic,
    Window,
)
from headgate.stack import Ports, Supervisor
from headgate.stack.ports import HOST, free_port
from headgate.units import BASIS_POINTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import pyarrow as pa

    from deploy_targets.protocol import Feature
    from headgate.records import Alarm
    from headgate.target_settings import Target

NOBODY_STARTS_IT = "nobody here would start a server when it is asked; set replicas.min to 1"
PROMETHEUS_RINGS = "alerts here are those of Prometheus; have Alertmanager tell the receiver of them"
_READY_POLL_SECONDS = 0.1
_INVOKE_SECONDS = 60.0


class BehindEnvoy(ABC):
    """Revisions that are servers of this machine; a subclass starts and ends them.

    Args:
        home: the folder of the local stack; HEADGATE_HOME by default.
    """

    LATENCY_BOUNDS: ClassVar[tuple[float, ...]] = envoy_config.LATENCY_SECONDS
    SUBSTITUTED: ClassVar[Mapping[Feature, str]] = {}
    CALLS: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    LOOK_SECONDS: ClassVar[float] = 1.0
    LOG_DELAY: ClassVar[float] = 5.0
    WEIGHT_STEP: ClassVar[int] = 1
    MIRROR_LIMIT: ClassVar[int] = BASIS_POINTS

    def __init__(self, home: Home | None = None) -> None:
        self._home = home or Home.from_env()
        ports = Ports.remembered(self._home)
        if ports is None:
            raise TargetUnavailableError("the local stack was never started", fix="headgate up")
        self._gateway = Gateway(self._home.gateway, ports)
        self._supervisor = Supervisor(self._home)

    @classmethod
    def of(cls, settings: Target) -> Self:  # noqa: ARG003 - there are none
        """The target of this machine's stack."""
        return cls()

    @abstractmethod
    def _servers(self, endpoint: str) -> Mapping[str, RevisionState]:
        """The endpoint's servers: each one's version and port, where these are known, and why it is not running."""

    @abstractmethod
    def _served(self) -> set[str]:
        """The endpoints that have a server."""

    @abstractmethod
    def _start(self, endpoint: str, revision: Revision, port: int) -> None:
        """Start a server that is not there; nothing happens where it runs."""

    @abstractmethod
    def _has_ended(self, endpoint: str, revision: str) -> str:
        """Why a server will not become ready, with the end of its log; empty where it still may."""

    @abstractmethod
    def _log_tail(self, endpoint: str, revision: str) -> str:
        """The end of a server's log."""

    @abstractmethod
    def _where_log(self, endpoint: str, revision: str) -> str:
        """How its whole log is read."""

    @abstractmethod
    def _end(self, endpoint: str, revision: str) -> None:
        """End a server and forget it; nothing happens where it is gone."""

    def preflight(self) -> list[Finding]:
        """Whether the gateway and the supervisor run."""
        if not self._supervisor.is_up():
            return [Finding(severity="error", subject="supervisor", problem="supervisord is not up", fix="headgate up")]
        if not self._gateway.is_up():
            fix = f"headgate up, then read {self._supervisor.log_file('gateway')}"
            return [Finding(severity="error", subject="gateway", problem="Envoy is not up", fix=fix)]
        return []

    def permissions(self) -> str:
        """Nothing: whoever may use this machine may release on it."""
        return ""

    def repository(self, model: str, named: str) -> ImageRepository:  # noqa: ARG002 - none is made
        """What the release file names."""
        return ImageRepository(named)

    def endpoints(self) -> list[str]:
        """Those that the gateway knows, and those that have a server."""
        return sorted({*self._gateway.endpoints(), *self._served()})

    def observe(self, endpoint: str) -> EndpointState | None:
        """Read the servers, Envoy's health checks and the routes in effect."""
        known = self._gateway.revisions(endpoint)
        traffic = self._gateway.traffic(endpoint)
        servers = self._servers(endpoint)
        if not known and not servers and traffic is None:
            return None
        seen = {}
        for name in {**known, **servers}:
            state, server = known.get(name), servers.get(name)
            if state is None:
                assert server is not None  # noqa: S101 - it is in one of the two
                seen[name] = server.model_copy(update={"ready": False, "detail": "is not known to the gateway"})
                continue
            why_not = server.detail if server else "its server is gone"
            ready = state.ready and server is not None and server.ready
            seen[name] = state.model_copy(update={"ready": ready, "detail": state.detail or why_not})
        return EndpointState(endpoint=endpoint, url=self._gateway.url(endpoint), revisions=seen, traffic=traffic)

    def deploy(self, endpoint: str, revision: Revision) -> None:
        """Start the revision's server, wait until it is ready, and make it known to Envoy."""
        existing = self._gateway.revisions(endpoint).get(revision.name) or self._servers(endpoint).get(revision.name)
        port = (_port_of(existing) if existing else 0) or self._choose_port(endpoint)
        try:
            self._start(endpoint, revision, port)
            self._wait_until_ready(endpoint, port, revision)
            self._gateway.add(endpoint, revision.name, port, revision.version)
        except BaseException:
            if existing is None:
                self._discard(endpoint, revision.name)
            raise

    def route(self, endpoint: str, traffic: Traffic, *, fence: int | None = None) -> None:
        """Write the weights; a revision that is to get traffic must be ready."""
        states = self._gateway.revisions(endpoint)
        for name, weight in traffic.weights.items():
            if weight > 0 and (name not in states or not states[name].ready):
                detail = states[name].detail if name in states else "is not deployed"
                raise TargetError(f"no traffic to {name} of {endpoint}: it {detail}", fix="headgate status")
        if traffic.mirror and traffic.mirror.revision not in states:
            raise TargetError(f"no mirror to {traffic.mirror.revision} of {endpoint}: it is not deployed")
        self._gateway.set_traffic(endpoint, traffic, fence)

    def fence(self, endpoint: str, fence: int) -> None:
        """Have the gateway keep the number."""
        self._gateway.fence(endpoint, fence)

    def counts(self, endpoint: str) -> Mapping[str, Counts]:
        """Envoy's counters, one reading."""
        return self._gateway.counts(endpoint)

    def alarms(self) -> list[Alarm]:
        """None: those of Prometheus come to the receiver."""
        return []

    def captured(self, endpoint: str, window: Window) -> Iterator[pa.RecordBatch]:
        """The log of every revision's server."""
        for folder in sorted((self._home.revisions / endpoint).glob("*/predictions")):
            yield from prediction_log.read(folder, endpoint, folder.parent.name, window)

    def invoke(self, endpoint: str, payload: Payload, revision: str | None = None) -> Prediction:
        """Call through the gateway, or one revision's server directly."""
        url = self._gateway.url(endpoint)
        if revision is not None:
            states = self._gateway.revisions(endpoint)
            if revision not in states:
                raise TargetError(f"{endpoint} has no revision {revision}", fix="headgate status")
            url = f"{states[revision].address}/invocations"
        request_id = str(uuid.uuid4())
        began = time.perf_counter()
        try:
            reply = self._http.post(
                url, content=payload.body,
                headers={"content-type": payload.content_type, "x-request-id": request_id},
            )  # fmt: skip
        except httpx.HTTPError as error:
            raise TargetUnavailableError(f"{url} does not answer: {error}", fix="headgate status") from error
        return Prediction(
            status=reply.status_code, body=reply.content,
            request_id=reply.headers.get("x-request-id", request_id), seconds=time.perf_counter() - began,
        )  # fmt: skip

    def retire(self, endpoint: str, revision: str, *, fence: int | None = None) -> None:
        """Take the revision out of Envoy, then end its server and remove what it wrote."""
        traffic = self._gateway.traffic(endpoint)
        if traffic is not None and traffic.uses(revision):
            raise TargetError(
                f"{revision} of {endpoint} still has traffic: {traffic.weight(revision)} basis points"
                + (", mirrored" if traffic.mirror and traffic.mirror.revision == revision else "")
            )
        self._gateway.remove(endpoint, revision, fence)
        self._discard(endpoint, revision)

    def delete(self, endpoint: str, *, fence: int | None = None) -> None:
        """Remove the route first, then every revision."""
        if self._gateway.traffic(endpoint) is not None:
            self._gateway.set_traffic(endpoint, None, fence)
        for name in {**self._gateway.revisions(endpoint), **self._servers(endpoint)}:
            self.retire(endpoint, name, fence=fence)
        shutil.rmtree(self._home.revisions / endpoint, ignore_errors=True)

    @cached_property
    def _http(self) -> httpx.Client:
        """One for all requests: making it takes longer than most answers do."""
        client = httpx.Client(timeout=_INVOKE_SECONDS)
        weakref.finalize(self, client.close)
        return client

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

    def _wait_until_ready(self, endpoint: str, port: int, revision: Revision) -> None:
        deadline = time.monotonic() + revision.ready_timeout
        with httpx.Client(base_url=f"http://{HOST}:{port}", timeout=2) as client:
            while not _answers(client):
                if why := self._has_ended(endpoint, revision.name):
                    raise RevisionFailedError(
                        f"{revision.name} cannot start ({why}):\n{self._log_tail(endpoint, revision.name)}",
                        fix=self._where_log(endpoint, revision.name),
                    )
                if time.monotonic() > deadline:
                    raise RevisionFailedError(
                        f"{revision.name} is not ready after {revision.ready_timeout:g} s; its log ends:\n"
                        + self._log_tail(endpoint, revision.name),
                        fix="raise runtime.ready_timeout, or see why loading takes so long",
                    )
                time.sleep(_READY_POLL_SECONDS)

    def _discard(self, endpoint: str, revision: str) -> None:
        self._end(endpoint, revision)
        shutil.rmtree(self._scratch(endpoint, revision), ignore_errors=True)

    def _scratch(self, endpoint: str, revision: str) -> Path:
        return self._home.revisions / endpoint / revision

    def _env(self, endpoint: str, revision: Revision) -> dict[str, str]:
        """What every server is told, wherever it runs."""
        return {
            **revision.env,
            "HEADGATE_WORKERS": str(revision.workers),
            "HEADGATE_REVISION": revision.name,
            "HEADGATE_ENDPOINT": endpoint,
        }


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/ping").status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def _port_of(state: RevisionState) -> int:
    return int(state.address.rpartition(":")[2])
