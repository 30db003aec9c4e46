"""Both servers are asked the same, in every form and flavour, and must say the same."""

from __future__ import annotations

import json
import logging
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow import pyfunc
from mlflow.types import ColSpec, DataType, Schema
from support.models import wine
from support.same_answers import MlflowServer, compare

from headgate_server import answers
from headgate_server.incomplete import lacks_values
from headgate_server.model import ModelRaisedError, ServedModel
from headgate_server.payloads import Columns

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
    with MlflowServer(loaded) as theirs:
        yield ours, theirs, loaded


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
    statuses = [compare(ours, theirs, body, content_type) for content_type, body in bodies(loaded).values()]
    assert statuses.count(200) >= 4


def test_answers_without_a_number_are_written_as_mlflow_writes_them(models, tmp_path):
    assert answers.encode(np.array([1.0, np.nan])) == b'{"predictions": [1.0, NaN]}'
    assert answers.encode(np.array([[1, 2]])) == b'{"predictions":[[1,2]]}'
    assert json.loads(answers.encode(np.array([0.1], dtype=np.float32))) == {"predictions": [0.10000000149011612]}
    assert json.loads(answers.encode(pd.Series([1.0], name="y"))) == {"predictions": [{"y": 1.0}]}
    assert json.loads(answers.encode({"a": np.array([1]), "b": "text"})) == {"predictions": {"a": [1], "b": "text"}}


def test_a_model_that_raises_is_told_from_a_bad_request(models):
    model = ServedModel(models("pyfunc", does="negative"))
    assert model.way == "frame", "it raises for some made-up rows only"
    good, bad = ({"dataframe_records": [{"x": x}]} for x in (1.0, -1.0))
    assert json.loads(model.answer(json.dumps(good).encode()).body) == {"predictions": [{"x": 2.0}]}
    with pytest.raises(ModelRaisedError) as raised:
        model.answer(json.dumps(bad).encode())
    assert isinstance(raised.value.__cause__, ValueError)
    assert model.answer(b'{"dataframe_records": [{"y": 1.0}]}').status == 400


def test_a_way_that_answers_where_the_model_raises_is_not_taken(models):
    model = ServedModel(models("pyfunc", does="negative"))
    columns = Columns(model._schema)

    def ask(document):
        return None if columns.rows(document) is None else b'{"predictions": [{"x": 2.0}]}'

    def after_the_check(document):
        frame = columns.frame(columns.rows(document))
        return answers.encode(frame[frame["x"] >= 0] * 2) if (frame["x"] < 0).any() else answers.encode(frame * 2)

    assert not model._agrees(ask), "the answer is another"
    assert not model._agrees(after_the_check), "rows that the model raises for are left out"
    assert model._agrees(model._quick)
    assert ServedModel(models("pyfunc", does="always")).way == "mlflow", "no answer was compared"


LETTERS = [
    {"inputs": {"a": "hello", "b": "hello"}},
    {"dataframe_split": {"columns": ["a", "b"], "data": ["xy"]}},
    {"dataframe_split": {"columns": "ab", "data": [["x", "y"]]}},
    {"dataframe_split": {"columns": "ab", "data": ["xy"]}},
    {"dataframe_split": {"columns": ["a", "b"], "data": {"0": ["xy", "zw"]}}},
    {"dataframe_records": {"a": "x", "b": "y"}},
    {"instances": "xy"},
    {"instances": [{"a": "x", "b": "y", "c": "z"}, {"a": "x", "b": "y"}]},
]


@pytest.mark.parametrize("document", LETTERS, ids=json.dumps)
def test_a_text_is_one_value_and_no_row_of_letters(models, document):
    folder = models("echo", inputs="string")
    ours = ServedModel(folder)
    assert ours.way == "frame"
    with MlflowServer(pyfunc.load_model(str(folder))) as theirs:
        compare(ours, theirs, json.dumps(document).encode(), "application/json")


@pytest.mark.parametrize(("body", "content_type"), [
    (b'{"dataframe_records": [{"a": null, "b": 1.0}]}', "application/json"),
    (b'{"dataframe_records": [{"a": NaN, "b": 1.0}]}', "application/json"),
    (b'{"inputs": {"a": [1e999], "b": [1.0]}}', "application/json"),
    (b'{"instances": [{"a": -Infinity, "b": 1.0}]}', "application/json"),
    (b"a,b\n,1.0\n", "text/csv"),
])  # fmt: skip
def test_what_lacks_a_value_is_the_clients_fault(models, body, content_type):
    """A model that raises on it is not to blame; on the same without a gap it answers."""
    folder = models("untouched", dtype="float64")
    ours = ServedModel(folder)
    with MlflowServer(pyfunc.load_model(str(folder))) as theirs:
        assert compare(ours, theirs, body, content_type) == 400
        assert compare(ours, theirs, b'{"inputs": {"a": [1], "b": [1]}}', "application/json") == 200


@pytest.mark.parametrize("body", [
    b'{"dataframe_records": [{"a": -1.0, "b": 1.0}]}',
    # The signature has no such column, or does not require it.
    b'{"dataframe_records": [{"a": -1.0, "b": 1.0, "more": null}]}',
    b'{"dataframe_records": [{"a": -1.0, "b": null}]}',
])  # fmt: skip
def test_a_model_that_raises_on_what_its_signature_allows_is_to_blame(body):
    asked = pd.DataFrame(json.loads(body)["dataframe_records"])
    schema = Schema([ColSpec(DataType.double, "a"), ColSpec(DataType.double, "b", required=False)])
    assert not lacks_values(asked, schema)
    assert lacks_values(asked.assign(a=np.nan), schema)


@pytest.mark.parametrize(("data", "lacks"), [
    (np.array([[1.0, np.inf]]), True), (np.array([[1.0, 2.0]]), False), (np.array([1, 2]), False),
    ({"a": np.array([1.0, np.nan])}, True), ([{"a": 1.0}, {"a": None}], True),
    ([{"a": 1.0, "b": 2.0}, {"a": 1.0}], True), ([{"a": 1.0, "b": 2.0}, {"a": 1.0, "b": 3.0}], False),
    ([[1.0], [2.0, None]], True),
    ("text", False), (None, True), (pd.DataFrame({"a": [pd.NaT]}), True), (pd.DataFrame({"a": ["x", None]}), True),
    (pd.DataFrame({"a": [[1.0, float("nan")]]}), True), (pd.DataFrame({"a": [{"b": 1}]}), False),
])  # fmt: skip
def test_a_value_that_is_missing_is_found_in_whatever_mlflow_parses(data, lacks):
    assert lacks_values(data, None) is lacks


def test_an_answer_that_is_no_json_is_the_models_fault(models):
    with pytest.raises(ModelRaisedError) as raised:
        ServedModel(models("pyfunc", does="set")).answer(b'{"dataframe_records": [{"x": 1.0}]}')
    assert isinstance(raised.value.__cause__, TypeError)


def test_a_body_that_is_nested_too_deep_is_refused(models):
    model = ServedModel(models("pyfunc", does="double"))
    assert model.answer(b'{"a":' * 100_000 + b"1" + b"}" * 100_000).status == 400
