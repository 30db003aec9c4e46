"""The gateway's spans: a trace begins there, or goes on from a client's `traceparent`, and goes on in the server.

Envoy's own exporter speaks OTLP over HTTP.
https://www.envoyproxy.io/docs/envoy/latest/api-v3/config/trace/v3/opentelemetry.proto
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from headgate.credentials import with_userinfo
from headgate.errors import BadInputError

_TYPE = "type.googleapis.com/envoy"
_CLUSTER = "opentelemetry"
_ENDPOINT, _SHARE = "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_TRACES_SAMPLER_ARG"


@dataclass(frozen=True)
class Collector:
    """Where spans go.

    Attributes:
        host: its name or address.
        port: of OTLP over HTTP.
        path: that spans are posted to.
        share: of requests that bring no decision of their own, from 0 to 1.
    """

    host: str
    port: int
    path: str
    share: float

    @classmethod
    def from_env(cls) -> Collector | None:
        """The one that OTEL_EXPORTER_OTLP_ENDPOINT names, or none.

        Raises:
            BadInputError: a variable is not what it has to be.
        """
        given = os.environ.get(_ENDPOINT, "")
        if not given:
            return None
        url = urlsplit(given)
        if with_userinfo(given):
            raise BadInputError(
                f"{_ENDPOINT} has a user or a password, and the address is written into the gateway's configuration",
                fix="take them out; a collector that asks for a user is reached by one of this machine's that has it",
            )
        if url.scheme != "http" or not url.hostname:
            raise BadInputError(
                f"{_ENDPOINT} is {given}, and the gateway sends spans over plain HTTP only",
                fix="name a collector of this machine or network, such as http://127.0.0.1:4318",
            )
        try:
            share = float(os.environ.get(_SHARE) or 1)
        except ValueError:
            share = -1.0
        if not 0 <= share <= 1:
            raise BadInputError(f"{_SHARE} is {os.environ[_SHARE]}, and has to be from 0 to 1", fix="such as 0.1")
        return cls(url.hostname, url.port or 4318, f"{url.path.rstrip('/')}/v1/traces", share)

    def tracing(self) -> dict[str, Any]:
        """What the HTTP connection manager is told."""
        return {
            "provider": {
                "name": "envoy.tracers.opentelemetry",
                "typed_config": {
                    "@type": f"{_TYPE}.config.trace.v3.OpenTelemetryConfig",
                    "service_name": "headgate-gateway",
                    "http_service": {
                        "http_uri": {
                            "uri": f"http://{self.host}:{self.port}{self.path}", "cluster": _CLUSTER, "timeout": "2s",
                        }
                    },
                },
            },
            "random_sampling": {"value": 100 * self.share},
            "custom_tags": [{"tag": "headgate.request_id", "request_header": {"name": "x-request-id"}}],
        }  # fmt: skip

    @staticmethod
    def request_id() -> dict[str, Any]:
        """Envoy would write whether it traces into a digit of the request's id, which clients and labels know it by."""
        return {
            "typed_config": {
                "@type": f"{_TYPE}.extensions.request_id.uuid.v3.UuidRequestIdConfig",
                "pack_trace_reason": False,
                "use_request_id_for_trace_sampling": False,
            }
        }

    def cluster(self) -> dict[str, Any]:
        """The collector as Envoy knows it; requests go on without it."""
        address = {"socket_address": {"address": self.host, "port_value": self.port}}
        return {
            "name": _CLUSTER,
            "type": "STRICT_DNS",
            "connect_timeout": "1s",
            "load_assignment": {
                "cluster_name": _CLUSTER, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
            },
        }  # fmt: skip
