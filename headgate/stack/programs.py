"""The programs of the local stack, and the settings of theirs that matter."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from headgate.stack.logs import PREFECT_DATES
from headgate.stack.ports import HOST, Ports
from headgate.stack.secrets import Secrets
from headgate.stack.supervisor import Program

if TYPE_CHECKING:
    from headgate.home import Home

WORK_POOL = "headgate"
"""The Prefect work pool that the local worker serves."""

STACK = ("gateway", "prefect-server", "mlflow-server", "worker", "receiver", "guard", "engine")
"""The names of the stack's programs, in the order in which they are started."""

LEASE_STORAGE = "prefect.server.concurrency.lease_storage.filesystem"
"""Prefect's default keeps concurrency leases in memory, where a server restart leaks the slot for good."""


def client_env(home: Home, ports: Ports) -> dict[str, str]:
    """What a process needs to reach the stack."""
    return {
        "HEADGATE_HOME": str(home.root),
        "PREFECT_HOME": str(home.prefect),
        "PREFECT_API_URL": f"{ports.prefect_url}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "MLFLOW_TRACKING_URI": ports.mlflow_url,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # Results are what a command prints on stdout, and nothing else.
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    }


def stack_programs(home: Home, ports: Ports) -> list[Program]:
    """Envoy, the servers of Prefect and MLflow, worker, receiver, guard and engine, in the order they are started."""
    binaries = Path(sys.executable).parent
    env, secrets = client_env(home, ports), Secrets.of(home)
    database = home.mlflow / "mlflow.db"
    return [
        Program("gateway", [str(binaries / "envoy"), "-c", str(home.gateway / "envoy.yaml"),
                            "--concurrency", "2", "--log-level", "warning", "--disable-hot-restart"],
                settle_seconds=1),
        Program(
            "prefect-server",
            [sys.executable, "-m", "headgate.stack.prefect_server", "start", "--host", HOST, "--port",
             str(ports.prefect)],
            {**env, **PREFECT_DATES, "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": LEASE_STORAGE},
            settle_seconds=1,
        ),
        Program(
            "mlflow-server",
            [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(ports.mlflow),
             "--workers", "1", "--backend-store-uri", f"sqlite:///{database}",
             "--artifacts-destination", str(home.mlflow / "artifacts")],
            # Headgate runs none of MLflow's background jobs, whose seven consumers take 1.7 GB.
            {
                **env, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
                # Its webhooks go to our receiver, on this machine and in the clear.
                "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": secrets.mlflow_key,
                "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https", "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
            },
            home.mlflow,
            settle_seconds=1,
        ),
        Program(
            "worker",
            [sys.executable, "-m", "tasks.worker", "start", "--pool", WORK_POOL, "--type", "process"],
            # prefect.yaml says `python`, and means this one.
            {**env, **PREFECT_DATES, "PREFECT_WORKER_QUERY_SECONDS": "0.5", "PATH": _path(binaries)},
            settle_seconds=1,
        ),
        Program(
            "receiver",
            [sys.executable, "-m", "tasks.receiver"],
            {
                **env, "HEADGATE_RECEIVER_PORT": str(ports.receiver),
                "HEADGATE_WEBHOOK_SECRET": secrets.webhook, "HEADGATE_ALERT_TOKEN": secrets.alerts,
            },
            settle_seconds=1,
        ),
        Program("guard", [str(binaries / "headgate"), "guard"], env, settle_seconds=1),
        # Last, as all goes without it, only slower.
        Program("engine", [sys.executable, "-m", "flows.engine"], {**env, **PREFECT_DATES}, settle_seconds=1),
    ]  # fmt: skip


def _path(binaries: Path) -> str:
    """The search path with this environment's programs first."""
    return os.pathsep.join([str(binaries), *os.get_exec_path()])
