"""What the local and the Docker target share: servers of this machine behind one Envoy."""

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
from deploy_targets.server_address import ServerAddress
from headgate import clock
from headgate.errors import HomeError, RevisionFailedError, TargetError, TargetUnavailableError
from headgate.findings import Finding
from headgate.gateway_limits import widest
from headgate.home import Home
from headgate.records import (
    EndpointState,
    Payload,
    Prediction,
    Revision,
    RevisionState,
    Traffic,
    Window,
)
from headgate.references import ENV, kind_of, problem_of
from headgate.stack import Ports, Supervisor
from headgate.stack.ports import free_port
from headgate.units import BASIS_POINTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import pyarrow as pa

    from deploy_targets.protocol import Feature
    from headgate.counts import Counts
    from headgate.records import Alarm
    from headgate.spec import ReleaseSpec
    from headgate.target_settings import Target

NOBODY_STARTS_IT = "nobody here would start a server when it is asked; set replicas.min to 1"
PROMETHEUS_RINGS = "alerts here are those of Prometheus; have Alertmanager tell the receiver of them"
_OF_THIS_MACHINE = "a server of this machine takes env:NAME, file:/path and block:secret/NAME"
_READY_POLL_SECONDS = 0.1
_INVOKE_MORE_SECONDS = 5.0
"""By which a request of ours outlasts what the gateway lets an answer take."""


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
        """The endpoint's servers: each one's version and address, where these are known, and why it is not running."""

    @abstractmethod
    def _served(self) -> set[str]:
        """The endpoints that have a server."""

    @abstractmethod
    def _choose_address(self, endpoint: str, revision: Revision) -> ServerAddress:
        """Where a server that is not there yet is to listen."""

    @abstractmethod
    def _start(self, endpoint: str, revision: Revision, address: ServerAddress) -> None:
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

    def misfits(self, spec: ReleaseSpec) -> list[Finding]:
        """Return the secrets that a server of this machine could not be given."""
        given = spec.runtime.secrets
        environ = self._supervisor.inherited() if any(kind_of(one) == ENV for one in given.values()) else None
        return [
            Finding(severity="error", subject=f"runtime.secrets.{name}", problem=problem, fix=_OF_THIS_MACHINE)
            for name, reference in given.items()
            if (problem := problem_of(reference, environ))
        ]

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
        # A server that runs stays where it listens, also one that an earlier version started at a port.
        known = ServerAddress.of(existing.address) if existing else None
        address = known or self._choose_address(endpoint, revision)
        try:
            self._start(endpoint, revision, address)
            self._wait_until_ready(endpoint, address, revision)
            self._gateway.add(endpoint, revision.name, address, revision.version, revision.limits)
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
        url, http = self._gateway.url(endpoint), self._http
        if revision is not None:
            address = self._gateway.address(endpoint, revision)
            if address is None:
                raise TargetError(f"{endpoint} has no revision {revision}", fix="headgate status")
            url, http = f"{address.url}/invocations", self._client_of(address)
        request_id, limits = str(uuid.uuid4()), self._gateway.limits(endpoint)
        began = time.perf_counter()
        try:
            reply = http.post(
                url, content=payload.body,
                headers={"content-type": payload.content_type, "x-request-id": request_id},
                timeout=widest(limits.values()).request + _INVOKE_MORE_SECONDS,
            )  # fmt: skip
        except httpx.HTTPError as error:
            asked = url if revision is None else f"{revision} of {endpoint} at {address}"
            raise TargetUnavailableError(f"{asked} does not answer: {error}", fix="headgate status") from error
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
        client = httpx.Client(trust_env=False)
        weakref.finalize(self, client.close)
        return client

    def _free_port(self, endpoint: str) -> ServerAddress:
        taken = {address.port for _, _, address in self._gateway.addresses()}
        try:
            return ServerAddress(port=free_port(for_what=f"a revision of {endpoint}", besides=taken))
        except HomeError as error:
            raise RevisionFailedError(error.message, fix=error.fix) from error

    def _client_of(self, address: ServerAddress) -> httpx.Client:
        """Return a client of one server: that of all ports, or the one of a Unix socket, which is kept."""
        if not address.socket:
            return self._http
        if (client := self._clients.get(address.socket)) is None:
            client = self._clients[address.socket] = address.client()
            weakref.finalize(self, client.close)
        return client

    @cached_property
    def _clients(self) -> dict[str, httpx.Client]:
        return {}

    def _wait_until_ready(self, endpoint: str, address: ServerAddress, revision: Revision) -> None:
        deadline = clock.monotonic() + revision.ready_timeout
        with address.client(timeout=2) as client:
            while not _answers(client):
                if why := self._has_ended(endpoint, revision.name):
                    raise RevisionFailedError(
                        f"{revision.name} cannot start ({why}):\n{self._log_tail(endpoint, revision.name)}",
                        fix=self._where_log(endpoint, revision.name),
                    )
                if clock.monotonic() > deadline:
                    raise RevisionFailedError(
                        f"{revision.name} is not ready after {revision.ready_timeout:g} s; its log ends:\n"
                        + self._log_tail(endpoint, revision.name),
                        fix="raise runtime.ready_timeout, or see why loading takes so long",
                    )
                clock.sleep(_READY_POLL_SECONDS)

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
