"""A request's way through a real Envoy and a real server, as a collector is told of it."""

from __future__ import annotations

import threading
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import uvicorn
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route
from support.stack import http, start_gateway, wait_for

from deploy_targets.envoy_tracing import Collector
from deploy_targets.local import LocalTarget
from headgate.errors import BadInputError
from headgate.records import ModelVersion, Revision, Traffic
from headgate.stack.ports import free_port
from images import build_image, fetch_artifact

if TYPE_CHECKING:
    from starlette.requests import Request


@contextmanager
def collector():
    """Its address, and the spans that it was sent, each with its service."""
    spans = []

    async def collect(request: Request) -> Response:
        for resource in ExportTraceServiceRequest.FromString(await request.body()).resource_spans:
            (service,) = [a.value.string_value for a in resource.resource.attributes if a.key == "service.name"]
            spans.extend((service, span) for scope in resource.scope_spans for span in scope.spans)
        return Response()

    app = Starlette(routes=[Route("/v1/traces", collect, methods=["POST"])])
    port = free_port(for_what="a collector")
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_for(lambda: server.started)
        yield f"http://127.0.0.1:{port}", spans
    finally:
        server.should_exit = True
        thread.join()


def attributes(span) -> dict[str, str]:
    return {one.key: one.value.string_value or one.value.int_value for one in span.attributes}


def serve(home, models):
    """The wine model at an endpoint of that name: its target, its revision, what clients call, and what they ask."""
    target = LocalTarget(home)
    image = build_image(home, fetch_artifact(str(models("wine")), home.root))
    version = ModelVersion(name="wine", version=1, digest=image.digest)
    revision = Revision.of(version, image, env={}, workers=1, ready_timeout=120)
    target.deploy("wine", revision)
    target.route("wine", Traffic.all_to(revision.name))
    example = (image.path / "model" / "serving_input_example.json").read_text()
    return target, revision, target.observe("wine").url, example


def test_a_trace_goes_from_a_client_through_the_gateway_to_the_server(models, tmp_path_factory, monkeypatch):
    with collector() as (address, spans):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")
        with start_gateway(tmp_path_factory.mktemp("traced")) as home:
            target, revision, url, example = serve(home, models)

            def ask(traced: str) -> tuple[str, str]:
                """The trace's id and the request's, the latter chosen by the client."""
                trace, request = uuid.uuid4().hex, str(uuid.uuid4())
                headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-{traced}", "x-request-id": request,
                           "content-type": "application/json"}  # fmt: skip
                answer = http.post(url, content=example, headers=headers, timeout=20)
                assert (answer.status_code, answer.headers["x-request-id"]) == (200, request)
                return trace, request

            ask("00")
            trace, request = ask("01")

            def of(service: str) -> list:
                return [span for name, span in list(spans) if name == service and span.trace_id.hex() == trace]

            wait_for(lambda: of("wine") and of("headgate-gateway"), 30)
            (served,) = of("wine")
            told = attributes(served)
            assert served.parent_span_id in {span.span_id for span in of("headgate-gateway")}
            assert (told["headgate.request_id"], told["headgate.revision"]) == (request, revision.name)
            assert told["http.response.status_code"] == 200
            assert request in {attributes(span).get("headgate.request_id") for span in of("headgate-gateway")}
            assert {span.trace_id.hex() for _, span in spans} == {trace}, "who was not to be traced was not"
            spans.clear()
            # Health checks and failures: a body that is none is an answer as well.
            http.post(url, content=b"{", headers={"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}, timeout=20)
            wait_for(lambda: of("wine"), 30)
            assert attributes(of("wine")[0])["http.response.status_code"] == 400
            monkeypatch.undo()
            target.delete("wine")


@pytest.mark.expects_errors("OTLP HTTP exporter received a non-success status code", "Failed to export spans batch")
def test_without_a_collector_requests_are_answered_all_the_same(models, tmp_path_factory, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    with start_gateway(tmp_path_factory.mktemp("untraced")) as home:
        target, _, url, example = serve(home, models)
        for _ in range(20):
            answer = http.post(url, content=example, timeout=20,
                                headers={"content-type": "application/json"})  # fmt: skip
            assert answer.status_code == 200
        monkeypatch.undo()
        target.delete("wine")


@pytest.mark.parametrize(("name", "value", "says"), [
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector:4318", "over plain HTTP only"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317", "over plain HTTP only"),
    ("OTEL_TRACES_SAMPLER_ARG", "10%", "has to be from 0 to 1"),
    ("OTEL_TRACES_SAMPLER_ARG", "2", "has to be from 0 to 1"),
])  # fmt: skip
def test_a_setting_that_is_none_is_named(monkeypatch, name, value, says):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318/otlp/")
    assert Collector.from_env() == Collector("127.0.0.1", 4318, "/otlp/v1/traces", 1.0)
    monkeypatch.setenv(name, value)
    with pytest.raises(BadInputError, match=says):
        Collector.from_env()
