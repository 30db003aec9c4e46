"""Start the server: `python -m headgate_server`. Arguments such as SageMaker's `serve` are ignored.

Exit codes: 0 after SIGTERM, once the last request is answered; 3 when the model cannot be loaded, a setting is wrong or
the server cannot listen, which starting it again will not change. With HEADGATE_SHIPS=on the prediction log is brought
to object storage from here (headgate_server/ship.py): for a platform that runs one container and nothing beside it.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING

# The first process of a container ignores what it does not handle, and importing takes its time.
signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(0))

import uvicorn  # noqa: E402

from headgate_server import mounted_secrets  # noqa: E402
from headgate_server.listener import listening_at  # noqa: E402
from headgate_server.settings import SettingError, Settings  # noqa: E402
from headgate_server.workers import LOAD_FAILED, MAIN_PID, Workers  # noqa: E402

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

logger = logging.getLogger("headgate_server")

KEEP_ALIVE_SECONDS = 90
DRAIN_SECONDS = 15
_AGAIN_SECONDS = 1.0


def main() -> int:
    """Serve until SIGTERM."""
    mounted_secrets.into(os.environ)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    with ExitStack() as until_end:
        try:
            settings = Settings.from_env()
            os.environ[MAIN_PID] = str(os.getpid())
            config = _config(settings)
            listener = until_end.enter_context(_listening(config, settings))
            workers = Workers(config, listener, settings)
        except SettingError as error:
            logger.error("%s", error)  # noqa: TRY400 - it says all
            return LOAD_FAILED
        except OSError as error:
            logger.error("the server cannot listen at HEADGATE_SOCKET, %s: %s", settings.socket, error)  # noqa: TRY400
            return LOAD_FAILED
        with _shipping(wanted=os.environ.get("HEADGATE_SHIPS") == "on"):
            workers.run()
    return workers.exit_code


def _listening(config: uvicorn.Config, settings: Settings) -> AbstractContextManager[socket.socket]:
    """Return the socket of a port, or the Unix socket that is named in its place."""
    # uvicorn would let every user of the machine write to a Unix socket.
    return listening_at(settings.socket) if settings.socket else closing(config.bind_socket())


def _config(settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        "headgate_server.app:create", factory=True, host=settings.host, port=settings.port, workers=settings.workers,
        loop="uvloop", http="httptools", ws="none", lifespan="on", access_log=False, log_level="warning",
        timeout_keep_alive=KEEP_ALIVE_SECONDS, timeout_graceful_shutdown=DRAIN_SECONDS, backlog=4096,
        server_header=False, date_header=False, proxy_headers=False,
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
    return subprocess.Popen([sys.executable, "-m", "headgate_server.ship"])


if __name__ == "__main__":
    sys.exit(main())
