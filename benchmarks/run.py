"""Run every benchmark, or those named: `make bench ARGS="gateway servers"`."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

ALL = (
    "overhead",
    "operation",
    "gateway",
    "servers",
    "prediction_log",
    "judge",
    "drift",
    "drift_peers",
    "predictions",
    "many_endpoints",
    "weights",
    "cold_images",
    "clouds",
)


if __name__ == "__main__":
    for name in sys.argv[1:] or ALL:
        print(f"\n== {name} ==", flush=True)
        # Each with its own defaults; the names are no options of theirs.
        sys.argv = [name]
        importlib.import_module(name).main()
