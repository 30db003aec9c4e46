"""The stack's ports: chosen free the first time, remembered in stack.json, checked ever after."""

from __future__ import annotations

import json
import os
import random
import socket

import psutil
from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from headgate.errors import HomeError
from headgate.home import Home, write_atomically

HOST = "127.0.0.1"
"""Everything of the local stack listens here only."""

DEFAULT_RANGE = "24000-31999"
"""Below Linux's ephemeral range (32768 and up), so that no outgoing connection takes a port of ours."""


class Ports(BaseModel):
    """Where the local stack listens on 127.0.0.1."""

    model_config = ConfigDict(frozen=True)

    gateway: int
    gateway_metrics: int = Field(validation_alias=AliasChoices("gateway_metrics", "gateway_admin"))
    """Earlier versions of stack.json call it `gateway_admin`."""
    prefect: int
    mlflow: int
    receiver: int = 0

    @property
    def gateway_url(self) -> str:
        """What clients call, followed by /<endpoint>/invocations."""
        return f"http://{HOST}:{self.gateway}"

    @property
    def metrics_url(self) -> str:
        """What the gateway tells Prometheus."""
        return f"http://{HOST}:{self.gateway_metrics}/stats/prometheus"

    @property
    def prefect_url(self) -> str:
        """The Prefect server; its API is at /api."""
        return f"http://{HOST}:{self.prefect}"

    @property
    def mlflow_url(self) -> str:
        """The MLflow server."""
        return f"http://{HOST}:{self.mlflow}"

    @property
    def receiver_url(self) -> str:
        """Where webhooks are taken; /mlflow and /alertmanager follow."""
        return f"http://{HOST}:{self.receiver}"

    @classmethod
    def remembered(cls, home: Home) -> Ports | None:
        """The ports chosen earlier, or None before the first `headgate up`.

        Raises:
            HomeError: stack.json cannot be read.
        """
        try:
            text = home.stack_file.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise HomeError(
                f"cannot read {home.stack_file}: {error.strerror}", fix="check who owns HEADGATE_HOME"
            ) from error
        try:
            return cls.model_validate_json(text)
        except ValueError as error:
            raise HomeError(
                f"{home.stack_file} does not hold the stack's ports", fix="remove it and run: headgate up"
            ) from error

    @classmethod
    def choose(cls, home: Home) -> Ports:
        """The remembered ports, or free ones that are remembered from now on.

        Raises:
            HomeError: no port of HEADGATE_PORTS is free.
        """
        remembered = cls.remembered(home)
        known = {name: port for name, port in remembered.model_dump().items() if port} if remembered else {}
        if remembered and len(known) == len(cls.model_fields):
            return remembered
        # A file of an earlier version lacks the programs that came later.
        missing = [name for name in cls.model_fields if name not in known]
        taken: set[int] = set()
        for name in missing:
            taken.add(free_port(for_what=name.replace("_", " "), besides={*taken, *known.values()}))
        ports = cls(**known, **dict(zip(missing, sorted(taken), strict=True)))
        write_atomically(home.stack_file, json.dumps(ports.model_dump(), indent=2) + "\n")
        return ports


def port_range() -> range:
    """The ports that Headgate may choose from: HEADGATE_PORTS, such as `24000-24099`.

    Raises:
        HomeError: HEADGATE_PORTS is not a range.
    """
    text = os.environ.get("HEADGATE_PORTS") or DEFAULT_RANGE
    first, _, last = text.partition("-")
    if not (first.isdigit() and last.isdigit() and 1024 <= int(first) <= int(last) <= 65535):  # noqa: PLR2004
        raise HomeError(
            f"HEADGATE_PORTS is {text!r}, which is no range of ports",
            fix="write it as 24000-24099, within 1024-65535",
        )
    return range(int(first), int(last) + 1)


def free_port(*, for_what: str, besides: set[int] | frozenset[int] = frozenset()) -> int:
    """A port of the range that nothing listens on now.

    Raises:
        HomeError: there is none.
    """
    candidates = list(port_range())
    # Two stacks that start together should not reach for the same port.
    start = random.SystemRandom().randrange(len(candidates))
    for port in candidates[start:] + candidates[:start]:
        if port not in besides and is_free(port):
            return port
    raise HomeError(
        f"no port is free for the {for_what}: all {len(candidates)} of HEADGATE_PORTS "
        f"({candidates[0]}-{candidates[-1]}) are in use",
        fix="stop what uses them, or set HEADGATE_PORTS to another range",
    )


def is_free(port: int) -> bool:
    """Whether a server could listen on the port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def listener(port: int) -> str:
    """Who listens on a port, in words, as far as this user may know."""
    try:
        for connection in psutil.net_connections(kind="tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,) and connection.pid:
                return f"process {connection.pid} ({psutil.Process(connection.pid).name()})"
    except (psutil.AccessDenied, psutil.NoSuchProcess):
        return "a process of another user"
    return "another process"
