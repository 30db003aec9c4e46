"""Start a Prefect worker once its server answers: `python -P -m tasks.worker start --pool POOL --type TYPE`.

A worker that is started before its server gives up the server's event stream: it then polls for cancelled runs, and
tells nothing of the runs that it carries out.

As a container's first process it has to handle SIGTERM itself, also while it waits: the kernel ends such a process by
no signal that it leaves to its default, and the kubelet would wait the whole grace period.
"""

from __future__ import annotations

import logging
import runpy
import signal
import sys

import httpx
import prefect.cli.worker
import prefect.workers.process  # noqa: F401 - seconds to import, which pass while the server starts
from prefect.settings import PREFECT_API_URL

from headgate import clock

_LOOK_SECONDS = 0.1
_SAY_SECONDS = 30.0


def wait_for_server(url: str) -> None:
    """Return once the Prefect server answers; say every 30 s that it does not."""
    began = said = clock.monotonic()
    with httpx.Client(timeout=2) as client:
        while not _answers(client, f"{url}/health"):
            if clock.monotonic() - said > _SAY_SECONDS:
                said = clock.monotonic()
                logging.getLogger("headgate").warning(
                    "the Prefect server at %s has not answered for %.0f s; the worker waits for it", url, said - began
                )
            clock.sleep(_LOOK_SECONDS)


def _answers(client: httpx.Client, url: str) -> bool:
    try:
        return client.get(url).is_success
    except httpx.HTTPError:
        return False


if __name__ == "__main__":
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    # Prefect puts its own in the place of this once it starts the worker.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    wait_for_server(str(PREFECT_API_URL.value()))
    sys.argv = ["prefect", "worker", *sys.argv[1:]]
    runpy.run_module("prefect", run_name="__main__", alter_sys=True)
