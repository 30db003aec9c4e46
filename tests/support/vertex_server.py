"""The double's HTTP: paths of the discovery documents, bodies checked against their schemas, and Google's tokens."""

from __future__ import annotations

import json
import re
import threading
import uuid
from contextlib import contextmanager
from functools import cache
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import googleapiclient
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from support.cloud_http import CloudHandler, Refusal, single
from support.faults import Fault, FaultError
from support.machines import Machines, hurried
from support.vertex import DATASET, LOCATION, PARENT, PROJECT, Vertex

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from support.pretended import Pretended

SERVICES = ("AIPLATFORM", "ARTIFACTREGISTRY", "BIGQUERY", "CLOUDRESOURCEMANAGER", "LOGGING", "MONITORING",
            "SERVICEUSAGE")  # fmt: skip
_SAID = {
    Fault.THROTTLED: (429, "RESOURCE_EXHAUSTED", "Quota exceeded for quota metric 'Requests' per minute."),
    Fault.BROKEN: (503, "UNAVAILABLE", "The service is currently unavailable."),
    Fault.CUT_OFF: (502, "", "bad gateway"),
    Fault.EXPIRED: (401, "UNAUTHENTICATED", "Request had invalid authentication credentials."),
    Fault.DENIED: (403, "PERMISSION_DENIED", "Permission 'aiplatform.endpoints.update' denied."),
    Fault.QUOTA: (400, "RESOURCE_EXHAUSTED", "The following quotas are exceeded: CustomModelServingCPUs"),
}  # fmt: skip
_NOTHING = {"name": f"{PARENT}/operations/1", "done": True, "response": {}, "etag": "none"}


class _Handler(CloudHandler):
    vertex: Vertex
    tokens: set[str]

    def answer(self, body: bytes) -> None:
        path, query = urlsplit(self.path).path.lstrip("/"), urlsplit(self.path).query
        try:
            if path == "token":
                self.send(200, {"access_token": self._token(), "expires_in": 3600, "token_type": "Bearer"})
                return
            if self.token not in self.tokens:
                self._refuse(401, "UNAUTHENTICATED", "Request is missing required authentication credential.")
                return
            name, act = _route(self.vertex, self.command, unquote(path), single(query), body, self.headers)
            answered = self.vertex.faults.around(name, act, _NOTHING)
            if name == "rawPredict":
                status, said, kind, number = answered
                self.write(status, said, kind, {"x-vertex-ai-deployed-model-id": number})
            else:
                self.send(200, answered)
        except Refusal as refusal:
            self._refuse(refusal.status, refusal.code, refusal.message)
        except FaultError as error:
            if not self.fails_unlike_the_cloud(self.vertex.faults, error.fault):
                self._refuse(*_SAID[error.fault])

    def _token(self) -> str:
        token = uuid.uuid4().hex
        self.tokens.add(token)
        return token

    def _refuse(self, code: int, status: str, message: str) -> None:
        self.send(code, {"error": {"code": code, "status": status, "message": message}})


def _route(
    vertex: Vertex, verb: str, path: str, query: dict[str, str], body: bytes, headers: Mapping[str, str]
) -> tuple[str, Callable[[], Any]]:
    """The name of the call, and what carries it out."""
    if found := re.fullmatch(r"v1/(.+/endpoints/[^/]+):rawPredict", path):
        return "rawPredict", lambda: vertex.raw_predict(found[1], body, headers.get("content-type", ""))
    asked = json.loads(body) if body else {}
    name = re.sub(r"^v1/", "", path)
    endpoint, model = rf"{PARENT}/endpoints/[^/:]+", rf"{PARENT}/models/[^/:]+"
    calls: list[tuple[str, str, str, Callable[[], dict[str, Any]]]] = [
        ("POST", rf"{PARENT}/models:upload", "models.upload", lambda: vertex.upload_model(asked)),
        ("GET", f"{PARENT}/models", "models.list", lambda: vertex.list_models(query.get("filter", ""))),
        ("GET", model, "models.get", lambda: vertex.get_model(name)),
        ("DELETE", model, "models.delete", lambda: vertex.delete_model(name)),
        ("POST", f"{PARENT}/endpoints", "endpoints.create", lambda: vertex.create_endpoint(query["endpointId"], asked)),
        ("GET", f"{PARENT}/endpoints", "endpoints.list", lambda: vertex.list_endpoints(query.get("filter", ""))),
        ("GET", endpoint, "endpoints.get", lambda: vertex.get_endpoint(name)),
        ("PATCH", endpoint, "endpoints.patch", lambda: vertex.patch_endpoint(name, query["updateMask"], asked)),
        ("DELETE", endpoint, "endpoints.delete", lambda: vertex.delete_endpoint(name)),
        ("POST", f"{endpoint}:deployModel", "endpoints.deployModel",
         lambda: vertex.deploy_model(name.partition(":")[0], asked)),
        ("POST", f"{endpoint}:undeployModel", "endpoints.undeployModel",
         lambda: vertex.undeploy_model(name.partition(":")[0], asked)),
        ("GET", rf"({endpoint}|{model})/operations/\d+", "operations.get", lambda: vertex.get_operation(name)),
        ("GET", rf"{endpoint}/operations", "operations.list",
         lambda: vertex.list_operations(name.removesuffix("/operations"))),
        ("GET", f"v3/projects/{PROJECT}/timeSeries", "timeSeries.list", lambda: vertex.time_series(
            query["filter"], query["interval.startTime"], query["interval.endTime"])),
        ("POST", f"bigquery/v2/projects/{PROJECT}/queries", "jobs.query", lambda: vertex.query(asked)),
        ("GET", f"bigquery/v2/projects/{PROJECT}/datasets/{DATASET}", "datasets.get", lambda: {"id": DATASET}),
        ("POST", "v2/entries:list", "entries.list", lambda: vertex.log_entries(asked)),
        ("POST", f"projects/{PROJECT}:testIamPermissions", "projects.testIamPermissions",
         lambda: {"permissions": [one for one in asked["permissions"] if one not in vertex.denied]}),
        ("GET", f"v1beta1/projects/{PROJECT}/services/aiplatform.googleapis.com/consumerQuotaMetrics",
         "consumerQuotaMetrics.list", lambda: {"metrics": [_quota(*one) for one in vertex.quotas.items()]}),
        ("GET", rf"{PARENT}/repositories/[^/]+", "repositories.get", lambda: _repository(vertex, name)),
        ("POST", f"{PARENT}/repositories", "repositories.create",
         lambda: vertex.repositories.add(f"{name}/{query['repositoryId']}") or _NOTHING),
    ]  # fmt: skip
    for wanted, pattern, called, act in calls:
        if verb == wanted and re.fullmatch(pattern, name):
            _check_body(called, asked)
            return called, act
    raise Refusal(404, "NOT_FOUND", f"{verb} {path} is not found.")


