"""Envoy's configuration as data: the bootstrap, and the two files that change while it runs.

The routes and clusters hold our own records as `filter_metadata`, so that Envoy's files, and what Envoy
itself reports, are the only state of the gateway. Source: Envoy 1.40, api/envoy/config/*/v3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
ROUTE_TIMEOUT = "60s"

Address = tuple[str, int]
"""A host and a port."""

_TYPE = "type.googleapis.com/envoy"
# uvicorn closes idle connections after 90 s (serving/__main__.py). Envoy must be the first to let go, or it
# would send a request into a connection that is being closed.
_UPSTREAM_IDLE = "30s"
_MANY = 100_000

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


def bootstrap(
    folder: str, admin: Address, listeners: Mapping[str, Address], collector: Collector | None = None,
    clusters: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:  # fmt: skip
    """Envoy's start-up file.

    Args:
        folder: where its clusters and routes are, which it watches.
        admin: where it tells of itself.
        listeners: where it takes requests, by the file with the table of routes of each.
        collector: that traces of the endpoints' requests are sent to.
        clusters: that it has from the start.
    """
    return {
        "node": {"id": "headgate", "cluster": "headgate"},
        "admin": {"address": _address(*admin)},
        # Histograms are merged when statistics are flushed, which is every 5 s by default.
        "stats_flush_interval": "1s",
        "stats_config": {
            "histogram_bucket_settings": [
                {"match": {"suffix": LATENCY_HISTOGRAM}, "buckets": [float(bound) for bound in LATENCY_MILLISECONDS]}
            ]
        },
        "dynamic_resources": {"cds_config": _watched(folder, "clusters")},
        "static_resources": {
            "listeners": [
                {
                    "name": file,
                    "address": _address(*address),
                    "filter_chains": [{"filters": [_http_filter(folder, file, collector if file == ROUTES else None)]}],
                }
                for file, address in listeners.items()
            ],
            "clusters": [*clusters, *([collector.cluster()] if collector else [])],
        },
    }


def _watched(folder: str, name: str) -> dict[str, Any]:
    return {"path_config_source": {"path": f"{folder}/{name}.json", "watched_directory": {"path": folder}}}


def _http_filter(folder: str, file: str, collector: Collector | None) -> dict[str, Any]:
    return {
        "name": "http",
        "typed_config": {
            "@type": f"{_TYPE}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": file,
            "rds": {
                "route_config_name": ROUTES_NAME if file == ROUTES else file,
                "config_source": _watched(folder, file),
            },
            "generate_request_id": True,
            "preserve_external_request_id": True,
            "always_set_request_id_in_response": True,
            **({"tracing": collector.tracing(), "request_id_extension": collector.request_id()} if collector else {}),
            "http_filters": [
                {
                    "name": "router",
                    "typed_config": {
                        "@type": f"{_TYPE}.extensions.filters.http.router.v3.Router",
                        "suppress_envoy_headers": True,
                    },
                }
            ],
        },
    }


def cluster_name(endpoint: str, revision: str) -> str:
    """The name under which Envoy counts a revision's requests."""
    return f"{endpoint}--{revision}"


def cluster(
    endpoint: str, revision: str, version: ModelVersion, hosts: Mapping[str, Any], **noted: object
) -> dict[str, Any]:
    """One revision; a server that stops answering /ping is taken out within about three seconds.

    Args:
        endpoint: whose.
        revision: which.
        version: what it serves.
        hosts: `at_port`, or `in_file`.
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
                "timeout": "2s",
                "interval": "1s",
                "no_traffic_interval": "1s",
                "unhealthy_threshold": 3,
                "healthy_threshold": 1,
                "http_health_check": {"path": "/ping"},
            }
        ],
        "circuit_breakers": {
            "thresholds": [{"max_connections": _MANY, "max_pending_requests": _MANY, "max_requests": _MANY}]
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{_TYPE}.extensions.upstreams.http.v3.HttpProtocolOptions",
                "common_http_protocol_options": {"idle_timeout": _UPSTREAM_IDLE},
                "explicit_http_config": {"http_protocol_options": {}},
            }
        },
        "metadata": _ours(
            {
                "endpoint": endpoint,
                "revision": revision,
                "version": version.model_dump(mode="json"),
                **noted,
            }
        ),
    }


def at_port(name: str, port: int) -> dict[str, Any]:
    """The one host of a cluster: a port of this machine."""
    host = {"endpoint": {"address": _address(HOST, port)}}
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


def routes(traffic: dict[str, Traffic], fences: dict[str, int]) -> dict[str, Any]:
    """The route table of every endpoint that has traffic, and the number below which a lease changes nothing."""
    return {
        "@type": f"{_TYPE}.config.route.v3.RouteConfiguration",
        "name": ROUTES_NAME,
        "metadata": _ours({"fences": fences}),
        "virtual_hosts": [
            {
                "name": ROUTES_NAME,
                "domains": ["*"],
                "routes": [route(endpoint, traffic[endpoint]) for endpoint in sorted(traffic)],
            }
        ],
    }


def route(endpoint: str, traffic: Traffic) -> dict[str, Any]:
    """The way of an endpoint's requests."""
    action: dict[str, Any] = {
        "weighted_clusters": {
            "clusters": [
                {
                    "name": cluster_name(endpoint, revision),
                    "weight": weight,
                    "response_headers_to_add": [
                        {
                            "header": {"key": REVISION_HEADER, "value": revision},
                            "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
                        }
                    ],
                }
                for revision, weight in traffic.weights.items()
                if weight > 0
            ]
        },
        "prefix_rewrite": "/invocations",
        "timeout": ROUTE_TIMEOUT,
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
    return {
        "name": endpoint,
        "match": {"path": f"/{endpoint}/invocations"},
        "route": action,
        "metadata": _ours({"endpoint": endpoint, "traffic": traffic.model_dump(mode="json")}),
    }


def ours(resource: dict[str, Any]) -> dict[str, Any]:
    """What we stored in the metadata of a route, a cluster or the table; empty where nothing was."""
    stored: dict[str, Any] = resource.get("metadata", {}).get("filter_metadata", {}).get(METADATA, {})
    return stored


def _ours(content: dict[str, Any]) -> dict[str, Any]:
    return {"filter_metadata": {METADATA: content}}


def _address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}
