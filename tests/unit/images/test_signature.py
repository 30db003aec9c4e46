"""A request that a model's signature allows, as MLflow's own server takes it."""

from __future__ import annotations

import asyncio
import json
import warnings

import httpx
import mlflow
import numpy as np
import pytest
from mlflow.models import ModelSignature
from mlflow.pyfunc.scoring_server import init
from mlflow.types.schema import AnyType, Array, ColSpec, DataType, Map, Object, Property, Schema, TensorSpec

from images import signature_request


class Counts(mlflow.pyfunc.PythonModel):
    """Answers how many rows it was asked, once it has read its input."""

    def predict(self, context, model_input, params=None):
        rows = next(iter(model_input.values())) if isinstance(model_input, dict) else model_input
        return [len(rows)]


async def ask(app, body: bytes) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://mlflow") as client:
        return await client.post("/invocations", content=body, headers={"content-type": "application/json"})


def columns(*types, names=True):
    named = [f"column {number}" if names else None for number in range(len(types))]
    return Schema([ColSpec(kind, name) for kind, name in zip(types, named, strict=True)])


@pytest.mark.parametrize("inputs", [
    columns(*DataType), columns("double", "double", names=False), columns("string"),
    columns(Array(DataType.double), Object([Property("a", DataType.string), Property("b", Array("long"))])),
    columns(Map(DataType.double), AnyType()),
    Schema([ColSpec("double", "needed"), ColSpec("long", "optional", required=False)]),
    Schema([TensorSpec(np.dtype("float32"), (-1, 2, 3))]), Schema([TensorSpec(np.dtype("int64"), (-1,))]),
    Schema([TensorSpec(np.dtype("float64"), (-1, 4), "a"), TensorSpec(np.dtype("bool"), (-1, 2), "b")]),
    Schema([TensorSpec(np.dtype("str"), (-1,))]),
], ids=str)  # fmt: skip
def test_every_signature_gives_a_request_that_is_answered(tmp_path, inputs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow.pyfunc.save_model(
            tmp_path / "model", python_model=Counts(), signature=ModelSignature(inputs, columns("long")),
            pip_requirements=["mlflow"],
        )  # fmt: skip
    request = signature_request(tmp_path / "model")
    answer = asyncio.run(ask(init(mlflow.pyfunc.load_model(str(tmp_path / "model"))), request.body))
    assert (answer.status_code, answer.json()) == (200, {"predictions": [1]}), answer.text


@pytest.mark.parametrize("metadata", [
    "flavors: {}\n", "signature: {inputs: null, params: null}\n", "signature: {inputs: '[]'}\n",
])  # fmt: skip
def test_without_inputs_there_is_none(tmp_path, metadata):
    (tmp_path / "MLmodel").write_text(metadata)
    assert signature_request(tmp_path) is None


def test_a_type_of_tomorrow_is_a_text(tmp_path):
    inputs = json.dumps([{"type": "quaternion", "name": "q"}])
    (tmp_path / "MLmodel").write_text(f"signature: {{inputs: '{inputs}'}}\n")
    assert json.loads(signature_request(tmp_path).body) == {"dataframe_split": {"columns": ["q"], "data": [["a"]]}}
