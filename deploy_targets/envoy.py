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
from deploy_targets.envoy_tracing import Collector
from headgate.errors import LeaseLostError, TargetError, TargetUnavailableError
from headgate.home import write_atomically
from headgate.records import Counts, ModelVersion, RevisionState, Traffic

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

    @cached_property
    def _admin(self) -> httpx.Client:
        """Made when it is first needed, which takes longer than what many are opened for."""
        client = httpx.Client(base_url=self._ports.admin_url, timeout=5)
        # Targets are made and dropped freely; their connection goes with them.
        weakref.finalize(self, client.close)
        return client

    def prepare(self) -> None:
        """Write what Envoy needs to start; routes and clusters that exist are kept."""
        write_atomically(
            self._folder / "envoy.yaml",
            json.dumps(envoy_config.bootstrap(self._ports, str(self._folder), Collector.from_env()), indent=1),
        )
        with self._locked():
            for name, resources in (("clusters", []), ("routes", [envoy_config.routes({}, {})])):
                if not self._path(name).exists():
                    self._write(name, resources)

    def url(self, endpoint: str) -> str:
        """What clients call."""
        return f"{self._ports.gateway_url}/{endpoint}/invocations"

    def is_up(self) -> bool:
        """Whether Envoy has read its files and takes requests."""
        try:
            return self._admin.get("/ready").status_code == httpx.codes.OK
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
        health = self._health()
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
            wanted = envoy_config.cluster(endpoint, revision, port, version)
            others = [item for item in clusters["resources"] if item["name"] != wanted["name"]]
            if wanted not in clusters["resources"]:
                self._write("clusters", [*others, wanted])
        self._wait(
            lambda: self._health().get(wanted["name"], False),
            f"Envoy does not find {revision} of {endpoint} healthy at port {port}",
        )

    def set_traffic(self, endpoint: str, traffic: Traffic | None, fence: int | None = None) -> None:
        """Change one endpoint's weights and mirror; returns when they are in effect.

        Raises:
            LeaseLostError: a higher fence was seen.
        """
        with self._locked():
            fences = self._raise_fence(endpoint, fence)
            table = self._traffic_of(self._read("routes"))
            table.pop(endpoint, None)
            if traffic is not None:
                table[endpoint] = traffic
            self._write("routes", [envoy_config.routes(table, fences)])
            self._wait(
                # Not its version: Envoy keeps the old one where the content did not change.
                lambda: self._routes_in_effect() == table,
                f"Envoy did not take over the routes of {endpoint}",
            )

    def fence(self, endpoint: str, fence: int) -> None:
        """Refuse, from now on, changes on behalf of earlier leases; traffic stays as it is.

        Raises:
            LeaseLostError: a higher fence was seen.
        """
        with self._locked():
            fences, table = self._raise_fence(endpoint, fence), self._traffic_of(self._read("routes"))
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
        active = f"cluster.{name}.upstream_rq_active"
        deadline = time.monotonic() + _DRAIN_SECONDS
        # Before the lock: other endpoints must not wait for this one's slow requests.
        while time.monotonic() < deadline and self.is_up() and self._stats(active).get(active, 0):
            time.sleep(_DRAIN_POLL_SECONDS)
        with self._locked():
            self._raise_fence(endpoint, fence)
            self._write("clusters", [item for item in self._read("clusters")["resources"] if item["name"] != name])

    def counts(self, endpoint: str) -> dict[str, Counts]:
        """Cumulative counters of each revision, read from Envoy at this moment."""
        names = {
            name: stored["revision"] for name, stored in self._clusters().items() if stored["endpoint"] == endpoint
        }
        stats = self._stats(f"cluster.{endpoint}--", suffix="upstream_rq_(completed|4xx|5xx)")
        latency = self._latencies(f"cluster.{endpoint}--")
        return {
            revision: Counts(
                requests=stats.get(f"cluster.{name}.upstream_rq_completed", 0),
                failures=stats.get(f"cluster.{name}.upstream_rq_4xx", 0)
                + stats.get(f"cluster.{name}.upstream_rq_5xx", 0),
                latency=latency.get(f"cluster.{name}.{envoy_config.LATENCY_HISTOGRAM}", ()),
            )
            for name, revision in names.items()
        }

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
            return self._routes_in_effect()
        except TargetUnavailableError:
            return self._traffic_of(self._read("routes"))

    def _routes_in_effect(self) -> dict[str, Traffic]:
        """Envoy's own report of its routes."""
        dump = self._get("/config_dump", resource="dynamic_route_configs").json()
        return self._traffic_of({"resources": [entry["route_config"] for entry in dump.get("configs", [])]})

    @staticmethod
    def _traffic_of(table: dict[str, Any]) -> dict[str, Traffic]:
        stored = [
            envoy_config.ours(route)
            for resource in table["resources"]
            for host in resource.get("virtual_hosts", [])
            for route in host.get("routes", [])
        ]
        return {item["endpoint"]: Traffic.model_validate(item["traffic"]) for item in stored}

    def _clusters(self) -> dict[str, dict[str, Any]]:
        return {item["name"]: envoy_config.ours(item) for item in self._read("clusters")["resources"]}

    def _health(self) -> dict[str, bool]:
        """Whether each cluster's host passes its health checks."""
        reply = self._get("/clusters", format="json").json()
        return {
            status["name"]: all(
                host.get("health_status", {}).get("eds_health_status") == "HEALTHY"
                and not host["health_status"].get("failed_active_health_check", False)
                for host in status.get("host_statuses", [])
            )
            and bool(status.get("host_statuses"))
            for status in reply.get("cluster_statuses", [])
        }

    def _stats(self, prefix: str, suffix: str = "") -> dict[str, int]:
        pattern = f"^{prefix.replace('.', '[.]')}" + (f".*[.]{suffix}$" if suffix else "$")
        reply = self._get("/stats", format="json", filter=pattern).json()
        return {item["name"]: int(item["value"]) for item in reply.get("stats", []) if "value" in item}

    def _latencies(self, prefix: str) -> dict[str, tuple[int, ...]]:
        """Answers by latency, at most a second old: one number for each bucket, and one for those above."""
        pattern = f"^{prefix.replace('.', '[.]')}.*[.]{envoy_config.LATENCY_HISTOGRAM}$"
        reply = self._get("/stats", format="json", histogram_buckets="disjoint", filter=pattern).json()
        histograms: list[dict[str, Any]] = next(
            (i["histograms"] for i in reply.get("stats", []) if "histograms" in i), []
        )
        # None are above: routes have a timeout that is the last bound.
        return {item["name"]: (*(bucket["cumulative"] for bucket in item["buckets"]), 0) for item in histograms}

    def _get(self, path: str, **params: str) -> httpx.Response:
        try:
            return self._admin.get(path, params=params).raise_for_status()
        except httpx.HTTPError as error:
            raise TargetUnavailableError(
                f"the gateway's admin endpoint {self._ports.admin_url} does not answer: {error}",
                fix="headgate up",
            ) from error

    def _wait(self, condition: Callable[[], bool], failed: str) -> None:
        deadline = time.monotonic() + _EFFECT_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                rejected = self._stats("", suffix="update_rejected")
                refused = sum(rejected.values())
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
