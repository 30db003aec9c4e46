"""env, open: how a person, and a person's own programs, sign in to the local stack's servers."""

from __future__ import annotations

import os
import shlex
import sys
import webbrowser
from typing import TYPE_CHECKING

import click

from headgate.cli.output import json_option, print_json, say
from headgate.errors import TargetUnavailableError
from headgate.home import Home
from headgate.servers import MLFLOW, PREFECT, own_servers
from headgate.sign_in import MLFLOW_PASSWORD, MLFLOW_USER, PREFECT_SIGN_IN, VARIABLES
from headgate.stack import Ports, Supervisor
from headgate.stack.programs import client_env

if TYPE_CHECKING:
    from headgate.servers import OwnServers

_SCREENS = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
"""Without one of these, webbrowser on Linux starts a browser in the terminal."""


@click.command()
@json_option
def env(as_json: bool) -> None:  # noqa: FBT001
    """Print the addresses of Prefect and MLflow, and what signs in to them, for a shell.

    In a shell: eval "$(headgate env)". The lines hold passwords: do not keep them in a log. A server of your own is
    left out: the environment that names it has its variables already.
    """
    own = own_servers(Ports.remembered(Home.from_env()))
    found = _settings(own)
    if as_json:
        print_json(found)
        return
    for name, value in found.items():
        click.echo(f"export {name}={shlex.quote(value)}")


@click.command("open")
@click.argument("page", type=click.Choice(["prefect", "mlflow"]))
@click.option("--no-browser", is_flag=True, help="Print the address and the sign-in only.")
def open_(page: str, no_browser: bool) -> None:  # noqa: FBT001
    """Open Prefect's or MLflow's page, and print what signs in to it.

    The browser asks for the sign-in once and keeps it; no address can carry it.
    """
    own = own_servers(Ports.remembered(Home.from_env()))
    named = own.prefect if page == "prefect" else own.mlflow
    settings = {} if named else _settings(own)
    address = named or settings[PREFECT if page == "prefect" else MLFLOW]
    address = address.removesuffix("/api") if page == "prefect" else address
    click.echo(address)
    if named:
        say("this is a server of your own: sign in as you do there")
    elif page == "prefect":
        # Its page has one field, which takes both.
        click.echo(f"password: {settings[PREFECT_SIGN_IN]}")
    else:
        click.echo(f"user:     {settings[MLFLOW_USER]}\npassword: {settings[MLFLOW_PASSWORD]}")
    if not no_browser and _has_browser():
        webbrowser.open(address)


def _settings(own: OwnServers) -> dict[str, str]:
    """Return the variables that reach and sign in to the stack's own servers; none of servers of one's own.

    Raises:
        TargetUnavailableError: the local stack is not up, or it was started by a version that asked for no password.
    """
    if all(own):
        return {}
    home = Home.from_env()
    ports = Ports.remembered(home)
    if ports is None or not Supervisor(home).is_up():
        raise TargetUnavailableError("the local stack is not up", fix="headgate up")
    found = client_env(home, ports, prefect=own.prefect, mlflow=own.mlflow)
    stacks = {*VARIABLES, *([] if own.prefect else [PREFECT]), *([] if own.mlflow else [MLFLOW])}
    wanted = {name: value for name, value in found.items() if name in stacks}
    if not wanted.keys() & set(VARIABLES):
        raise TargetUnavailableError("the local stack was started by an earlier version", fix="headgate up")
    return wanted


def _has_browser() -> bool:
    return sys.platform == "darwin" or any(os.environ.get(name) for name in _SCREENS)
