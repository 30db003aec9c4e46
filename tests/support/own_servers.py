"""A Prefect server and a worker of one's own, as a platform team runs them beside the local stack."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from headgate.stack.logs import PREFECT_DATES
from headgate.stack.ports import HOST, free_port
from support import watched_logs
from support.stack import HEADGATE, http, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.stack import Stack


_END_SECONDS = 15


@contextmanager
def running(folder: Path, name: str, *command: str, **env: str) -> Iterator[None]:
    """Run a Python module as a program, with its log in the folder."""
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], env={**os.environ, **PREFECT_DATES, **env}, stdout=log, stderr=log
        )
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                # A Prefect server waits for the clients of its event stream, of which this process is one.
                process.kill()
                process.wait()


@contextmanager
def prefect_server(folder: Path, database: str = "", **env: str) -> Iterator[str]:
    """Start a Prefect server; gives its API's address.

    Args:
        folder: for its state and its log.
        database: an SQLAlchemy URL; a SQLite file in the folder by default.
        env: settings of the server's.
    """
    port = free_port(for_what="Prefect")
    own = {"PREFECT_HOME": str(folder / "prefect")}
    if database:
        own["PREFECT_API_DATABASE_CONNECTION_URL"] = database
    url = f"http://{HOST}:{port}/api"

    def answers() -> bool:
        try:
            return http.get(f"{url}/health", timeout=2).is_success
        except httpx.HTTPError:
            return False

    server = ("prefect", "server", "start", "--host", HOST, "--port", str(port))
    with running(folder, "prefect-server", *server, **own, **env):
        wait_for(answers, 120)
        yield url


@contextmanager
def own_servers(stack: Stack, folder: Path, database: str, journal: str) -> Iterator[Stack]:
    """Start a Prefect server, connect it, and start a worker; endpoints and MLflow stay those of the local stack.

    Args:
        stack: the local stack, whose gateway serves the endpoints.
        folder: for the servers' state and logs.
        database: of the Prefect server.
        journal: of all that is released there.
    """
    with ExitStack() as opened:
        url = opened.enter_context(prefect_server(folder, database))
        env = {**stack.env, "PREFECT_API_URL": url, "PREFECT_HOME": str(folder), "HEADGATE_JOURNAL_URL": journal}
        connected = subprocess.run(
            [HEADGATE, "connect"], env={**os.environ, **env, "HEADGATE_ENGINE": "off"}, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert connected.returncode == 0, connected.stderr
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        worker = ("tasks.worker", "start", "--pool", "headgate", "--type", "process")
        opened.enter_context(running(folder, "worker", *worker, **env, PATH=path, PREFECT_WORKER_QUERY_SECONDS="0.5"))
        watched_logs.watch(folder)
        yield dataclasses.replace(stack, env=env)
    watched_logs.unwatch(folder)
