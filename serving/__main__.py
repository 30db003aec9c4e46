"""Start the server: `python -m serving`. Arguments such as SageMaker's `serve` are ignored.

Exit codes: 0 after SIGTERM, once the last request is answered; 3 when the model cannot be loaded, which
starting it again will not change.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys

# The first process of a container ignores what it does not handle, and importing takes its time.
signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(0))

import uvicorn  # noqa: E402

from serving.settings import Settings  # noqa: E402

LOAD_FAILED = 3
KEEP_ALIVE_SECONDS = 90
DRAIN_SECONDS = 15


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
    uvicorn.run(
        "serving.app:create", factory=True, host=settings.host, port=settings.port,
        workers=settings.workers if settings.workers > 1 else None,
        loop="uvloop", http="httptools", ws="none", lifespan="on", access_log=False, log_level="warning",
        timeout_keep_alive=KEEP_ALIVE_SECONDS, timeout_graceful_shutdown=DRAIN_SECONDS, backlog=4096,
        server_header=False, date_header=False,
    )  # fmt: skip
    return LOAD_FAILED if failed else 0


if __name__ == "__main__":
    sys.exit(main())
