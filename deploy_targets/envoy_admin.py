"""What a running Envoy says of itself.

Source: https://www.envoyproxy.io/docs/envoy/latest/operations/admin.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from deploy_targets import envoy_config
from headgate.records import Counts, Traffic

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class Ask(Protocol):
    """Asks an admin endpoint for JSON."""

    def __call__(self, path: str, **params: str) -> Any:  # noqa: ANN401 - JSON
        """The answer at a path. Raises TargetUnavailableError where there is none."""
        ...


class EnvoyAdmin:
    """One Envoy's admin endpoint, wherever it is reached."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def routes(self) -> dict[str, Traffic]:
        """The traffic of each endpoint that is in effect."""
        dump = self._ask("/config_dump", resource="dynamic_route_configs")
        tables = [entry["route_config"] for entry in dump.get("configs", [])]
        return traffic_of(table for table in tables if table.get("name") == envoy_config.ROUTES_NAME)

    def healthy_hosts(self) -> dict[str, int]:
        """How many hosts of each cluster pass their health checks."""
        reply = self._ask("/clusters", format="json")
        return {
            status["name"]: sum(map(_is_healthy, status.get("host_statuses", [])))
            for status in reply.get("cluster_statuses", [])
        }

    def health(self) -> dict[str, bool]:
        """Whether each cluster has hosts, all of which pass their health checks."""
        reply = self._ask("/clusters", format="json")
        return {
            status["name"]: all(map(_is_healthy, status.get("host_statuses", []))) and bool(status.get("host_statuses"))
            for status in reply.get("cluster_statuses", [])
        }

    def counts(self, endpoint: str, revisions: Mapping[str, str]) -> dict[str, Counts]:
        """Cumulative counters of some revisions at this moment.

        Args:
            endpoint: whose they are.
            revisions: by the name of their cluster.
        """
        prefix = envoy_config.cluster_name(endpoint, "")
        stats = self._stats(f"cluster.{prefix}", suffix="upstream_rq_(completed|4xx|5xx)")
        latency = self._latencies(f"cluster.{prefix}")
        return {
            revision: Counts(
                requests=stats.get(f"cluster.{name}.upstream_rq_completed", 0),
                failures=stats.get(f"cluster.{name}.upstream_rq_4xx", 0)
                + stats.get(f"cluster.{name}.upstream_rq_5xx", 0),
                latency=latency.get(f"cluster.{name}.{envoy_config.LATENCY_HISTOGRAM}", ()),
            )
            for name, revision in revisions.items()
        }

    def active(self, cluster: str) -> int:
        """Requests that a cluster is answering."""
        name = f"cluster.{cluster}.upstream_rq_active"
        return self._stats(name).get(name, 0)

    def rejected(self) -> int:
        """Updates of its files that it did not take."""
        return sum(self._stats("", suffix="update_rejected").values())

    def _stats(self, prefix: str, suffix: str = "") -> dict[str, int]:
        pattern = f"^{prefix.replace('.', '[.]')}" + (f".*[.]{suffix}$" if suffix else "$")
        reply = self._ask("/stats", format="json", filter=pattern)
        return {item["name"]: int(item["value"]) for item in reply.get("stats", []) if "value" in item}

    def _latencies(self, prefix: str) -> dict[str, tuple[int, ...]]:
        """Answers by latency, at most a second old: one number for each bucket, and one for those above."""
        pattern = f"^{prefix.replace('.', '[.]')}.*[.]{envoy_config.LATENCY_HISTOGRAM}$"
        reply = self._ask("/stats", format="json", histogram_buckets="disjoint", filter=pattern)
        histograms: list[dict[str, Any]] = next(
            (i["histograms"] for i in reply.get("stats", []) if "histograms" in i), []
        )
        # None are above: routes have a timeout that is the last bound.
        return {item["name"]: (*(bucket["cumulative"] for bucket in item["buckets"]), 0) for item in histograms}


def _is_healthy(host: Mapping[str, Any]) -> bool:
    health = host.get("health_status", {})
    return health.get("eds_health_status") == "HEALTHY" and not health.get("failed_active_health_check", False)


def traffic_of(tables: Iterable[Mapping[str, Any]]) -> dict[str, Traffic]:
    """What we stored in the routes of some tables."""
    stored = [
        envoy_config.ours(route)
        for table in tables
        for host in table.get("virtual_hosts", [])
        for route in host.get("routes", [])
    ]
    return {item["endpoint"]: Traffic.model_validate(item["traffic"]) for item in stored}
