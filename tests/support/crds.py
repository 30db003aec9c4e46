"""Custom resources that clusters have: their schemas, to check what is applied, and to make their kinds on a cluster.

`crds/` has the definitions of Gateway API 1.0 (with the `fraction` of 1.2) and KEDA 2, by their projects' schemas as
npm's `@kubernetes-models/gateway-api` 0.5.1 and `@kubernetes-models/keda` 0.3.2 have them; of KServe 0.21, by the
models of PyPI's `kserve` 0.21.0, whose pods are checked by Kubernetes' own description; and of the Prometheus Operator
0.93's ServiceMonitor, as its repository has it, without descriptions and status.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate

FOLDER = Path(__file__).parent / "crds"
_OPEN = "x-kubernetes-preserve-unknown-fields"
_PODS_AS_OF = "1.31"


class InvalidError(AssertionError):
    """What is applied is not what the kind's schema allows."""


def definition(plural: str) -> dict[str, Any]:
    """A CustomResourceDefinition, as `kubectl create -f` takes it."""
    found: dict[str, Any] = json.loads((FOLDER / f"{plural}.json").read_text())
    return found


def pod_of(inference_service: dict[str, Any]) -> dict[str, Any]:
    """The part of an InferenceService's predictor that is the spec of a pod, and not KServe's own."""
    (version,) = definition("inferenceservices")["spec"]["versions"]
    schema = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["predictor"]
    predictor = inference_service["spec"]["predictor"]
    return {name: value for name, value in predictor.items() if name not in schema["properties"]}


def validate(manifest: dict[str, Any]) -> None:
    """Raises InvalidError where a cluster would refuse it, or leave a field out."""
    spec = definition(f"{manifest['kind'].lower()}s")["spec"]
    (version,) = (one for one in spec["versions"] if manifest["apiVersion"] == f"{spec['group']}/{one['name']}")
    schema = _closed(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    if errors := sorted(jsonschema.Draft7Validator(schema).iter_errors(manifest), key=lambda one: list(one.path)):
        raise InvalidError("; ".join(f"{one.json_path}: {one.message}" for one in errors))
    if manifest["kind"] == "InferenceService":
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "predictor"}, "spec": pod_of(manifest)}
        try:
            kubernetes_validate.validate(pod, _PODS_AS_OF, strict=True)
        except kubernetes_validate.ValidationError as error:
            raise InvalidError(f"spec.predictor is no spec of a pod: {error.message}") from error


def _closed(schema: Any) -> Any:
    """The same, without fields that it does not name: an API server would leave them out."""
    if isinstance(schema, list):
        return [_closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: _closed(part) for name, part in schema.items()}
    if isinstance(closed.get("properties"), dict) and closed.get("type") == "object" and not closed.get(_OPEN):
        closed.setdefault("additionalProperties", False)
    return closed
