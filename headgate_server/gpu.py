"""The GPUs that the server may use, as NVIDIA's management library (NVML) sees them, for Prometheus.

API: https://docs.nvidia.com/deploy/nvml-api/group__nvmlDeviceQueries.html. Where there is no such library, as on a
machine without its driver, there are no such metrics.
"""

from __future__ import annotations

import contextlib
import logging
import os
from functools import cache
from typing import TYPE_CHECKING, Any

import pynvml
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import Metric

logger = logging.getLogger("headgate_server")


def is_seen() -> bool:
    """Return whether the server may use a GPU."""
    return bool(_visible())


class Gpus(Collector):
    """How busy each is and how much of its memory is used, when Prometheus asks."""

    def collect(self) -> Iterator[Metric]:
        """One family a metric, one sample a GPU; what a GPU cannot tell, as a slice of one its use, is left out."""
        used = GaugeMetricFamily(
            "headgate_gpu_used_ratio", "Share of time in which the GPU was at work.", labels=["gpu"]
        )
        memory = GaugeMetricFamily("headgate_gpu_memory_used_bytes", "Memory in use on the GPU.", labels=["gpu"])
        total = GaugeMetricFamily("headgate_gpu_memory_bytes", "The GPU's memory.", labels=["gpu"])
        for name, handle in _visible():
            with contextlib.suppress(pynvml.NVMLError):
                found = pynvml.nvmlDeviceGetMemoryInfo(handle)
                memory.add_metric([name], found.used)
                total.add_metric([name], found.total)
                used.add_metric([name], pynvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100)
        yield from (used, memory, total)


@cache
def _visible() -> list[tuple[str, Any]]:
    """Those of CUDA_VISIBLE_DEVICES, by number or by id; all of them where it is not set."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        pynvml.nvmlInit()
        names = [str(number) for number in range(pynvml.nvmlDeviceGetCount())] if named is None else named.split(",")
        return [(name, _handle(name)) for name in names if name.strip()]
    except pynvml.NVMLError_LibraryNotFound:
        return []
    except pynvml.NVMLError as error:
        logger.warning("no metrics of GPUs: %s", error)
        return []


def _handle(name: str) -> Any:  # noqa: ANN401 - NVML's own
    if name.isdecimal():
        return pynvml.nvmlDeviceGetHandleByIndex(int(name))
    return pynvml.nvmlDeviceGetHandleByUUID(name)
