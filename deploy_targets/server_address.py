"""Where a server of this machine listens: on a Unix socket, or at a port of 127.0.0.1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import httpx

from deploy_targets import envoy_config
from headgate.stack.ports import HOST

if TYPE_CHECKING:
    from collections.abc import Mapping

_UNIX = "unix:"


@dataclass(frozen=True)
class ServerAddress:
    """One of the two.

    Args:
        port: of 127.0.0.1, which every user of the machine can reach; 0 where there is a socket.
        socket: the path of a Unix socket; empty where there is a port.
    """

    port: int = 0
    socket: str = ""

    @classmethod
    def of(cls, text: str) -> Self | None:
        """Read what `str` has written; None for an empty text."""
        if not text:
            return None
        if text.startswith(_UNIX):
            return cls(socket=text.removeprefix(_UNIX))
        return cls(port=int(text.rpartition(":")[2]))

    @classmethod
    def noted_in(cls, stored: Mapping[str, Any]) -> Self:
        """Read what was noted with a revision's cluster; earlier versions noted ports only."""
        return cls(socket=stored["socket"]) if "socket" in stored else cls(port=int(stored["port"]))

    def noted(self) -> dict[str, int | str]:
        """Return what is noted with a revision's cluster."""
        return {"socket": self.socket} if self.socket else {"port": self.port}

    def hosts(self, cluster: str) -> dict[str, Any]:
        """Return the one host of a revision's cluster, as Envoy takes it."""
        if self.socket:
            return envoy_config.at_socket(cluster, self.socket)
        return envoy_config.at_port(cluster, self.port)

    @property
    def url(self) -> str:
        """The base of a request's URL; the name in that of a socket is found nowhere else."""
        return "http://server" if self.socket else f"http://{HOST}:{self.port}"

    def client(self, timeout: float = 5.0) -> httpx.Client:
        """Return a client of this server alone, past proxies; the caller closes it.

        Args:
            timeout: in seconds.
        """
        transport = httpx.HTTPTransport(uds=self.socket) if self.socket else None
        return httpx.Client(base_url=self.url, transport=transport, timeout=timeout, trust_env=False)

    def __str__(self) -> str:
        """Return `unix:/path` or `http://127.0.0.1:PORT`."""
        return f"{_UNIX}{self.socket}" if self.socket else self.url
