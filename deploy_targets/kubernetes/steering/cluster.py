"""The API server, as a pod's own service account reaches it.

Source: https://kubernetes.io/docs/tasks/run-application/access-api-from-pod.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from collections.abc import Iterator

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_WATCH_SECONDS = 240
_ANSWER_SECONDS = 15.0
_ALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 3), (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)  # fmt: skip
"""A watch that nobody answers any more is noticed within some fifteen seconds."""
SELECTOR = "headgate.io/endpoint"
"""The label of everything of an endpoint."""


class GoneError(Exception):
    """What was known is too old to go on from."""


class Cluster:
    """The objects of one namespace.

    Args:
        client: for the API server.
        namespace: which.
        token: a file with what we are known by, which is replaced from time to time.
    """

    def __init__(self, client: httpx.Client, namespace: str, token: Path) -> None:
        self._client, self._namespace, self._token = client, namespace, token

    @classmethod
    def around_this_pod(cls) -> Cluster:
        """The one that runs this process."""
        host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
        trusted = ssl.create_default_context(cafile=str(_ACCOUNT / "ca.crt"))
        client = httpx.Client(
            base_url=f"https://{f'[{host}]' if ':' in host else host}:{port}", timeout=_ANSWER_SECONDS,
            transport=httpx.HTTPTransport(verify=trusted, socket_options=_ALIVE),
        )  # fmt: skip
        return cls(client, (_ACCOUNT / "namespace").read_text(encoding="utf-8"), _ACCOUNT / "token")

    def read(self, kind: str) -> tuple[list[dict[str, Any]], str]:
        """All objects of a kind that belong to an endpoint, and their version."""
        found = self._client.get(self._path(kind), params={"labelSelector": SELECTOR}, headers=self._headers())
        listed = found.raise_for_status().json()
        return listed["items"], listed["metadata"]["resourceVersion"]

    def watch(self, kind: str, version: str) -> Iterator[dict[str, Any]]:
        """What happens to them from a version on, for some minutes.

        Raises:
            GoneError: the version is too old.
        """
        params = {
            "labelSelector": SELECTOR, "watch": "true", "allowWatchBookmarks": "true", "resourceVersion": version,
            "timeoutSeconds": str(_WATCH_SECONDS),
        }  # fmt: skip
        waiting = httpx.Timeout(_ANSWER_SECONDS, read=_WATCH_SECONDS + _ANSWER_SECONDS)
        with self._client.stream(
            "GET", self._path(kind), params=params, headers=self._headers(), timeout=waiting
        ) as reply:
            if reply.status_code == httpx.codes.GONE:
                raise GoneError(kind)
            reply.raise_for_status()
            for line in reply.iter_lines():
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise GoneError(event["object"].get("message", kind))
                yield event

    def _path(self, kind: str) -> str:
        return f"/api/v1/namespaces/{self._namespace}/{kind}"

    def _headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self._token.read_text(encoding='utf-8').strip()}"}
