"""Both servers are asked the same, in every form and flavour, and must say the same."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
from mlflow import pyfunc
from mlflow.pyfunc import scoring_server
from mlflow.types import DataType
from support.models import wine

from serving.model import ModelRaisedError, ServedModel

pytestmark = pytest.mark.filterwarnings("ignore")

MODELS: dict[str, tuple[dict[str, Any], str]] = {
    "wine": ({}, "array"),
    "proba": ({}, "array"),
    "integers": ({}, "array"),
    "strings": ({}, "columns"),
    "no_signature": ({}, "mlflow"),
    "lightgbm": ({}, "array"),
    "onnx": ({"table": False}, "array"),
    "onnx_table": ({"table": True}, "array"),
    "pyfunc": ({"does": "double"}, "frame"),
}


@pytest.fixture(params=MODELS, scope="module")
def pair(request, models):
    """Our model and MLflow's own server of the same folder."""
    options, way = MODELS[request.param]
    folder = models(request.param.removesuffix("_table"), **options)
    ours = ServedModel(folder)
    assert ours.way == way
    loaded = pyfunc.load_model(str(folder))
    return ours, MlflowServer(loaded), loaded


class MlflowServer:
    """MLflow's own ASGI app, asked in this process."""

    def __init__(self, loaded) -> None:
        self._transport = httpx.ASGITransport(scoring_server.init(loaded), raise_app_exceptions=False)

    def ask(self, body: bytes, content_type: str) -> httpx.Response:
        async def post() -> httpx.Response:
            async with httpx.AsyncClient(transport=self._transport, base_url="http://mlflow") as client:
                return await client.post("/invocations", content=body, headers={"content-type": content_type})

        return asyncio.run(post())


def rows(loaded) -> pd.DataFrame:
    schema = loaded.metadata.get_input_schema()
    if schema is None or schema.is_tensor_spec():
        return wine()[0].head(3).set_axis(range(13), axis=1)
    if schema.input_names() == ["x"]:
        return pd.DataFrame({"x": [1.0, -2.5, 0.0]})
    values = {
        DataType.double: [0.5, -1.25, 3.0], DataType.long: [1, 200, -3],
        DataType.string: ["high", "low", "never seen"], DataType.boolean: [True, False, True],
    }  # fmt: skip
    return pd.DataFrame({column.name: values[column.type] for column in schema.inputs})


def bodies(loaded) -> dict[str, tuple[str, bytes]]:
    """Every payload form, good ones and bad ones."""
    table = rows(loaded)
    split = table.to_dict(orient="split", index=False)
    records = table.to_dict(orient="records")
    columns = table.to_dict(orient="list")
    first = table.columns[0]
    documents: dict[str, Any] = {
        "split": {"dataframe_split": split},
        "split with index": {"dataframe_split": {**split, "index": [5, 6, 7]}},
        "split reordered": {"dataframe_split": table[table.columns[::-1]].to_dict(orient="split", index=False)},
        "split without columns": {"dataframe_split": {"data": split["data"]}},
        "one row": {"dataframe_split": {**split, "data": split["data"][:1]}},
        "no rows": {"dataframe_split": {**split, "data": []}},
        "records": {"dataframe_records": records},
        "extra column": {"dataframe_records": [{**row, "extra": 1} for row in records]},
        "missing column": {"dataframe_records": [{k: v for k, v in row.items() if k != first} for row in records]},
        "instances of dicts": {"instances": records},
        "instances of lists": {"instances": split["data"]},
        "inputs of columns": {"inputs": columns},
        "inputs of lists": {"inputs": split["data"]},
        "null": {"dataframe_records": [{**records[0], first: None}]},
        "text for a number": {"dataframe_records": [{**records[0], first: "many"}]},
        "number as text": {"dataframe_records": [{**records[0], first: "1.5"}]},
        "whole number": {"dataframe_records": [{**records[0], first: 3}]},
        "broken number": {"dataframe_records": [{**records[0], table.columns[-1]: 2.75}]},
        "boolean": {"dataframe_records": [{**records[0], first: True}]},
        "ragged": {"dataframe_split": {**split, "data": [split["data"][0], split["data"][1][:-1]]}},
        "two forms": {"dataframe_split": split, "instances": records},
        "with params": {"dataframe_split": split, "params": {"temperature": 1}},
        "nothing": {},
        "a list": records,
        "nested": {"instances": [[split["data"]]]},
    }
    as_json = {name: ("application/json", json.dumps(body, default=str).encode()) for name, body in documents.items()}
    return {
        **as_json,
        "charset": ("application/json; charset=utf-8", as_json["split"][1]),
        "no json": ("application/json", b"{not json"),
        "csv": ("text/csv", table.to_csv(index=False).encode()),
        "parquet": ("application/vnd.apache.parquet", table.set_axis(map(str, table.columns), axis=1).to_parquet()),
        "other type": ("application/xml", b"<x/>"),
    }


def test_every_form_is_answered_alike(pair, caplog):
    caplog.set_level(logging.ERROR)
    ours, theirs, loaded = pair
    answered = 0
    for name, (content_type, body) in bodies(loaded).items():
        reference = theirs.ask(body, content_type)
        try:
            answer = ours.answer(body, content_type)
        except ModelRaisedError:
            # MLflow blames the input for everything that a model raises; we say 500.
            assert reference.status_code >= 400, name
            continue
        if reference.status_code == 200:
            assert answer.status == 200, (name, answer.body)
            same(json.loads(answer.body), reference.json(), name)
            answered += 1
        else:
            assert 400 <= answer.status < 500, (name, answer, reference.text)
    assert answered >= 4


def same(ours: Any, theirs: Any, name: str) -> None:
    """Equal, where NaN equals NaN."""
    assert json.dumps(ours, sort_keys=True) == json.dumps(theirs, sort_keys=True), name


def test_answers_without_a_number_are_written_as_mlflow_writes_them(models, tmp_path):
    from serving import answers

    assert answers.encode(np.array([1.0, np.nan])) == b'{"predictions": [1.0, NaN]}'
    assert answers.encode(np.array([[1, 2]])) == b'{"predictions":[[1,2]]}'
    assert json.loads(answers.encode(np.array([0.1], dtype=np.float32))) == {"predictions": [0.10000000149011612]}
    assert json.loads(answers.encode(pd.Series([1.0], name="y"))) == {"predictions": [{"y": 1.0}]}
    assert json.loads(answers.encode({"a": np.array([1]), "b": "text"})) == {"predictions": {"a": [1], "b": "text"}}


def test_a_model_that_raises_is_told_from_a_bad_request(models):
    model = ServedModel(models("pyfunc", does="negative"))
    good, bad = ({"dataframe_records": [{"x": x}]} for x in (1.0, -1.0))
    assert json.loads(model.answer(json.dumps(good).encode()).body) == {"predictions": [{"x": 2.0}]}
    with pytest.raises(ModelRaisedError) as raised:
        model.answer(json.dumps(bad).encode())
    assert isinstance(raised.value.__cause__, ValueError)
    assert model.answer(b'{"dataframe_records": [{"y": 1.0}]}').status == 400
