"""What a running Envoy says of itself.

Source: https://www.envoyproxy.io/docs/envoy/latest/operations/admin.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from deploy_targets import envoy_config, envoy_counts
from headgate.counts import Counts, latencies
from headgate.records import Traffic

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from headgate.gateway_limits import EndpointLimits


class Ask(Protocol):
    """Asks an admin endpoint for JSON."""

    def __call__(self, path: str, **params: str) -> Any:  # noqa: ANN401 - JSON
        """The answer at a path. Raises TargetUnavailableError where there is none."""
        ...


class Way(NamedTuple):
    """What the routes of an endpoint say."""

    traffic: Traffic
    limits: EndpointLimits


class Stats(NamedTuple):
    """What Envoy has counted of a cluster: its counters by name, and answers by latency."""

    counters: dict[str, int]
    latency: tuple[int, ...]


_NOTHING = Stats({}, ())


class EnvoyAdmin:
    """One Envoy's admin endpoint, wherever it is reached."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._told: dict[str, tuple[int, Counts]] = {}

    def routes(self) -> dict[str, Traffic]:
        """The traffic of each endpoint that is in effect."""
        return {endpoint: way.traffic for endpoint, way in self.ways().items()}

    def ways(self) -> dict[str, Way]:
        """The traffic and the limits of each endpoint that are in effect."""
        dump = self._ask("/config_dump", resource="dynamic_route_configs")
        tables = [entry["route_config"] for entry in dump.get("configs", [])]
        return ways_of(table for table in tables if table.get("name") == envoy_config.ROUTES_NAME)

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
        """Cumulative counters of some revisions at this moment, without the requests that Envoy refused for them.

        An answer that was cut after its headers is a failure (envoy_counts.py).

        Args:
            endpoint: whose they are.
            revisions: by the name of their cluster.
        """
        prefix = f"cluster.{envoy_config.cluster_name(endpoint, '')}"
        first, second = self._clusters(prefix, ""), self._clusters(prefix, f"|{envoy_config.LATENCY_HISTOGRAM}")
        return {
            revision: self._counts(name, first.get(name, _NOTHING), second.get(name, _NOTHING))
            for name, revision in revisions.items()
        }

    def _counts(self, cluster: str, first: Stats, second: Stats) -> Counts:
        """What a cluster's servers answered.

        The numbers of two readings may fall by one where a request moves several counters, and no counter of ours falls
        but by a restart.
        """
        completed, *numbers = envoy_counts.numbers_of(first.counters, second.counters)
        requests, failures, client_errors = numbers
        now = Counts(
            requests=requests, failures=failures, client_errors=client_errors, histograms=latencies(second.latency)
        )
        before, last = self._told.get(cluster, (0, Counts(requests=0, failures=0)))
        if completed >= before:
            risen = {"requests": max(now.requests, last.requests), "failures": max(now.failures, last.failures)}
            now = now.model_copy(update=risen)
        self._told[cluster] = completed, now
        return now

    def _clusters(self, prefix: str, more: str) -> dict[str, Stats]:
        """What is counted of each cluster: its counters, and answers by latency where `more` asks for them.

        Latencies are at most a second old: one number for each bucket, and one for those above.
        """
        names = "|".join(re.escape(name) for name in envoy_counts.NAMES)
        pattern = f"^{re.escape(prefix)}[^.]+[.]({names}{more})$"
        reply = self._ask("/stats", format="json", histogram_buckets="disjoint", filter=pattern)
        found: dict[str, Stats] = defaultdict(lambda: Stats({}, ()))
        for item in reply.get("stats", []):
            if "value" in item:
                cluster, name = _parts(item["name"], prefix)
                found[cluster].counters[name] = int(item["value"])
            for told in item.get("histograms", []):
                cluster, _ = _parts(told["name"], prefix)
                # The last bucket has what is above the bounds of the judge, up to the longest that an answer may take.
                buckets = tuple(bucket["cumulative"] for bucket in told["buckets"])
                found[cluster] = Stats(found[cluster].counters, buckets)
        return found

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


def _parts(name: str, prefix: str) -> tuple[str, str]:
    """Return a cluster's name and that of one of its counters, which begin with a prefix of both."""
    known = prefix.removeprefix("cluster.")
    rest, _, counter = name.removeprefix(prefix).partition(".")
    return known + rest, counter


def _is_healthy(host: Mapping[str, Any]) -> bool:
    health = host.get("health_status", {})
    return health.get("eds_health_status") == "HEALTHY" and not health.get("failed_active_health_check", False)


def traffic_of(tables: Iterable[Mapping[str, Any]]) -> dict[str, Traffic]:
    """The traffic that we stored in the routes of some tables."""
    return {endpoint: way.traffic for endpoint, way in ways_of(tables).items()}


def ways_of(tables: Iterable[Mapping[str, Any]]) -> dict[str, Way]:
    """What we stored in the routes of some tables; the routes of one endpoint all say the same."""
    stored = [
        envoy_config.ours(route)
        for table in tables
        for host in table.get("virtual_hosts", [])
        for route in host.get("routes", [])
    ]
    return {
        item["endpoint"]: Way(Traffic.model_validate(item["traffic"]), envoy_config.limits_of(item))
        for item in stored
        if item
    }
