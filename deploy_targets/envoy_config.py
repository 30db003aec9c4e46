"""Envoy's configuration as data: the bootstrap, and the two files that change while it runs.

The routes and clusters hold our own records as `filter_metadata`, so that Envoy's files, and what Envoy
itself reports, are the only state of the gateway. Source: Envoy 1.40, api/envoy/config/*/v3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deploy_targets import envoy_counts, envoy_limits
from deploy_targets.kubernetes.steering.not_found import not_found_route
from headgate.gateway_limits import MOST_REQUEST_SECONDS, EndpointLimits, widest
from headgate.limits import HEALTH, seconds_of
from headgate.stack.ports import HOST

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from deploy_targets.envoy_tracing import Collector
    from headgate.records import ModelVersion, Traffic

METADATA = "headgate"
ROUTES_NAME = "endpoints"
ROUTES, INSIDE = "routes", "inside"
"""The files of tables of routes: the endpoints', and what only those may ask who steer Envoy in a cluster."""
REVISION_HEADER = "x-headgate-revision"

METRICS = "metrics"
"""The listener that only tells Prometheus."""
ADMIN = "admin"
"""The cluster by which a listener asks the admin endpoint."""

Address = tuple[str, int]
"""A host and a port."""

_READ = "/ready|/stats|/stats/prometheus|/clusters|/config_dump"
"""What this machine's processes ask of the admin endpoint. None of it changes anything."""
_OWNER_ONLY = 0o600

_TYPE = "type.googleapis.com/envoy"
# uvicorn closes idle connections after 90 s (headgate_server/__main__.py). Envoy must be the first to let go, or it
# would send a request into a connection that is being closed.
_UPSTREAM_IDLE = "30s"

_GROWTH, _LAST_MILLISECOND = 1.022, 60_000


def _latency_milliseconds() -> tuple[int, ...]:
    """Bounds of latency buckets: Envoy counts whole milliseconds, and keeps two digits of them (circllhist).

    A bound between two such numbers would be an estimate, so all bounds are such numbers, at least 2 % apart.
    """
    two_digits = [*range(1, 10), *(digits * 10**power for power in range(4) for digits in range(10, 100))]
    bounds: list[int] = []
    for bound in two_digits:
        if bound <= _LAST_MILLISECOND and (not bounds or bound >= bounds[-1] * _GROWTH):
            bounds.append(bound)
    return tuple(bounds)


LATENCY_MILLISECONDS = _latency_milliseconds()
LATENCY_SECONDS = tuple(bound / 1000 for bound in LATENCY_MILLISECONDS)
LATENCY_HISTOGRAM = "upstream_rq_time"
_BUCKETS = (*LATENCY_MILLISECONDS, round(MOST_REQUEST_SECONDS * 1000))
"""Those of the judge, and one that holds whatever is above: no answer may take longer."""


def admin_in(socket: str, *, only_reading: bool) -> dict[str, Any]:
    """Where Envoy tells of itself: a Unix socket that only its owner may use.

    Args:
        socket: its path, of at most 107 bytes.
        only_reading: whether what would change something is refused, which Envoy knows since 1.37.
    """
    allowed = {"allow_paths": [{"safe_regex": {"regex": rf"({_READ})(\?.*)?"}}]} if only_reading else {}
    return {"address": _pipe(socket, mode=_OWNER_ONLY), "ignore_global_conn_limit": True, **allowed}


def admin_at(host: str, port: int) -> dict[str, Any]:
    """Where Envoy tells of itself: a port, for who is alone with it behind that address."""
    return {"address": _address(host, port), "ignore_global_conn_limit": True}


def metrics_listener(address: Address) -> dict[str, Any]:
    """Where Prometheus asks: `GET /stats/prometheus`, and nothing else."""
    is_get = {"name": ":method", "string_match": {"exact": "GET"}}
    route = {"match": {"path": "/stats/prometheus", "headers": [is_get]}, "route": {"cluster": ADMIN}}
    table = {"name": METRICS, "virtual_hosts": [{"name": METRICS, "domains": ["*"], "routes": [route]}]}
    return _listener(METRICS, address, {**_manager(METRICS), "route_config": table}, of_clients=False)


def admin_cluster(socket: str) -> dict[str, Any]:
    """The admin endpoint behind its socket, for `metrics_listener`."""
    return {"name": ADMIN, "connect_timeout": "1s", **at_socket(ADMIN, socket)}


