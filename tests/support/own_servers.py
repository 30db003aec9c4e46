"""A Prefect server and a worker of one's own, as a platform team runs them beside the local stack."""

from __future__ import annotations

import base64
import dataclasses
import os
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from headgate.sign_in import PREFECT_SIGN_IN
from headgate.stack.logs import PREFECT_DATES
from headgate.stack.ports import HOST, free_port
from support import watched_logs
from support.stack import HEADGATE, http, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.stack import Stack


_END_SECONDS = 15


@contextmanager
def running(
    folder: Path, name: str, *command: str, python: str = sys.executable, **env: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a Python module as a program, with its log in the folder."""
    with (folder / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            [python, "-m", *command], env={**os.environ, **PREFECT_DATES, **env}, stdout=log, stderr=log, cwd=folder
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                # A Prefect server waits for the clients of its event stream, of which this process is one.
                process.kill()
                process.wait()


@contextmanager
def prefect_server(folder: Path, database: str = "", port: int = 0, **env: str) -> Iterator[str]:
    """Start a Prefect server; gives its API's address.

    Args:
        folder: for its state and its log.
        database: an SQLAlchemy URL; a SQLite file in the folder by default.
        port: where it listens; a free one by default.
        env: settings of the server's.
    """
    port = port or free_port(for_what="Prefect")
    url = f"http://{HOST}:{port}/api"
    # What a browser asks; by default that of Prefect's own port, wherever the server listens.
    own = {"PREFECT_HOME": str(folder / "prefect"), "PREFECT_SERVER_UI_API_URL": url}
    if database:
        own["PREFECT_API_DATABASE_CONNECTION_URL"] = database

    server = ("prefect", "server", "start", "--host", HOST, "--port", str(port))
    with running(folder, "prefect-server", *server, **own, **env):
        wait_for(lambda: is_well(f"{url}/health"), 120)
        yield url


@contextmanager
def mlflow_server(folder: Path, database: str) -> Iterator[str]:
    """Start an MLflow server that may send webhooks to this machine; gives its address.

    Args:
        folder: for its artifacts and its log.
        database: an SQLAlchemy URL.
    """
    port = free_port(for_what="MLflow")
    url = f"http://{HOST}:{port}"
    key = base64.urlsafe_b64encode(os.urandom(32)).decode()
    settings = {
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": key, "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "https,http",
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }  # fmt: skip
    command = (
        "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1", "--backend-store-uri", database,
        "--artifacts-destination", str(folder / "artifacts"),
    )  # fmt: skip
    with running(folder, "mlflow-server", *command, **settings):
        wait_for(lambda: is_well(f"{url}/health"), 120)
        yield url


@contextmanager
def receiver(folder: Path, secret: str, **env: str) -> Iterator[str]:
    """Start the receiver of webhooks; gives its address."""
    port = free_port(for_what="the receiver")
    own = {"HEADGATE_RECEIVER_PORT": str(port), "HEADGATE_WEBHOOK_SECRET": secret, "HEADGATE_ALERT_TOKEN": secret}
    url = f"http://{HOST}:{port}"
    with running(folder, "receiver", "tasks.receiver", **own, **env):
        wait_for(lambda: is_well(f"{url}/health"), 60)
        yield url


@contextmanager
def worker(folder: Path, name: str, python: str = sys.executable, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start a worker of the work pool `headgate`, as docs/own-servers.md has it."""
    path = os.pathsep.join([str(Path(python).parent), os.environ["PATH"]])
    command = ("tasks.worker", "start", "--pool", "headgate", "--type", "process", "--name", name)
    settings = {**env, "PATH": path, "PREFECT_WORKER_QUERY_SECONDS": "0.5"}
    with running(folder, name, *command, python=python, **settings) as process:
        yield process


def is_well(url: str) -> bool:
    """Whether a server answers that it is well."""
    try:
        return http.get(url, timeout=2).is_success
    except httpx.HTTPError:
        return False


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
        own = {"PREFECT_API_URL": url, "PREFECT_HOME": str(folder), "HEADGATE_JOURNAL_URL": journal}
        env = {name: value for name, value in {**stack.env, **own}.items() if name != PREFECT_SIGN_IN}
        connected = subprocess.run(
            [HEADGATE, "connect"], env={**os.environ, **env, "HEADGATE_ENGINE": "off"}, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert connected.returncode == 0, connected.stderr
        opened.enter_context(worker(folder, "worker", **env))
        watched_logs.watch(folder)
        yield dataclasses.replace(stack, env=env)
    watched_logs.unwatch(folder)
