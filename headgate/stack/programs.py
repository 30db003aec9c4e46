"""The programs of the local stack, and the settings of theirs that matter."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from headgate.proxies import past_proxies
from headgate.safe_path import python
from headgate.sign_in import MLFLOW_PASSWORD, MLFLOW_USER, PREFECT_SIGN_IN
from headgate.stack.logs import PREFECT_DATES
from headgate.stack.ports import HOST, Ports
from headgate.stack.secrets import USER, Secrets
from headgate.stack.supervisor import Program

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headgate.home import Home

WORK_POOL = "headgate"
"""The Prefect work pool that the local worker serves."""

BOOTSTRAP = "envoy.json"
"""What the gateway starts with (deploy_targets/envoy.py)."""

STACK = ("gateway", "prefect-server", "mlflow-server", "worker", "receiver", "guard", "engine")
"""The names of the stack's programs, in the order in which they are started."""

_BESIDE_PREFECT, _BESIDE_MLFLOW = {"prefect-server", "worker", "engine"}, {"mlflow-server", "receiver"}
"""What servers of one's own stand in for; `headgate connect` has them know the flows and the receiver."""

LEASE_STORAGE = "prefect.server.concurrency.lease_storage.filesystem"
"""Prefect's default keeps concurrency leases in memory, where a server restart leaks the slot for good."""


def client_env(home: Home, ports: Ports, *, prefect: str = "", mlflow: str = "") -> dict[str, str]:
    """Return what a process needs to reach the stack, or the servers that are named in place of its own.

    Raises:
        HomeError: the file of the stack's secrets cannot be read.
    """
    return {
        **past_proxies(os.environ),
        "HEADGATE_HOME": str(home.root),
        "PREFECT_HOME": str(home.prefect),
        "PREFECT_API_URL": prefect or f"{ports.prefect_url}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "MLFLOW_TRACKING_URI": mlflow or ports.mlflow_url,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # Results are what a command prints on stdout, and nothing else.
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        **_sign_in(home, prefect=prefect, mlflow=mlflow),
    }


def _sign_in(home: Home, *, prefect: str, mlflow: str) -> dict[str, str]:
    """Return what signs in to the stack's own servers; no other server may see it."""
    secrets = Secrets.remembered(home)
    if secrets is None:
        return {}
    to_prefect = {PREFECT_SIGN_IN: secrets.prefect_sign_in}
    to_mlflow = {MLFLOW_USER: USER, MLFLOW_PASSWORD: secrets.mlflow_password}
    return {**({} if prefect else to_prefect), **({} if mlflow else to_mlflow)}


def stack_programs(home: Home, ports: Ports, *, prefect: str = "", mlflow: str = "") -> list[Program]:
    """Return the stack's programs, in the order in which they are started.

    Args:
        home: the stack's folder.
        ports: where they listen.
        prefect: the API of a server of one's own, beside which no Prefect server, worker and engine are needed.
        mlflow: an MLflow of one's own, beside which no MLflow server and receiver are needed.
    """
    needless = replaced(prefect=prefect, mlflow=mlflow)
    return [one for one in _all_programs(home, ports, prefect, mlflow) if one.name not in needless]


def replaced(*, prefect: str, mlflow: str) -> set[str]:
    """Return the programs that servers of one's own stand in for."""
    return (_BESIDE_PREFECT if prefect else set()) | (_BESIDE_MLFLOW if mlflow else set())


def _all_programs(home: Home, ports: Ports, prefect: str, mlflow: str) -> list[Program]:
    binaries = Path(sys.executable).parent
    # They are made before a client's environment holds them.
    secrets = Secrets.of(home)
    env = client_env(home, ports, prefect=prefect, mlflow=mlflow)
    with_dates = {**env, **PREFECT_DATES}
    return [
        Program(
            "gateway",
            [str(binaries / "envoy"), "-c", str(home.gateway / BOOTSTRAP), "--concurrency", "2", "--log-level",
             "warning", "--disable-hot-restart"],
            settle_seconds=1, for_ever=True, most_files=True,
        ),
        _program(
            "prefect-server",
            python("tasks.prefect_server", "start", "--host", HOST, "--port", str(ports.prefect)),
            {**with_dates, **_of_prefect(ports, secrets)},
        ),
        _program(
            "mlflow-server",
            python("tasks.mlflow_server", "--host", HOST, "--port", str(ports.mlflow),
                   "--workers", "1", "--backend-store-uri", f"sqlite:///{home.mlflow / 'mlflow.db'}",
                   "--artifacts-destination", str(home.mlflow / "artifacts")),
            {**env, **_of_mlflow(home, secrets)},
            home.mlflow,
        ),
        _program(
            "worker",
            python("tasks.worker", "start", "--pool", WORK_POOL, "--type", "process"),
            # prefect.yaml says `python`, and means this one.
            {**with_dates, "PREFECT_WORKER_QUERY_SECONDS": "0.5", "PATH": _path(binaries)},
        ),
        _program(
            "receiver",
            python("tasks.receiver"),
            {
                **env, "HEADGATE_RECEIVER_PORT": str(ports.receiver),
                "HEADGATE_WEBHOOK_SECRET": secrets.webhook, "HEADGATE_ALERT_TOKEN": secrets.alerts,
            },
        ),
        _program("guard", [str(binaries / "headgate"), "guard"], env),
        # Last, as all goes without it, only slower.
        _program("engine", python("flows.engine"), with_dates),
    ]  # fmt: skip


def _of_prefect(ports: Ports, secrets: Secrets) -> dict[str, str]:
    """Return the settings of Prefect's server."""
    return {
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": LEASE_STORAGE,
        "PREFECT_SERVER_API_AUTH_STRING": secrets.prefect_sign_in,
        "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
        # Its own pages; a tunnel of ssh ends on localhost.
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"{ports.prefect_url},http://localhost:{ports.prefect}",
    }


def _of_mlflow(home: Home, secrets: Secrets) -> dict[str, str]:
    """Return the settings of MLflow's server."""
    return {
        # Headgate runs none of MLflow's background jobs, whose seven consumers take 1.7 GB.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        # Its webhooks go to our receiver, on this machine and in the clear.
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": secrets.mlflow_key,
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
        "MLFLOW_AUTH_CONFIG_PATH": str(home.mlflow / "basic_auth.ini"),
        "MLFLOW_AUTH_ADMIN_USERNAME": USER,
        "MLFLOW_AUTH_ADMIN_PASSWORD": secrets.mlflow_password,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.mlflow_forms,
        "MLFLOW_BASIC_AUTH_FAIL_CLOSED": "true",
    }


def _program(name: str, command: list[str], env: Mapping[str, str], folder: Path | None = None) -> Program:
    """Describe a program of the stack, which is started again however it ends."""
    return Program(name, command, env, folder, settle_seconds=1, for_ever=True)


def _path(binaries: Path) -> str:
    """The search path with this environment's programs first."""
    return os.pathsep.join([str(binaries), *os.get_exec_path()])