def bootstrap(
    folder: str, admin: Mapping[str, Any], listeners: Mapping[str, Address], collector: Collector | None = None,
    clusters: Sequence[Mapping[str, Any]] = (), also: Sequence[Mapping[str, Any]] = (), files: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Envoy's start-up file.

    Args:
        folder: where its clusters and routes are, which it watches.
        admin: `admin_in`, or `admin_at`.
        listeners: where it takes requests, by the file with the table of routes of each.
        collector: that traces of the endpoints' requests are sent to.
        clusters: that it has from the start.
        also: other listeners, as they are.
        files: that Envoy may have open; None where that is not known.

    Raises:
        BadInputError: a limit of the environment's is none.
    """
    return {
        "node": {"id": "headgate", "cluster": "headgate"},
        "admin": dict(admin),
        # Histograms are merged when statistics are flushed, which is every 5 s by default.
        "stats_flush_interval": "1s",
        "stats_config": {
            "histogram_bucket_settings": [
                {"match": {"suffix": LATENCY_HISTOGRAM}, "buckets": [float(bound) for bound in _BUCKETS]}
            ]
        },
        "overload_manager": envoy_limits.overload_manager(files),
        "dynamic_resources": {"cds_config": _watched(folder, "clusters")},
        "static_resources": {
            "listeners": [
                *(
                    _listener(
                        file,
                        address,
                        _steered(folder, file, collector if file == ROUTES else None),
                        of_clients=file == ROUTES,
                    )
                    for file, address in listeners.items()
                ),
                *also,
            ],
            "clusters": [*clusters, *([collector.cluster()] if collector else [])],
        },
    }


def _watched(folder: str, name: str) -> dict[str, Any]:
    return {"path_config_source": {"path": f"{folder}/{name}.json", "watched_directory": {"path": folder}}}


def _listener(name: str, address: Address, manager: Mapping[str, Any], *, of_clients: bool) -> dict[str, Any]:
    filters = [{"name": "http", "typed_config": manager}]
    limits = envoy_limits.listener(of_clients=of_clients)
    return {"name": name, "address": _address(*address), "filter_chains": [{"filters": filters}], **limits}


def _manager(name: str) -> dict[str, Any]:
    """What speaks HTTP at a listener, but for its routes."""
    return {
        "@type": f"{_TYPE}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        **envoy_limits.manager(),
        "http_filters": [
            *([envoy_limits.buffer_filter()] if name == ROUTES else []),
            {
                "name": "router",
                "typed_config": {
                    "@type": f"{_TYPE}.extensions.filters.http.router.v3.Router",
                    "suppress_envoy_headers": True,
                },
            },
        ],
    }


def _steered(folder: str, file: str, collector: Collector | None) -> dict[str, Any]:
    """What speaks HTTP where the table of routes is a file that changes."""
    return {
        **_manager(file),
        "rds": {
            "route_config_name": ROUTES_NAME if file == ROUTES else file,
            "config_source": _watched(folder, file),
        },
        "generate_request_id": True,
        "preserve_external_request_id": True,
        "always_set_request_id_in_response": True,
        # nginx asks its upstreams so by default, and so do older clients.
        "http_protocol_options": {"accept_http_10": True, "default_host_for_http_10": "headgate"},
        "local_reply_config": envoy_limits.local_replies(),
        "access_log": envoy_limits.counting_log(),
        **({"tracing": collector.tracing(), "request_id_extension": collector.request_id()} if collector else {}),
    }


def cluster_name(endpoint: str, revision: str) -> str:
    """The name under which Envoy counts a revision's requests."""
    return f"{endpoint}--{revision}"


def cluster(
    endpoint: str, revision: str, version: ModelVersion, hosts: Mapping[str, Any], limits: EndpointLimits,
    **noted: object,
) -> dict[str, Any]:  # fmt: skip
    """One revision; a server that stops answering /ping three times, once a second, gets no more requests.

    Args:
        endpoint: whose.
        revision: which.
        version: what it serves.
        hosts: `at_port`, `at_socket`, or `in_file`.
        limits: of the release that made it.
        noted: what else is to be read back from it.
    """
    return {
        "@type": f"{_TYPE}.config.cluster.v3.Cluster",
        "name": cluster_name(endpoint, revision),
        **hosts,
        "connect_timeout": "1s",
        # A dead host gets nothing; Envoy's default sends to all hosts when half of them are dead.
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "health_checks": [
            {
                "timeout": f"{seconds_of(HEALTH):g}s",
                "interval": "1s",
                "no_traffic_interval": "1s",
                "unhealthy_threshold": 3,
                "healthy_threshold": 1,
                "http_health_check": {"path": "/ping"},
            }
        ],
        "circuit_breakers": envoy_limits.circuit_breakers(limits),
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{_TYPE}.extensions.upstreams.http.v3.HttpProtocolOptions",
                "common_http_protocol_options": {"idle_timeout": _UPSTREAM_IDLE},
                "explicit_http_config": {"http_protocol_options": {}},
                "http_filters": envoy_counts.marking(),
            }
        },
        "metadata": _ours(
            {
                "endpoint": endpoint,
                "revision": revision,
                "version": version.model_dump(mode="json"),
                "limits": limits.model_dump(mode="json"),
                **noted,
            }
        ),
    }


