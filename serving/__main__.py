"""Start the server: `python -m serving`. Arguments such as SageMaker's `serve` are ignored.

Exit codes: 0 after SIGTERM, once the last request is answered; 3 when the model cannot be loaded, which
starting it again will not change. With HEADGATE_SHIPS=on the prediction log is brought to object storage from here
(serving/ship.py): for a platform that runs one container and nothing beside it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

# The first process of a container ignores what it does not handle, and importing takes its time.
signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(0))

import uvicorn  # noqa: E402

from serving.settings import Settings  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

LOAD_FAILED = 3
KEEP_ALIVE_SECONDS = 90
DRAIN_SECONDS = 15
_AGAIN_SECONDS = 1.0


def main() -> int:
    """Serve until SIGTERM."""
    settings = Settings.from_env()
    os.environ["HEADGATE_MAIN_PID"] = str(os.getpid())
    if settings.workers > 1 and settings.scratch is not None:
        for name in ("ready", "metrics"):
            shutil.rmtree(settings.scratch / name, ignore_errors=True)
        (settings.scratch / "metrics").mkdir(parents=True)
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(settings.scratch / "metrics")
    failed = False

    def load_failed(_number: int, _frame: object) -> None:
        nonlocal failed
        failed = True
        os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGUSR1, load_failed)
    # uvicorn drains, then raises the signal again, which must not end the process with an error.
    signal.signal(signal.SIGTERM, lambda _number, _frame: None)
    with _shipping(wanted=os.environ.get("HEADGATE_SHIPS") == "on"):
        _serve(settings)
    return LOAD_FAILED if failed else 0


def _serve(settings: Settings) -> None:
    uvicorn.run(
        "serving.app:create", factory=True, host=settings.host, port=settings.port,
        workers=settings.workers if settings.workers > 1 else None,
        loop="uvloop", http="httptools", ws="none", lifespan="on", access_log=False, log_level="warning",
        timeout_keep_alive=KEEP_ALIVE_SECONDS, timeout_graceful_shutdown=DRAIN_SECONDS, backlog=4096,
        server_header=False, date_header=False,
    )  # fmt: skip


@contextmanager
def _shipping(*, wanted: bool) -> Iterator[None]:
    """What is served meanwhile is shipped, by a process that is started again when it ends; and then the rest."""
    if not wanted:
        yield
        return
    is_over, changing, running = threading.Event(), threading.Lock(), _start_shipper()

    def keep() -> None:
        nonlocal running
        while True:
            running.wait()
            is_over.wait(_AGAIN_SECONDS)
            with changing:
                if is_over.is_set():
                    return
                running = _start_shipper()

    keeper = threading.Thread(target=keep)
    keeper.start()
    try:
        yield
    finally:
        with changing:
            is_over.set()
            running.terminate()
        keeper.join()


def _start_shipper() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "serving.ship"])


if __name__ == "__main__":
    sys.exit(main())
