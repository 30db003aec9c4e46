"""What the server counts, for Prometheus at /metrics."""

from __future__ import annotations

import os

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

from serving.gpu import Gpus

REQUESTS = Counter("headgate_requests", "Answered requests.", ["status"])
SECONDS = Histogram(
    "headgate_request_seconds",
    "Time from the request's last byte to its answer.",
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
IN_PROGRESS = Gauge("headgate_requests_in_progress", "Requests without an answer yet.", multiprocess_mode="livesum")
LOG_DROPPED = Counter("headgate_prediction_log_dropped", "Rows that the prediction log could not keep.")

REGISTRY.register(Gpus())

CONTENT_TYPE = CONTENT_TYPE_LATEST


def render() -> bytes:
    """All metrics; those of every worker process where PROMETHEUS_MULTIPROC_DIR is set."""
    registry = REGISTRY
    if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        registry.register(Gpus())
    return generate_latest(registry)