def _quota(metric: str, limit: int) -> dict[str, Any]:
    """By `ConsumerQuotaMetric` of serviceusage v1beta1: everywhere little, and in the region as the test says."""
    buckets = [{"effectiveLimit": "1"}, {"effectiveLimit": str(limit), "dimensions": {"region": LOCATION}}]
    return {"metric": f"aiplatform.googleapis.com/{metric}", "consumerQuotaLimits": [{"quotaBuckets": buckets}]}


def _repository(vertex: Vertex, name: str) -> dict[str, Any]:
    if name not in vertex.repositories:
        raise Refusal(404, "NOT_FOUND", f"{name} is not found.")
    return {"name": name}


_BODIES = {
    "models.upload": "GoogleCloudAiplatformV1UploadModelRequest", "endpoints.create": "GoogleCloudAiplatformV1Endpoint",
    "endpoints.patch": "GoogleCloudAiplatformV1Endpoint",
    "endpoints.deployModel": "GoogleCloudAiplatformV1DeployModelRequest",
    "endpoints.undeployModel": "GoogleCloudAiplatformV1UndeployModelRequest",
}  # fmt: skip


@cache
def _schemas() -> dict[str, Any]:
    documents = Path(googleapiclient.__file__).parent / "discovery_cache" / "documents"
    return json.loads((documents / "aiplatform.v1.json").read_text())["schemas"]


def _check_body(called: str, body: Mapping[str, Any]) -> None:
    if called in _BODIES:
        _check({"$ref": _BODIES[called]}, body, called)


def _check(schema: Mapping[str, Any], value: Any, where: str) -> None:
    """By the vendor's own schema: names, types, and nothing that only the service may say."""
    if "$ref" in schema:
        schema = _schemas()[schema["$ref"]]
    kinds = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "array": list, "object": dict}
    if "type" in schema and schema["type"] != "any" and not isinstance(value, kinds[schema["type"]]):
        raise Refusal(400, "INVALID_ARGUMENT", f"{where} is to be {schema['type']}, not {value!r}")
    if isinstance(value, list):
        for number, item in enumerate(value):
            _check(schema["items"], item, f"{where}[{number}]")
    if isinstance(value, dict):
        properties, more = schema.get("properties", {}), schema.get("additionalProperties")
        for key, item in value.items():
            if key not in properties and more is None:
                raise Refusal(400, "INVALID_ARGUMENT", f"{where} has no field {key}")
            if properties.get(key, {}).get("readOnly"):
                raise Refusal(400, "INVALID_ARGUMENT", f"{where}.{key} is only ever given by the service")
            _check(properties.get(key, more), item, f"{where}.{key}")


@contextmanager
def vertex(
    name: str, folder: Path, machines: Machines | Pretended | None = None
) -> Iterator[tuple[Vertex, dict[str, str]]]:
    """A running double, and the environment that leads Google's own libraries to it."""
    machines = machines or Machines(name)
    double = Vertex(machines)
    handler = type("Handler", (_Handler,), {"vertex": double, "tokens": set()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    url = f"http://127.0.0.1:{server.server_port}"
    threads = [threading.Thread(target=act, daemon=True) for act in (server.serve_forever, double.run)]
    for thread in threads:
        thread.start()
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    account = {
        "type": "service_account", "project_id": PROJECT, "private_key_id": "1", "private_key": key.decode(),
        "client_email": f"headgate@{PROJECT}.iam.gserviceaccount.com", "client_id": "1", "token_uri": f"{url}/token",
    }  # fmt: skip
    credentials = folder / "google.json"
    credentials.write_text(json.dumps(account))
    try:
        with hurried(machines):
            yield double, {
                "GOOGLE_APPLICATION_CREDENTIALS": str(credentials), "GOOGLE_CLOUD_PROJECT": PROJECT,
                **{f"CLOUDSDK_API_ENDPOINT_OVERRIDES_{service}": url for service in SERVICES},
            }  # fmt: skip
    finally:
        double.close()
        server.shutdown()
        server.server_close()
        machines.close()
