"""A request for a model that was logged with a signature and without an input example.

Source: the JSON of signatures in MLmodel files, mlflow/types/schema.py.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import yaml

from headgate.records import Payload

if TYPE_CHECKING:
    from pathlib import Path

_VALUES: dict[str, Any] = {
    "boolean": True, "integer": 1, "long": 1, "float": 1.0, "double": 1.0, "string": "a", "binary": "YQ==",
    "datetime": "2020-01-01T00:00:00", "any": "a",
}  # fmt: skip


def signature_request(model: Path) -> Payload | None:
    """Return one row of plain values of a model's input types; None where it has no signature with inputs.

    Args:
        model: the folder with MLmodel.
    """
    metadata = yaml.safe_load((model / "MLmodel").read_text(encoding="utf-8"))
    inputs = (metadata.get("signature") or {}).get("inputs")
    specs: list[dict[str, Any]] = json.loads(inputs) if inputs else []
    if not specs:
        return None
    body = _tensors(specs) if specs[0].get("type") == "tensor" else _row(specs)
    return Payload(body=json.dumps(body).encode())


def _row(specs: list[dict[str, Any]]) -> dict[str, Any]:
    values = [_value(spec) for spec in specs]
    if not all("name" in spec for spec in specs):
        return {"dataframe_split": {"data": [values]}}
    return {"dataframe_split": {"columns": [spec["name"] for spec in specs], "data": [values]}}


def _tensors(specs: list[dict[str, Any]]) -> dict[str, Any]:
    made = {spec.get("name", ""): _tensor(spec["tensor-spec"]) for spec in specs}
    return {"inputs": made.get("", made)}


def _tensor(spec: dict[str, Any]) -> Any:  # noqa: ANN401 - lists in lists
    kind = spec["dtype"]
    value: Any = "a" if kind.startswith(("str", "object", "bytes")) else kind.startswith("bool") or 1
    for length in reversed(spec["shape"]):
        value = [value] * (1 if length < 0 else length)
    return value


def _value(spec: dict[str, Any]) -> Any:  # noqa: ANN401 - of the type that the signature names
    match spec.get("type"):
        case "array":
            return [_value(spec["items"])]
        case "object":
            return {name: _value(one) for name, one in spec["properties"].items()}
        case "map":
            return {"a": _value(spec["values"])}
        case kind:
            return _VALUES.get(str(kind), "a")
