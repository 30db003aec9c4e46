"""The gateway that local, docker and kubernetes share: a real Envoy, steered by files.

A change is one atomic rename of a watched file; it is in effect when Envoy's admin endpoint reports its
version. The files survive every crash, and Envoy reads them again when it starts.
"""

from __future__ import annotations

import json
import os
import time
import uuid
import weakref
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import httpx
from filelock import FileLock, Timeout

from deploy_targets import envoy_config
from deploy_targets.envoy_admin import EnvoyAdmin, traffic_of
from deploy_targets.envoy_tracing import Collector
from headgate.errors import LeaseLostError, TargetError, TargetUnavailableError
from headgate.home import write_atomically
from headgate.records import Counts, ModelVersion, RevisionState, Traffic
from headgate.stack.ports import HOST

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from headgate.stack.ports import Ports

_EFFECT_SECONDS = 10.0
_POLL_SECONDS = 0.0005
_DRAIN_SECONDS = 20.0
_DRAIN_POLL_SECONDS = 0.02


class Gateway:
    """One Envoy and its folder.

    Args:
        folder: holds envoy.yaml, routes.json and clusters.json.
        ports: where Envoy listens.
    """

    def __init__(self, folder: Path, ports: Ports) -> None:
        self._folder = folder
        self._ports = ports
        self._lock = FileLock(folder / ".lock", timeout=30)
        self._envoy = EnvoyAdmin(self._get)

    @cached_property
    def _client(self) -> httpx.Client:
        """Made when it is first needed, which takes longer than what many are opened for."""
        client = httpx.Client(base_url=self._ports.admin_url, timeout=5)
        # Targets are made and dropped freely; their connection goes with them.
        weakref.finalize(self, client.close)
        return client

    def prepare(self) -> None:
        """Write what Envoy needs to start; routes and clusters that exist are kept."""
        write_atomically(
            self._folder / "envoy.yaml",
            json.dumps(self._bootstrap(), indent=1),
        )
        with self._locked():
            for name, resources in (("clusters", []), ("routes", [envoy_config.routes({}, {})])):
                if not self._path(name).exists():
                    self._write(name, resources)

    def _bootstrap(self) -> dict[str, Any]:
        return envoy_config.bootstrap(
            str(self._folder), (HOST, self._ports.gateway_admin), {envoy_config.ROUTES: (HOST, self._ports.gateway)},
            Collector.from_env(),
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
                address=f"http://127.0.0.1:{int(stored['port'])}",
            )
            for name, stored in self._clusters().items()
            if stored["endpoint"] == endpoint
        }

    def addresses(self) -> list[tuple[str, str, str]]:
        """Every endpoint, revision, and `host:port` of its server, as they were written down; Envoy is not asked."""
        return [
            (stored["endpoint"], stored["revision"], f"127.0.0.1:{int(stored['port'])}")
            for stored in self._clusters().values()
        ]

    def add(self, endpoint: str, revision: str, port: int, version: ModelVersion) -> None:
        """Make a revision known to Envoy; returns when Envoy finds it healthy."""
        with self._locked():
            clusters = self._read("clusters")
            hosts = envoy_config.at_port(envoy_config.cluster_name(endpoint, revision), port)
            wanted = envoy_config.cluster(endpoint, revision, version, hosts, port=port)
            others = [item for item in clusters["resources"] if item["name"] != wanted["name"]]
            if wanted not in clusters["resources"]:
                self._write("clusters", [*others, wanted])
        self._wait(
            lambda: self._envoy.health().get(wanted["name"], False),
            f"Envoy does not find {revision} of {endpoint} healthy at port {port}",
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
            self._write("routes", [envoy_config.routes(table, fences)])
            self._wait(
                # Not its version: Envoy keeps the old one where the content did not change.
                lambda: self._envoy.routes() == table,
                f"Envoy did not take over the routes of {endpoint}",
            )

    def fence(self, endpoint: str, fence: int) -> None:
        """Refuse, from now on, changes on behalf of earlier leases; traffic stays as it is.

        Raises:
            LeaseLostError: a higher fence was seen.
        """
        with self._locked():
            fences, table = self._raise_fence(endpoint, fence), traffic_of(self._read("routes")["resources"])
            self._write("routes", [envoy_config.routes(table, fences)])

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
        deadline = time.monotonic() + _DRAIN_SECONDS
        # Before the lock: other endpoints must not wait for this one's slow requests.
        while time.monotonic() < deadline and self.is_up() and self._envoy.active(name):
            time.sleep(_DRAIN_POLL_SECONDS)
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
                f"the gateway's admin endpoint {self._ports.admin_url} does not answer: {error}",
                fix="headgate up",
            ) from error

    def _wait(self, condition: Callable[[], bool], failed: str) -> None:
        deadline = time.monotonic() + _EFFECT_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                refused = self._envoy.rejected()
                raise TargetError(
                    f"{failed} within {_EFFECT_SECONDS:g} s" + (f" ({refused} updates rejected)" if refused else ""),
                    fix="read logs/gateway.log under HEADGATE_HOME",
                )
            time.sleep(_POLL_SECONDS)

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
        temporary.write_text(json.dumps(content), encoding="utf-8")
        temporary.replace(path)
