"""The Prefect and MLflow servers that are used: those that the environment names, or the local stack's."""

from __future__ import annotations

import os
from importlib.metadata import version
from typing import TYPE_CHECKING, NamedTuple

import httpx

from headgate.credentials import redact, separate_credentials
from headgate.errors import BadInputError
from headgate.findings import Finding
from headgate.sign_in import (
    MLFLOW_PASSWORD,
    MLFLOW_USER,
    PREFECT_SIGN_IN,
    VARIABLES,
    PrefectSignIn,
    mlflow_sign_in,
    refuses,
)
from headgate.stack import Ports
from headgate.stack.programs import LEASE_STORAGE, client_env

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from headgate.home import Home


PREFECT, MLFLOW = "PREFECT_API_URL", "MLFLOW_TRACKING_URI"
PATIENT = httpx.Timeout(30.0, connect=5.0)
"""A server that is not there refuses at once; one that is busy answers late."""
_WEBHOOK = "headgate"


class OwnServers(NamedTuple):
    """The servers that the environment names and that are not the local stack's; empty where there is none.

    Attributes:
        prefect: the API's address.
        mlflow: the tracking URI, without a user and password.
    """

    prefect: str = ""
    mlflow: str = ""


def own_servers(ports: Ports | None) -> OwnServers:
    """Return what the environment names beside the local stack's servers, which listen on `ports`."""
    separate_credentials()
    prefect, mlflow = (os.environ.get(name, "").rstrip("/") for name in (PREFECT, MLFLOW))
    stacks = (f"{ports.prefect_url}/api", ports.mlflow_url) if ports else ("", "")
    return OwnServers("" if prefect == stacks[0] else prefect, "" if mlflow == stacks[1] else mlflow)


def server_env(home: Home, ports: Ports | None) -> dict[str, str]:
    """Return what this process needs to reach the servers that are used, beside what its environment has.

    A server of one's own gets the sign-in that the environment has, and never the stack's. The stack's servers get the
    stack's, unless the environment names both that server and a sign-in, such as that of another user of MLflow.

    Raises:
        HomeError: the file of the stack's secrets cannot be read.
    """
    if ports is None:
        return {}
    own = own_servers(ports)
    env = client_env(home, ports, prefect=own.prefect, mlflow=own.mlflow)
    kept = {name for name in env if name in os.environ and name not in VARIABLES}
    if os.environ.get(PREFECT) and os.environ.get(PREFECT_SIGN_IN):
        kept.add(PREFECT_SIGN_IN)
    if os.environ.get(MLFLOW) and os.environ.get(MLFLOW_USER):
        kept |= {MLFLOW_USER, MLFLOW_PASSWORD}
    return {name: value for name, value in env.items() if name not in kept}


def signed_in(home: Home) -> dict[str, str]:
    """Return this process's environment, with what signs in to the servers that are used."""
    return {**os.environ, **server_env(home, Ports.remembered(home))}


def require_answers(own: OwnServers) -> None:
    """Refuse to rely on a server that does not answer, or does not accept the sign-in.

    Raises:
        BadInputError: one does not.
    """
    servers = (
        (PREFECT, own.prefect, "/admin/version", PrefectSignIn.of(own.prefect)),
        (MLFLOW, own.mlflow, "/version", mlflow_sign_in()),
    )
    for variable, url, signed, auth in servers:
        if not url.startswith(("http://", "https://")):
            continue
        fix = f"start that server, or have `headgate up` start one: unset {variable}"
        try:
            problem = "" if (reply := _get(f"{url}/health", None)).is_success else f"answers {reply.status_code}"
            if not problem and refuses(_get(f"{url}{signed}", auth)):
                problem, fix = "does not accept the sign-in", how_to_sign_in(variable)
        except httpx.HTTPError as error:
            problem = f"does not answer: {error or type(error).__name__}"
        if problem:
            raise BadInputError(f"{variable} names {redact(url)}, which {problem}", fix=fix)


def how_to_sign_in(variable: str, *, own: bool = True) -> str:
    """Return the fix where a server does not accept the sign-in.

    Args:
        variable: PREFECT_API_URL or MLFLOW_TRACKING_URI.
        own: whether it is a server of one's own.
    """
    held = f"{PREFECT_SIGN_IN} to its user:password" if variable == PREFECT else f"{MLFLOW_USER} and {MLFLOW_PASSWORD}"
    return f"set {held}" if own else 'headgate up; where the shell has an older sign-in: eval "$(headgate env)"'


