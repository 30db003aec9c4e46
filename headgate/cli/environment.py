"""Pointing this process at the local stack, before Prefect and MLflow read their settings."""

from __future__ import annotations

import os
import sys

import httpx

from headgate.credentials import separate_credentials
from headgate.errors import TargetUnavailableError
from headgate.home import Home
from headgate.stack import Ports
from headgate.stack.programs import client_env

_QUIET = {
    # The command line shows progress itself; the run's log is in the Prefect UI.
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_CLI_COLORS": "false",
}


def use_stack(*, quiet: bool = True) -> Home:
    """Set what Prefect and MLflow need to reach the local stack; what the user has set stays.

    Raises:
        TargetUnavailableError: there is no local stack, and the user names no servers.
    """
    home = Home.from_env()
    ports = Ports.remembered(home)
    if ports is None and not {"PREFECT_API_URL", "MLFLOW_TRACKING_URI"} <= set(os.environ):
        raise TargetUnavailableError("the local stack was never started", fix="headgate up")
    settings = {**(client_env(home, ports) if ports else {}), **(_QUIET if quiet else {})}
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    separate_credentials()
    if "prefect" in sys.modules:
        # As in the stack's engine.
        from tasks.prefect_settings import read_again

        read_again()
    return home


def prefect_is_up() -> bool:
    """Whether the Prefect server answers."""
    try:
        return httpx.get(f"{os.environ.get('PREFECT_API_URL', '')}/health", timeout=2).is_success
    except (httpx.HTTPError, httpx.InvalidURL):
        return False


def require_prefect() -> None:
    """Refuse to go on without a Prefect server.

    Raises:
        TargetUnavailableError: it does not answer.
    """
    if not prefect_is_up():
        raise TargetUnavailableError(
            f"the Prefect server at {os.environ.get('PREFECT_API_URL')} does not answer", fix="headgate up"
        )
