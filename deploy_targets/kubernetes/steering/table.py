"""The objects of one kind, kept as they are in the cluster."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any

import httpx

from .cluster import GoneError

if TYPE_CHECKING:
    from .cluster import Cluster

logger = logging.getLogger("steering")

_AGAIN_SECONDS = 0.5
"""After the API server was away. Envoy goes on with what it has."""


class Table:
    """The namespace's objects of a kind.

    Args:
        cluster: where they are.
        kind: such as pods.
        changed: set after each change.
    """

    def __init__(self, cluster: Cluster, kind: str, changed: threading.Event) -> None:
        self._cluster, self._kind, self._changed = cluster, kind, changed
        self._lock = threading.Lock()
        self._objects: dict[str, dict[str, Any]] = {}
        self._version = ""
        self._thread: threading.Thread | None = None

    def items(self) -> list[dict[str, Any]]:
        """All of them, by name."""
        with self._lock:
            return [self._objects[name] for name in sorted(self._objects)]

    def read(self) -> None:
        """Ask for all of them, until the API server answers."""
        while True:
            try:
                objects, self._version = self._cluster.read(self._kind)
            except (httpx.HTTPError, OSError, ValueError) as error:
                logger.warning("%s are not told: %s", self._kind, _line(error))
                time.sleep(_AGAIN_SECONDS)
                continue
            with self._lock:
                self._objects = {one["metadata"]["name"]: one for one in objects}
            self._changed.set()
            return

    def follow(self) -> None:
        """Have a thread take every change from now on."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._kind, daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                for event in self._cluster.watch(self._kind, self._version):
                    self._take(event)
            except GoneError:
                self.read()
            except (httpx.HTTPError, OSError, ValueError) as error:
                logger.warning("%s are not followed: %s", self._kind, _line(error))
                time.sleep(_AGAIN_SECONDS)
                # What it said while it came back may be of before.
                self.read()

    def _take(self, event: dict[str, Any]) -> None:
        told = event["object"]
        self._version = told["metadata"]["resourceVersion"]
        if event["type"] == "BOOKMARK":
            return
        with self._lock:
            if event["type"] == "DELETED":
                self._objects.pop(told["metadata"]["name"], None)
            else:
                self._objects[told["metadata"]["name"]] = told
        self._changed.set()


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [repr(error)])[0]
