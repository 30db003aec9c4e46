"""The double's HTTPS: Resource Manager's paths, bodies checked by Microsoft's own models, tokens, and a storage."""

from __future__ import annotations

import json
import re
import ssl
import threading
import time
import uuid
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from http.server import ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit
from xml.sax.saxutils import escape

from azure.mgmt.machinelearningservices import models

from support.azure_ml import (
    ACCOUNT,
    CONTAINER,
    IN_GROUP,
    LOCATION,
    PLACE,
    REGISTRY,
    SIZE,
    WORKSPACE,
    AzureMl,
)
from support.certificates import certificate
from support.cloud_http import CloudHandler, Refusal, single
from support.faults import Fault, FaultError
from support.machines import Machines, hurried

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from support.pretended import Pretended

_SAID = {
    Fault.THROTTLED: (429, "TooManyRequests", "The request is throttled."),
    Fault.BROKEN: (503, "ServiceUnavailable", "The service is currently unavailable."),
    Fault.CUT_OFF: (502, "BadGateway", "bad gateway"),
    Fault.EXPIRED: (401, "ExpiredAuthenticationToken", "The access token is expired."),
    Fault.DENIED: (403, "AuthorizationFailed", "The client does not have authorization to perform the action."),
    Fault.QUOTA: (400, "OutOfQuota", "Not enough quota available for Standard_DS3_v2 in westeurope."),
}  # fmt: skip
_BODIES = {
    "onlineEndpoints.put": models.OnlineEndpoint, "deployments.put": models.OnlineDeployment,
    "versions.put": models.EnvironmentVersion, "environments.put": models.EnvironmentContainer,
}  # fmt: skip
_INSTEAD = {
    "OnlineDeploymentProperties": models.ManagedOnlineDeployment,
    "OnlineScaleSettings": models.DefaultScaleSettings,
}
_NEWER = {"dataCollector"}
"""Came after these models: https://learn.microsoft.com/azure/templates/microsoft.machinelearningservices/workspaces/onlineendpoints/deployments."""
_TYPES = {"str": str, "int": int, "bool": bool, "float": (int, float), "duration": str}


class _Handler(CloudHandler):
    double: AzureMl
    tokens: set[str]

    def answer(self, body: bytes) -> None:
        path, query = unquote(urlsplit(self.path).path), single(urlsplit(self.path).query)
        try:
            if path == "/token":
                self.send(200, self._token())
                return
            if path == "/oauth2/exchange":
                self.send(200, {"refresh_token": uuid.uuid4().hex})
                return
            if self.token not in self.tokens:
                self._refuse(401, "InvalidAuthenticationToken", "The access token is invalid.")
                return
            if path.startswith(f"/{ACCOUNT}/"):
                self._storage(path.removeprefix(f"/{ACCOUNT}/{CONTAINER}").lstrip("/"), query)
                return
            self._manage(path, query, body)
        except Refusal as refusal:
            self._refuse(refusal.status, refusal.code, refusal.message)
        except FaultError as error:
            if not self.fails_unlike_the_cloud(self.double.faults, error.fault):
                self._refuse(*_SAID[error.fault])

    def _manage(self, path: str, query: dict[str, str], body: bytes) -> None:
        if found := re.fullmatch(r"/endpoints/([^/]+)/score", path):
            status, answer, kind, deployment = self.double.faults.around(
                "score", lambda: self.double.score(found[1], body, self.headers), (500, b"", "", "")
            )
            self.write(status, answer, kind, {"azureml-model-deployment": deployment})
            return
        if "api-version" not in query:
            raise Refusal(400, "MissingApiVersionParameter", "The api-version query parameter is required.")
        if found := re.fullmatch(rf"{PLACE}/mfeOperationsResults/([^/]+)", path):
            going_on = self.double.get_operation(found[1])["status"] == "InProgress"
            self.write(202 if going_on else 204, b"", "application/json", {})
            return
        name, act = _route(self.double, self.command, path, query, json.loads(body) if body else {})
        begun = self.double.faults.around(name, act, {})
        operation = begun.pop("_operation", None)
        if operation is None:
            self.send(200, begun)
            return
        # Both ways of https://learn.microsoft.com/azure/azure-resource-manager/management/async-operations.
        watched = f"{self.double.url}{PLACE}/mfeOperations{{}}/{operation}?api-version=2025-12-01"
        if self.command == "DELETE":
            self.write(202, b"", "application/json", {"Location": watched.format("Results")})
        else:
            self.write(201, b"{}", "application/json", {"Azure-AsyncOperation": watched.format("Status")})

    def _storage(self, name: str, query: dict[str, str]) -> None:
        found = self.double.blobs(query.get("prefix", name))
        if query.get("comp") == "list":
            blobs = "".join(
                f"<Blob><Name>{escape(one)}</Name><Properties><Etag>{len(content)}</Etag>"
                f"<Content-Length>{len(content)}</Content-Length><BlobType>AppendBlob</BlobType></Properties></Blob>"
                for one, content in sorted(found.items())
            )
            listed = f"<EnumerationResults><Blobs>{blobs}</Blobs><NextMarker/></EnumerationResults>"
            self.write(200, listed.encode(), "application/xml", {})
        elif self.command == "DELETE":
            self.double.delete_blob(name)
            self.write(202, b"", "application/xml", {})
        elif name not in found:
            self.write(404, b"", "application/xml", {"x-ms-error-code": "BlobNotFound"})
        else:
            content = found[name]
            ends = f"bytes 0-{len(content) - 1}/{len(content)}"
            self.write(206, content, "application/octet-stream", {
                "content-range": ends, "etag": str(len(content)), "x-ms-blob-type": "AppendBlob",
                "last-modified": datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT"),
            })  # fmt: skip

    def _token(self) -> dict[str, Any]:
        token = uuid.uuid4().hex
        self.tokens.add(token)
        return {"access_token": token, "expires_on": str(int(time.time()) + 86_400), "token_type": "Bearer",
                "resource": "any"}  # fmt: skip

    def _refuse(self, status: int, code: str, message: str) -> None:
        said, after = json.dumps({"error": {"code": code, "message": message}}).encode(), self.double.retry_after
        asks = {"Retry-After": after} if after and status == HTTPStatus.TOO_MANY_REQUESTS else {}
        self.write(status, said, "application/json", asks)


