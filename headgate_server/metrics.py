"""What the server counts, for Prometheus at /metrics."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

TOGETHER = "PROMETHEUS_MULTIPROC_DIR"
"""The variable with the folder of what several workers count together; prometheus_client reads it as it is imported."""
_KINDS = ("counter", "histogram", "gauge_livesum")
_FILE_BYTES = 2**16
"""Of each kind's file at first, by prometheus_client; what is counted here needs a tenth of it."""

logger = logging.getLogger("headgate_server")


def _reserve() -> None:
    """Take the disk's space for this worker's files; count in memory where there is none.

    A write to a page of a sparse file that the disk has no space for would end the process (SIGBUS).
    """
    files = [Path(os.environ[TOGETHER]) / f"{kind}_{os.getpid()}.db" for kind in _KINDS]
    try:
        for path in files:
            with path.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, _FILE_BYTES)
    except OSError as error:
        logger.warning("this worker counts by itself: no space for what several count together: %s", error)
        for path in files:
            path.unlink(missing_ok=True)
        del os.environ[TOGETHER]


if os.environ.get(TOGETHER):
    _reserve()

from prometheus_client import (  # noqa: E402
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead  # noqa: E402

from headgate_server.gpu import Gpus  # noqa: E402

REQUESTS = Counter("headgate_requests", "Answered requests.", ["status"])
SECONDS = Histogram(
    "headgate_request_seconds",
    "Time from the request's last byte to its answer.",
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
IN_PROGRESS = Gauge("headgate_requests_in_progress", "Requests without an answer yet.", multiprocess_mode="livesum")
LOG_DROPPED = Counter("headgate_prediction_log_dropped", "Rows that the prediction log could not keep.")
WORKERS_ENDED = Counter("headgate_workers_ended", "Worker processes that ended, and in whose place another is.")
WORKERS = Gauge("headgate_workers", "Worker processes that have loaded the model.", multiprocess_mode="livesum")

REGISTRY.register(Gpus())

CONTENT_TYPE = CONTENT_TYPE_LATEST


def count_workers_ended(ended: int) -> None:
    """Count the workers that have ended before this one, in the place of the last of which it is.

    Args:
        ended: how many; what several workers count is kept when one of them ends.
    """
    if ended:
        WORKERS_ENDED.inc(1 if os.environ.get(TOGETHER) else ended)


def share(scratch: Path) -> None:
    """Have the workers that are started after this count in files of one folder, which is emptied.

    Raises:
        OSError: the folder cannot be made.
    """
    for name in ("ready", "metrics"):
        shutil.rmtree(scratch / name, ignore_errors=True)
    (scratch / "metrics").mkdir(parents=True)
    os.environ[TOGETHER] = str(scratch / "metrics")


def is_shared(pid: int) -> bool:
    """Return whether a worker counts in files."""
    folder = os.environ.get(TOGETHER)
    return folder is not None and (Path(folder) / f"{_KINDS[0]}_{pid}.db").exists()


def forget(pid: int) -> None:
    """Leave out the requests in progress of a worker that has ended."""
    if os.environ.get(TOGETHER):
        mark_process_dead(pid)  # type: ignore[no-untyped-call]


def render() -> bytes:
    """All metrics; those of every worker process where PROMETHEUS_MULTIPROC_DIR is set."""
    registry = REGISTRY
    if os.environ.get(TOGETHER):
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        registry.register(Gpus())
    return generate_latest(registry)
