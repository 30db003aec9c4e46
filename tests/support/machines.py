"""Machines of a cloud's double: each runs a revision's real image, as the cloud would, on this machine's Docker."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import docker
import pytest
import urllib3
from docker.errors import DockerException, NotFound

from deploy_targets import clouds

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from support.pretended import Pretended

LABEL = "headgate.tests.machine"
PORT = 8080
_CLIENTS = 16
"""Of one machine at the same time."""


@dataclass
class Answer:
    """What a container said."""

    status: int
    body: bytes
    content_type: str
    seconds: float


@dataclass
class Machine:
    """One container; `reason` says why it will never be ready."""

    container: Any
    port: int
    http: urllib3.HTTPConnectionPool
    reason: str = ""

    def answers(self, path: str) -> bool:
        """Whether a health check passes."""
        try:
            return self.http.request("GET", path, timeout=2, retries=False).status == HTTPStatus.OK
        except urllib3.exceptions.HTTPError:
            return False

    def is_running(self) -> bool:
        # The doubles ask ten times a second; the daemon takes milliseconds of the processor to say.
        if Path(f"/proc/{self.container.attrs['State']['Pid'] or 'none'}").exists():
            return True
        with contextlib.suppress(NotFound):
            self.container.reload()
            return self.container.status == "running"
        return False

    def ask(self, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """One request; a container that cannot be reached is a 500, as the clouds' front ends have it."""
        began = time.perf_counter()
        try:
            reply = self.http.request("POST", path, body=body, headers=dict(headers), timeout=60, retries=False)
        except urllib3.exceptions.HTTPError as error:
            return Answer(500, str(error).encode(), "text/plain", time.perf_counter() - began)
        return Answer(reply.status, reply.data, reply.headers.get("content-type", ""), time.perf_counter() - began)

    def log(self, lines: int = 30) -> list[str]:
        with contextlib.suppress(NotFound):
            return self.container.logs(tail=lines).decode(errors="replace").splitlines()
        return []

    def end(self) -> None:
        with contextlib.suppress(NotFound):
            self.container.remove(force=True, v=True)
        self.http.close()


@contextlib.contextmanager
def hurried(machines: Machines | Pretended) -> Iterator[None]:
    """What takes a cloud minutes takes its double a part of a second, so it is looked at more often."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clouds, "_POLL_SECONDS", machines.poll_seconds)
        patch.setattr(clouds, "_READY_SECONDS", machines.poll_seconds[1])
        yield


@dataclass
class Machines:
    """Starts them, and ends those that are left."""

    step_seconds: ClassVar[float] = 0.15
    """How long each operation of the cloud takes at least."""
    poll_seconds: ClassVar[tuple[float, float]] = (0.05, 0.3)

    name: str
    started: list[Machine] = field(default_factory=list)

    def __post_init__(self) -> None:
        # Another run of the tests may be at work on this daemon.
        self.name = f"{self.name}-{os.getpid()}"
        self.docker = docker.from_env(timeout=60)

    def start(self, image: str, env: Mapping[str, str], command: Sequence[str] = (), port: int = PORT) -> Machine:
        """A container without rights, as the strictest of the clouds runs it.

        Raises:
            DockerException: the image cannot be had.
        """
        if "@" in image:
            repository, _, digest = image.partition("@")
            self.docker.images.pull(repository, tag=digest)
        container = self.docker.containers.run(
            image, list(command), detach=True, environment=dict(env), labels={LABEL: self.name},
            ports={f"{port}/tcp": ("127.0.0.1",)}, read_only=True, cap_drop=["ALL"], user="12345:12345",
            tmpfs={"/tmp": "mode=1777"},  # noqa: S108 - the container's own
        )  # fmt: skip
        container.reload()
        # One that has ended by now has none, and nothing answers there.
        bound = container.ports.get(f"{port}/tcp")
        host_port = int(bound[0]["HostPort"]) if bound else 0
        machine = Machine(container, host_port, urllib3.HTTPConnectionPool("127.0.0.1", host_port, maxsize=_CLIENTS))
        self.started.append(machine)
        return machine

    def host(self) -> str:
        """This machine's address, as containers on the daemon's bridge have it."""
        (config,) = self.docker.networks.get("bridge").attrs["IPAM"]["Config"]
        # A daemon that has made its bridge just now does not tell its address until it is started again.
        return str(config.get("Gateway") or ip_network(config["Subnet"])[1])

    def close(self) -> None:
        for machine in self.started:
            machine.end()
        for left in self.docker.containers.list(all=True, filters={"label": f"{LABEL}={self.name}"}):
            with contextlib.suppress(DockerException):
                left.remove(force=True, v=True)
        self.docker.close()
