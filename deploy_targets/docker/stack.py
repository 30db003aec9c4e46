"""Containers going down and up with the local stack."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import docker
import requests
from docker.errors import DockerException

if TYPE_CHECKING:
    from collections.abc import Iterator

    from docker.models.containers import Container

    from headgate.home import Home

HOME_LABEL = "io.headgate.home"


def home_id(home: Home) -> str:
    """Tells one stack's containers from those of others on the same daemon."""
    return hashlib.sha256(str(home.root).encode()).hexdigest()[:10]


def stop_containers(home: Home) -> int:
    """Stop what runs; how many were stopped. A daemon that does not answer runs nothing of ours."""
    stopped = 0
    for container in _containers(home):
        if container.status == "running":
            container.stop(timeout=20)
            stopped += 1
    return stopped


def start_containers(home: Home) -> int:
    """Start what was stopped; how many were started."""
    started = 0
    for container in _containers(home):
        if container.status == "exited":
            container.start()
            started += 1
    return started


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
