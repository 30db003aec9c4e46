"""A span a request, for an OpenTelemetry collector; the gateway's span is its parent.

It is switched on, and configured, by OpenTelemetry's own variables: OTEL_EXPORTER_OTLP_ENDPOINT (OTLP over HTTP),
OTEL_TRACES_SAMPLER, OTEL_SERVICE_NAME and so on. Whether a request is traced is decided where its trace began.
https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

if TYPE_CHECKING:
    from collections.abc import Iterable

    from opentelemetry.trace import Span

    from headgate_server.settings import Settings

_SERVER_ERROR = 500


class Tracing:
    """Begins and ends spans; they are sent from a thread of their own.

    Args:
        settings: whose they are.
    """

    def __init__(self, settings: Settings) -> None:
        self._constant = {
            "http.request.method": "POST", "url.path": "/invocations",
            "headgate.endpoint": settings.endpoint, "headgate.revision": settings.revision,
        }  # fmt: skip
        named = {} if os.environ.get("OTEL_SERVICE_NAME") else {SERVICE_NAME: settings.endpoint or "model"}
        self._provider = TracerProvider(resource=Resource.create(named))
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("headgate.serving")
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, headers: Iterable[tuple[bytes, bytes]], request_id: str, *, mirrored: bool) -> Span:
        """The span of a request, whose headers may name a parent."""
        parents = {name.decode(): value.decode("latin-1") for name, value in headers if name.startswith(b"trace")}
        about: dict[str, Any] = {"headgate.request_id": request_id, "headgate.mirrored": mirrored, **self._constant}
        return self._tracer.start_span(
            "invocations", self._propagator.extract(parents), SpanKind.SERVER, attributes=about
        )  # fmt: skip

    def end(self, span: Span, status: int) -> None:
        """End a request's span."""
        span.set_attribute("http.response.status_code", status)
        if status >= _SERVER_ERROR:
            span.set_status(StatusCode.ERROR)
        span.end()

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()
