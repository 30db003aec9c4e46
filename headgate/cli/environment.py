"""Pointing this process at the local stack, before Prefect and MLflow read their settings."""

from __future__ import annotations

import os
import sys

import httpx

from headgate.credentials import separate_credentials
from headgate.errors import HomeError, TargetUnavailableError
from headgate.home import Home
from headgate.proxies import ask_loopback_directly
from headgate.servers import PATIENT, PREFECT, how_to_sign_in, own_servers, server_env
from headgate.sign_in import PrefectSignIn, refuses
from headgate.stack import Ports

_AT_ONCE = httpx.Timeout(2.0)
"""For commands that do without the server, such as a rollback."""
_QUIET = {
    # The command line shows progress itself; the run's log is in the Prefect UI.
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_CLI_COLORS": "false",
}


def use_stack(*, quiet: bool = True, required: bool = True, prefect: bool = True) -> Home:
    """Set what Prefect and MLflow need to reach the local stack, and sign in; what the user has set stays.

    Args:
        quiet: keep Prefect's log off the terminal.
        required: whether the command needs these servers.
        prefect: whether the command asks Prefect; reading its settings again takes a tenth of a second of CPU.

    Raises:
        TargetUnavailableError: there is no local stack, and the user names no servers.
        HomeError: the file of the stack's secrets cannot be read.
    """
    home = Home.from_env()
    ports = Ports.remembered(home)
    if required and ports is None and not {"PREFECT_API_URL", "MLFLOW_TRACKING_URI"} <= set(os.environ):
        raise TargetUnavailableError("the local stack was never started", fix="headgate up")
    # Which servers these are is told by their addresses alone.
    separate_credentials()
    try:
        os.environ.update(server_env(home, ports))
    except HomeError:
        # What can do without these servers, such as a rollback, does without.
        if required:
            raise
    for name, value in (_QUIET if quiet else {}).items():
        os.environ.setdefault(name, value)
    ask_loopback_directly()
    if prefect:
        read_prefect_settings()
    return home


def read_prefect_settings() -> None:
    """Have Prefect read its settings, where it read those of another environment: in the stack's engine."""
    if "prefect" in sys.modules:
        from tasks.prefect_settings import read_again

        read_again()


def prefect_is_up(timeout: httpx.Timeout = _AT_ONCE) -> bool:
    """Whether the Prefect server answers in time, and accepts the sign-in."""
    try:
        return _ask_prefect(timeout).is_success
    except (httpx.HTTPError, httpx.InvalidURL):
        return False


def require_prefect() -> None:
    """Refuse to go on without a Prefect server that accepts the sign-in.

    Raises:
        TargetUnavailableError: it does not answer, or does not accept the sign-in.
    """
    api = os.environ.get(PREFECT, "")
    try:
        reply = _ask_prefect(PATIENT)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise TargetUnavailableError(f"the Prefect server at {api} does not answer", fix="headgate up") from error
    if refuses(reply):
        own = own_servers(Ports.remembered(Home.from_env())).prefect
        raise TargetUnavailableError(
            f"the Prefect server at {api} does not accept the sign-in", fix=how_to_sign_in(PREFECT, own=bool(own))
        )
    if not reply.is_success:
        raise TargetUnavailableError(
            f"the Prefect server at {api} answers {reply.status_code}", fix="headgate status; headgate up"
        )


def _ask_prefect(timeout: httpx.Timeout) -> httpx.Response:
    """Ask what needs a sign-in, and no database."""
    api = os.environ.get(PREFECT, "")
    return httpx.get(f"{api}/admin/version", timeout=timeout, auth=PrefectSignIn.of(api))
