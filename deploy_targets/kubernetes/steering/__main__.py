"""Keep Envoy's files as the endpoints' ConfigMaps and pods are: `python -m steering`, or once with `--once`."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from pathlib import Path

from .cluster import Cluster
from .files import STEERED, render, write_changed
from .table import Table

_GATHER_SECONDS = 0.01
"""Pods come and go in bursts; what comes within this time is written at once."""


def main() -> int:
    """Write until SIGTERM."""
    parser = argparse.ArgumentParser(prog="steering")
    parser.add_argument("folder", type=Path, help="that Envoy watches")
    parser.add_argument("--once", action="store_true", help="write what is there now, for an Envoy that is to start")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    mark = options.folder / STEERED
    mark.unlink(missing_ok=True)
    changed = threading.Event()
    tables = [Table(Cluster.around_this_pod(), kind, changed) for kind in ("configmaps", "pods")]
    for table in tables:
        table.read()
    while True:
        changed.clear()
        write_changed(options.folder, render(*(table.items() for table in tables)))
        if options.once:
            return 0
        mark.touch()
        for table in tables:
            table.follow()
        changed.wait()
        changed.wait(_GATHER_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