def at_port(name: str, port: int) -> dict[str, Any]:
    """The one host of a cluster: a port of this machine."""
    return _one_host(name, _address(HOST, port))


def at_socket(name: str, path: str) -> dict[str, Any]:
    """The one host of a cluster: a Unix socket of this machine, whose path has at most 107 bytes."""
    return _one_host(name, _pipe(path))


def _one_host(name: str, address: Mapping[str, Any]) -> dict[str, Any]:
    host = {"endpoint": {"address": dict(address)}}
    return {"type": "STATIC", "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [host]}]}}


def in_file(folder: str, name: str) -> dict[str, Any]:
    """Hosts that come and go without their cluster: a file of a `ClusterLoadAssignment` of that name."""
    return {
        "type": "EDS",
        "eds_cluster_config": {
            "service_name": name, "eds_config": {"path_config_source": {"path": f"{folder}/{name}.json"}},
        },
        # Else one that is told to end gets requests until it fails its health checks.
        "ignore_health_on_host_removal": True,
    }  # fmt: skip


def limits_of(stored: Mapping[str, Any]) -> EndpointLimits:
    """The limits that were noted with a route or a cluster; the defaults where an earlier version noted none."""
    return EndpointLimits.model_validate(stored.get("limits", {}))


def limits_now(traffic: Traffic, by_revision: Mapping[str, EndpointLimits]) -> EndpointLimits:
    """The limits of an endpoint: the widest of those versions that get requests or copies of them."""
    return widest(limits for name, limits in by_revision.items() if traffic.uses(name))


def routes(traffic: dict[str, Traffic], fences: dict[str, int], limits: Mapping[str, EndpointLimits]) -> dict[str, Any]:
    """The route table of every endpoint that has traffic, and the number below which a lease changes nothing.

    Args:
        traffic: of each endpoint.
        fences: of each endpoint.
        limits: of each endpoint that has traffic: `limits_now`.
    """
    return {
        "@type": f"{_TYPE}.config.route.v3.RouteConfiguration",
        "name": ROUTES_NAME,
        "metadata": _ours({"fences": fences}),
        "virtual_hosts": [
            {
                "name": ROUTES_NAME,
                "domains": ["*"],
                "routes": [
                    *(
                        one
                        for endpoint in sorted(traffic)
                        for one in ways(endpoint, traffic[endpoint], limits[endpoint])
                    ),
                    not_found_route(traffic),
                ],
            }
        ],
    }


def ways(
    endpoint: str, traffic: Traffic, limits: EndpointLimits, retries: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """The routes of an endpoint's requests.

    Args:
        endpoint: whose.
        traffic: to which versions.
        limits: that apply: `limits_now`.
        retries: what is asked again of another server; nothing by default.
    """
    action: dict[str, Any] = {
        "weighted_clusters": {
            "clusters": [
                _weighted(endpoint, revision, weight) for revision, weight in traffic.weights.items() if weight > 0
            ]
        },
        "prefix_rewrite": "/invocations",
        # A server knows a copy by the `-shadow` that Envoy adds to the host, so the host is not the client's.
        "host_rewrite_literal": f"{endpoint}.{METADATA}",
        **({"retry_policy": dict(retries)} if retries else {}),
    }
    if traffic.mirror:
        action["request_mirror_policies"] = [
            {
                "cluster": cluster_name(endpoint, traffic.mirror.revision),
                "runtime_fraction": {
                    "default_value": {"numerator": traffic.mirror.share, "denominator": "TEN_THOUSAND"}
                },
            }
        ]
    noted = {
        "endpoint": endpoint, "traffic": traffic.model_dump(mode="json"), "limits": limits.model_dump(mode="json"),
        # Envoy writes a number of this size in its messages as 1.67772e+07.
        envoy_limits.MOST_BODY: str(limits.body),
    }  # fmt: skip
    way = {
        "name": endpoint,
        "match": {"path": f"/{endpoint}/invocations"},
        "route": action,
        "response_headers_to_remove": [envoy_counts.MARK],
        "metadata": _ours(noted),
    }
    return envoy_limits.limited(way, limits)


def _weighted(endpoint: str, revision: str, weight: int) -> dict[str, Any]:
    """One version of an endpoint; its answers name it in a header."""
    header = {"header": {"key": REVISION_HEADER, "value": revision}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
    return {"name": cluster_name(endpoint, revision), "weight": weight, "response_headers_to_add": [header]}


def ours(resource: dict[str, Any]) -> dict[str, Any]:
    """What we stored in the metadata of a route, a cluster or the table; empty where nothing was."""
    stored: dict[str, Any] = resource.get("metadata", {}).get("filter_metadata", {}).get(METADATA, {})
    return stored


def _ours(content: dict[str, Any]) -> dict[str, Any]:
    return {"filter_metadata": {METADATA: content}}


def _pipe(path: str, **more: int) -> dict[str, Any]:
    return {"pipe": {"path": path, **more}}


def _address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}
