"""Containers going down and up with the local stack."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

import docker
import requests
from docker.errors import DockerException

from deploy_targets.docker import mounted_secrets
from headgate.errors import RevisionFailedError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from docker.models.containers import Container

    from headgate.home import Home

HOME_LABEL, ENDPOINT, REVISION = (f"io.headgate.{name}" for name in ("home", "endpoint", "revision"))
_USER = 65532


def home_id(home: Home) -> str:
    """Tells one stack's containers from those of others on the same daemon."""
    return hashlib.sha256(str(home.root).encode()).hexdigest()[:10]


def container_user() -> tuple[int, int]:
    """Return user and group of a container's server: this process's own, or one without rights where that is root."""
    return (os.getuid(), os.getgid()) if os.getuid() else (_USER, _USER)


def stop_containers(home: Home) -> int:
    """Stop what runs; how many were stopped. A daemon that does not answer runs nothing of ours."""
    stopped = 0
    for container in _containers(home):
        if container.status == "running":
            container.stop(timeout=20)
            stopped += 1
        mounted_secrets.remove(_secrets_of(home, container))
    return stopped


def start_containers(home: Home) -> int:
    """Start what was stopped; how many were started.

    Raises:
        RevisionFailedError: secrets cannot be had; all other containers are started.
    """
    started, problems = 0, []
    for container in _containers(home):
        if references := mounted_secrets.references_of(container.labels):
            try:
                mounted_secrets.write(home, _secrets_of(home, container), references, container_user())
            except RevisionFailedError as problem:
                problems.append(f"{container.labels[ENDPOINT]} {container.labels[REVISION]}: {problem.message}")
                continue
        if container.status == "exited":
            container.start()
            started += 1
    if problems:
        raise RevisionFailedError("; ".join(problems), fix="make the secrets available, then: headgate up")
    return started


def _secrets_of(home: Home, container: Container) -> Path:
    return mounted_secrets.folder_of(home_id(home), container.labels[ENDPOINT], container.labels[REVISION])


def _containers(home: Home) -> Iterator[Container]:
    try:
        client = docker.from_env(timeout=60)
    except DockerException:
        return
    try:
        yield from client.containers.list(all=True, filters={"label": f"{HOME_LABEL}={home_id(home)}"})
    except requests.RequestException:
        return
    finally:
        client.close()
