"""From ConfigMaps and pods to the files that Envoy watches.

A ConfigMap has resources that Headgate made: `clusters`, `routes` and `inside`, each a JSON list. What is added here is
which pods there are.
"""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

from .not_found import not_found_route

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

ENDPOINT, REVISION = "headgate.io/endpoint", "headgate.io/revision"
PORT = 8080
ADMIN = ("/ready", "/stats", "/stats/prometheus", "/clusters", "/config_dump")
"""What of Envoy's admin endpoint may be asked from outside of the pod; none of it changes anything."""

STEERED = ".steered"
"""The file that is there once what was read after this container's start has been written."""

_ROUTES = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
_HOSTS = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
_TABLES = {"routes": "endpoints", "inside": "inside"}
"""The name of the table of routes in each file."""


def render(configs: Iterable[Mapping[str, Any]], pods: Iterable[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Each file's resources, by its name, in the order in which they have to be written."""
    told: dict[str, list[dict[str, Any]]] = {"clusters": [], "routes": [], "inside": _admin_routes()}
    for config in configs:
        for part, resources in told.items():
            resources.extend(json.loads(config.get("data", {}).get(part, "[]")))
    names = {cluster["eds_cluster_config"]["service_name"] for cluster in told["clusters"]}
    hosts: dict[str, list[str]] = {name: [] for name in sorted(names)}
    for pod in pods:
        labels = pod["metadata"].get("labels", {})
        name = f"{labels.get(ENDPOINT)}--{labels.get(REVISION)}"
        if name in hosts and _may_answer(pod):
            hosts[name].append(pod["status"]["podIP"])
    files = {f"hosts/{name}": [_assignment(name, sorted(addresses))] for name, addresses in hosts.items()}
    return files | {"clusters": told["clusters"]} | {part: [_table(part, told[part])] for part in _TABLES}


def write_changed(folder: Path, files: Mapping[str, list[dict[str, Any]]]) -> None:
    """Replace each file whose content is another one now; what has no content any more goes."""
    (folder / "hosts").mkdir(parents=True, exist_ok=True)
    for name, resources in files.items():
        path = folder / f"{name}.json"
        if _content(path) != resources:
            temporary = folder / f".{uuid.uuid4().hex}"
            temporary.write_text(json.dumps({"version_info": uuid.uuid4().hex, "resources": resources}), "utf-8")
            temporary.replace(path)
    for path in (folder / "hosts").iterdir():
        if f"hosts/{path.stem}" not in files:
            path.unlink()


def _content(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))["resources"]
    except FileNotFoundError:
        return None


def _may_answer(pod: Mapping[str, Any]) -> bool:
    """Whether a pod has a server that was not told to end; Envoy sees by itself whether it is ready."""
    status = pod.get("status", {})
    return bool(status.get("podIP")) and status.get("phase") == "Running" and "deletionTimestamp" not in pod["metadata"]


def _assignment(name: str, addresses: list[str]) -> dict[str, Any]:
    hosts = [{"endpoint": {"address": {"socket_address": {"address": one, "port_value": PORT}}}} for one in addresses]
    return {"@type": _HOSTS, "cluster_name": name, "endpoints": [{"lb_endpoints": hosts}]}


def _table(part: str, routes: list[dict[str, Any]]) -> dict[str, Any]:
    name = _TABLES[part]
    if part == "routes":
        routes = [*routes, not_found_route({route["name"] for route in routes})]
    return {"@type": _ROUTES, "name": name, "virtual_hosts": [{"name": name, "domains": ["*"], "routes": routes}]}


def _admin_routes() -> list[dict[str, Any]]:
    is_get = {"name": ":method", "string_match": {"exact": "GET"}}
    return [{"match": {"path": path, "headers": [is_get]}, "route": {"cluster": "admin"}} for path in ADMIN]