def _route(
    double: AzureMl, verb: str, path: str, query: dict[str, str], asked: dict[str, Any]
) -> tuple[str, Callable[[], dict[str, Any]]]:
    """The name of the call, and what carries it out."""
    endpoint = rf"{WORKSPACE}/onlineEndpoints/([^/]+)"
    deployment, environment = rf"{endpoint}/deployments/([^/]+)", rf"{WORKSPACE}/environments/([^/]+)"
    scaled = rf"{IN_GROUP}/providers/Microsoft.Insights/autoscaleSettings/([^/]+)"
    calls: list[tuple[str, str, str, Callable[..., Any]]] = [
        ("GET", WORKSPACE, "workspaces.get", lambda: {
            "location": LOCATION, "properties": {"containerRegistry": double.registry}}),
        ("GET", REGISTRY, "registries.get", lambda: {"properties": {"loginServer": double.url.removeprefix("https://")}}),
        ("GET", f"{WORKSPACE}/datastores/workspaceblobstore", "datastores.get", lambda: {"properties": {
            "accountName": ACCOUNT, "containerName": CONTAINER, "endpoint": "core.windows.net", "protocol": "https"}}),
        ("GET", f"{WORKSPACE}/providers/Microsoft.Authorization/permissions", "permissions.get",
         lambda: _listed([{"actions": double.actions, "notActions": double.exceptions}])),
        ("GET", f"{PLACE}/vmSizes", "vmSizes.get", lambda: _listed([SIZE])),
        ("GET", f"{PLACE}/usages", "usages.get", lambda: _listed([
            {"name": {"value": SIZE["family"]}, "limit": 100, "currentValue": 100 - double.cores}])),
        ("GET", rf"{PLACE}/mfeOperationsStatus/([^/]+)", "operations.get", double.get_operation),
        ("GET", f"{WORKSPACE}/onlineEndpoints", "onlineEndpoints.get", lambda: _listed(double.list_endpoints())),
        ("GET", endpoint, "onlineEndpoints.get", double.get_endpoint),
        ("PUT", endpoint, "onlineEndpoints.put", lambda endpoint: double.put_endpoint(endpoint, asked)),
        ("DELETE", endpoint, "onlineEndpoints.delete", double.delete_endpoint),
        ("GET", f"{endpoint}/deployments", "deployments.get", lambda name: _listed(double.list_deployments(name))),
        ("GET", deployment, "deployments.get", double.get_deployment),
        ("PUT", deployment, "deployments.put", lambda endpoint, name: double.put_deployment(endpoint, name, asked)),
        ("DELETE", deployment, "deployments.delete", double.delete_deployment),
        ("POST", f"{deployment}/getLogs", "getLogs", lambda endpoint, name: double.logs(endpoint, name, asked["tail"])),
        ("GET", f"{endpoint}/providers/Microsoft.Insights/metrics", "metrics.get",
         lambda endpoint: double.metrics(endpoint, query)),
        ("GET", f"{deployment}/providers/Microsoft.Insights/metrics", "metrics.get",
         lambda endpoint, name: double.memory(endpoint, name, query)),
        ("GET", f"{environment}/versions", "versions.get", lambda named: _listed(double.list_environments(named))),
        ("GET", rf"{environment}/versions/([^/]+)", "versions.get", lambda named, version: _one(
            double.environments, (named, version))),
        ("PUT", rf"{environment}/versions/([^/]+)", "versions.put",
         lambda named, version: double.put_environment(named, version, asked)),
        ("DELETE", rf"{environment}/versions/([^/]+)", "versions.delete", double.delete_environment),
        ("GET", environment, "environments.get", lambda named: _container(double, named)),
        ("PUT", environment, "environments.put", lambda named: double.containers.update({named: asked}) or asked),
        ("DELETE", environment, "environments.delete", double.delete_environment),
        ("GET", scaled, "autoscaleSettings.get", lambda setting: _one(double.scaled, setting)),
        ("PUT", scaled, "autoscaleSettings.put", lambda setting: double.scaled.update({setting: asked}) or asked),
        ("DELETE", scaled, "autoscaleSettings.delete", lambda setting: double.scaled.pop(setting) and {}),
    ]  # fmt: skip
    for wanted, pattern, called, act in calls:
        if verb == wanted and (found := re.fullmatch(pattern, path)):
            if called in _BODIES:
                _check(_BODIES[called], asked, called)
            return called, partial(act, *found.groups())
    raise Refusal(404, "ResourceNotFound", f"{verb} {path} is not found.")


