"""NVIDIA's management library for machines without a GPU: what the server calls of it, in C, with fixed answers.

Two GPUs; the second is a slice (MIG), whose use the real library does not tell either (NVML_ERROR_NOT_SUPPORTED, 3).
"""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

GIB = 2**30

_SOURCE = """
#include <string.h>
typedef struct { unsigned long long total, free, used; } memory;
typedef struct { unsigned int gpu, memory; } utilization;
static int gpus[2] = {0, 1};
int nvmlInitWithFlags(unsigned int flags) { return 0; }
int nvmlDeviceGetCount_v2(unsigned int *count) { *count = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **handle) {
    if (index > 1) return 2;
    *handle = &gpus[index];
    return 0;
}
int nvmlDeviceGetHandleByUUID(const char *uuid, void **handle) {
    if (strcmp(uuid, "GPU-second")) return 6;
    *handle = &gpus[1];
    return 0;
}
int nvmlDeviceGetMemoryInfo(void *handle, memory *found) {
    found->total = 80ULL << 30;
    found->used = (*(int *)handle + 3ULL) << 30;
    found->free = found->total - found->used;
    return 0;
}
int nvmlDeviceGetUtilizationRates(void *handle, utilization *found) {
    if (*(int *)handle) return 3;
    found->gpu = 42;
    found->memory = 7;
    return 0;
}
const char *nvmlErrorString(int code) { return code == 2 ? "Invalid Argument" : "Unknown"; }
"""


def library(folder: Path) -> str:
    """Make it; the folder for LD_LIBRARY_PATH."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed, and makes the library")
    folder.mkdir(exist_ok=True)
    source = folder / "nvml.c"
    source.write_text(_SOURCE)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", folder / "libnvidia-ml.so.1", source], check=True)
    return str(folder)