def examine_servers(home: Home, ports: Ports | None) -> Iterator[Finding]:
    """Yield what the servers that are used say of themselves, good findings too.

    Args:
        home: where the stack's sign-in is.
        ports: the local stack's; None where it is not up.
    """
    own, env = own_servers(ports), {**os.environ, **server_env(home, ports)}
    if prefect := own.prefect or (f"{ports.prefect_url}/api" if ports else ""):
        yield from _prefect(prefect, env, own=bool(own.prefect))
    if mlflow := own.mlflow or (ports.mlflow_url if ports else ""):
        yield from _mlflow(mlflow, env, own=bool(own.mlflow))
    journal = os.environ.get("HEADGATE_JOURNAL_URL", "")
    if own.prefect and (not journal or journal.startswith("sqlite")):
        yield Finding(
            severity="warning", subject="journal", problem="is a file here, which workers on other machines do not see",
            fix="set HEADGATE_JOURNAL_URL to a PostgreSQL database, here and for every worker",
        )  # fmt: skip


def _prefect(url: str, env: Mapping[str, str], *, own: bool) -> Iterator[Finding]:
    """Its version, and its storage of leases: with Prefect's default a restart leaks every concurrency slot taken."""
    auth = PrefectSignIn.of(url, env)
    try:
        there = str(_get(f"{url}/admin/version", auth).raise_for_status().json())
        settings = _get(f"{url}/admin/settings", auth).raise_for_status().json()
    except (httpx.HTTPError, ValueError) as error:
        yield _not_asked("prefect", url, error, PREFECT, own=own)
        return
    yield _of_version("prefect", url, there, version("prefect"))
    storage = settings.get("server", {}).get("concurrency", {}).get("lease_storage")
    good = storage == LEASE_STORAGE
    yield Finding(
        severity="ok" if good else "warning", subject="prefect lease storage", problem=str(storage),
        fix="" if good else f"start the Prefect server with PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE={LEASE_STORAGE}",
    )  # fmt: skip


def _mlflow(url: str, env: Mapping[str, str], *, own: bool) -> Iterator[Finding]:
    """Its version, and whether it tells the receiver of aliases and tags."""
    if not url.startswith(("http://", "https://")):
        yield Finding(
            severity="warning", subject="mlflow", problem=f"{redact(url)} is no server, so others do not see it",
            fix="set MLFLOW_TRACKING_URI to the address of a server",
        )  # fmt: skip
        return
    auth = mlflow_sign_in(env)
    try:
        there = _get(f"{url}/version", auth).raise_for_status().text.strip()
        hooks = _get(f"{url}/api/2.0/mlflow/webhooks", auth).raise_for_status().json().get("webhooks", [])
    except (httpx.HTTPError, ValueError) as error:
        yield _not_asked("mlflow", url, error, MLFLOW, own=own)
        return
    yield _of_version("mlflow", url, there, version("mlflow"))
    has_one = any(hook.get("name") == _WEBHOOK for hook in hooks)
    yield Finding(
        severity="ok" if has_one else "warning", subject="mlflow webhook",
        problem="tells the receiver of aliases and tags" if has_one
        else "is not there, so no alias or tag starts a release",
        fix="" if has_one else "headgate up, or, for a server of your own: headgate connect --receiver URL",
    )  # fmt: skip


def _of_version(name: str, url: str, there: str, here: str) -> Finding:
    same = there.split(".")[:2] == here.split(".")[:2]
    return Finding(
        severity="ok" if same else "warning", subject=name,
        problem=f"{redact(url)} has version {there}" + ("" if same else f", and this environment has {here}"),
        fix="" if same else f"use the same minor version of {name} for the server and for Headgate",
    )  # fmt: skip


def _not_asked(subject: str, url: str, error: Exception, variable: str, *, own: bool) -> Finding:
    problem, fix = str(error), f"headgate up, or start the server that {variable} names" if own else "headgate up"
    if isinstance(error, httpx.HTTPStatusError) and refuses(error.response):
        problem = f"does not accept the sign-in ({error.response.status_code})"
        fix = how_to_sign_in(variable, own=own)
    return Finding(severity="error", subject=subject, problem=f"{redact(url)}: {problem}", fix=fix)


def _get(url: str, auth: httpx.Auth | None) -> httpx.Response:
    return httpx.get(url, timeout=PATIENT, auth=auth)