def _listed(found: list[Any]) -> dict[str, Any]:
    return {"value": found}


def _container(double: AzureMl, named: str) -> dict[str, Any]:
    """An environment without its versions, the first of which makes it."""
    if named not in double.containers:
        double.list_environments(named)
    return {"name": named, "properties": {}, **double.containers.get(named, {})}


def _one(known: Mapping[Any, Any], key: Any) -> dict[str, Any]:
    if key not in known:
        raise Refusal(404, "NotFound", f"{key} is not found.")
    return dict(known[key])


def _check(kind: type[Any], value: Any, where: str) -> None:
    """By Microsoft's own models: names, types, what has to be there, and what only the service may say."""
    if not isinstance(value, dict):
        raise Refusal(400, "BadArgument", f"{where} is to be an object, not {value!r}")
    known = {one["key"]: (name, one["type"]) for name, one in kind._attribute_map.items()}
    rules = {known_as: kind._validation.get(name, {}) for known_as, (name, _) in known.items()}
    for key, item in value.items():
        if key not in known and key not in _NEWER:
            raise Refusal(400, "BadArgument", f"{where} has no field {key}")
        if rules.get(key, {}).get("readonly"):
            raise Refusal(400, "BadArgument", f"{where}.{key} is only ever given by the service")
        if key in known:
            _check_type(known[key][1], item, f"{where}.{key}")
    if missing := [
        key for key, rule in rules.items() if rule.get("required") and not rule.get("readonly") and key not in value
    ]:
        raise Refusal(400, "BadArgument", f"{where} lacks {missing}")


def _check_type(kind: str, value: Any, where: str) -> None:
    if kind.startswith("{"):
        for key, item in value.items():
            _check_type(kind[1:-1], item, f"{where}.{key}")
    elif kind in _TYPES:
        if not isinstance(value, _TYPES[kind]) or isinstance(value, bool) != (kind == "bool"):
            raise Refusal(400, "BadArgument", f"{where} is to be {kind}, not {value!r}")
    else:
        _check(_INSTEAD.get(kind, getattr(models, kind)), value, where)


@contextmanager
def azure_ml(
    name: str, folder: Path, machines: Machines | Pretended | None = None
) -> Iterator[tuple[AzureMl, dict[str, str]]]:
    """A running double, and the environment that leads Azure's own libraries to it."""
    machines = machines or Machines(name)
    double = AzureMl(machines)
    handler = type("Handler", (_Handler,), {"double": double, "tokens": set()})
    own = certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own)
    # Azure's client signs over TLS only; the identity of a machine is asked for without.
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for _ in range(2)]
    servers[0].socket = context.wrap_socket(servers[0].socket, server_side=True)
    for server in servers:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
    double.url = f"https://127.0.0.1:{servers[0].server_port}"
    try:
        with hurried(machines):
            yield double, {
                "AZURE_RESOURCE_MANAGER_URL": double.url, "IDENTITY_HEADER": "secret",
                "REQUESTS_CA_BUNDLE": str(own), "SSL_CERT_FILE": str(own),
                "IDENTITY_ENDPOINT": f"http://127.0.0.1:{servers[1].server_port}/token",
            }  # fmt: skip
    finally:
        double.close()
        for server in servers:
            server.shutdown()
            server.server_close()
        machines.close()
