"""Bodies whose names are too many, or that are too deep, are refused before MLflow makes a column of each name."""

from __future__ import annotations

import csv
import io
import json

import hypothesis.strategies as st
import pytest
from hypothesis import given
from mlflow.pyfunc import scoring_server
from mlflow.types import ColSpec, Schema

from headgate_server.model import MOST_MESSAGE, ServedModel
from headgate_server.shape import ANY_COLUMNS, DEPTH, MORE_COLUMNS, Shape

JSON, CSV = "application/json", "text/csv"
NAMED = Schema([ColSpec("double", "a"), ColSpec("double", "b")])
MOST = 2 + MORE_COLUMNS
NAMES = [f"k{number}" for number in range(MOST + 1)]


def as_json(document: object) -> bytes:
    return json.dumps(document).encode()


TOO_MANY = [
    (b"," * MOST, CSV),
    (b"a,b\n1,2\n" + b"," * MOST, CSV),
    (b"a,b\r" + b"," * MOST, "Text/CSV; charset=utf-8"),
    (as_json({"dataframe_split": {"columns": NAMES, "data": []}}), JSON),
    (as_json({"dataframe_split": {"columns": ["a", "b"], "data": [[1, 2], [0] * (MOST + 1)]}}), JSON),
    (as_json({"dataframe_records": [{name: 1} for name in NAMES]}), JSON),
    (as_json({"instances": [{name: 1} for name in NAMES]}), JSON),
    (as_json({"inputs": [dict.fromkeys(NAMES, 1)]}), "application/json; charset=utf-8"),
    (as_json({"inputs": dict.fromkeys(NAMES, 1)}), JSON),
    (as_json({"params": {}, "inputs": dict.fromkeys(NAMES, 1)}), JSON),
]


@pytest.mark.parametrize(("body", "kind"), TOO_MANY)
def test_more_columns_than_are_allowed_beside_those_of_the_signature(body, kind):
    said = f"the body has at least {MOST + 1} columns, and this model takes at most {MOST}"
    assert Shape(NAMED).misfit(body, kind) == said


@pytest.mark.parametrize("field", [b",", b'"",', b'",",'])
@pytest.mark.parametrize("before", [b"", b'"a",b\n' * 2000])
def test_a_large_csv_of_too_many_columns_is_refused_by_its_beginning(monkeypatch, before, field):
    """While Python's parser reads one record, the server answers nobody."""
    read, parse = [], csv.reader
    monkeypatch.setattr(csv, "reader", lambda file: parse(read.append(file.seek(0, 2)) or io.StringIO(file.getvalue())))
    assert "columns" in Shape(NAMED).misfit(before + field * 1_000_000, CSV)
    assert read == ([] if b'"' not in before + field else [2**16])


def test_a_large_csv_of_texts_with_commas_is_read_to_its_end():
    rows = b"a,b\n" + b'"1,2,3","4,5,6"\n' * 100_000
    assert Shape(NAMED).misfit(rows + b'"' + b"," * 1000 + b'",2\n', CSV) == ""
    assert "columns" in Shape(NAMED).misfit(rows + b"," * 1000, CSV)


@pytest.mark.parametrize("schema", [None, Schema([ColSpec("double")])])
def test_without_names_in_the_signature_any_are_allowed_up_to_a_number(schema):
    shape = Shape(schema)
    assert shape.misfit(b"," * (ANY_COLUMNS - 1), CSV) == ""
    assert "10001 columns" in shape.misfit(b"," * ANY_COLUMNS, CSV)


@pytest.mark.parametrize(("body", "kind"), [
    (b"," * (MOST - 1), CSV),
    (b'a,b\n"' + b"," * 10_000 + b'","' + b'""\n,' * 10_000 + b'"\n', CSV),
    (as_json({"dataframe_records": [dict.fromkeys(NAMES[:-1], 1)] * 10}), JSON),
    (as_json({"inputs": [",[{" * 1000, '"[' * 1000, "\\[" * 1000]}), JSON),
    (as_json({"instances": [[1] * 10_000]}), JSON),
    (as_json(["a"] * 1000), JSON),
    (b"[1, 2", JSON),
    (b"," * 100_000, "text/plain"),
    (b"", CSV),
    (b"", JSON),
])  # fmt: skip
def test_what_mlflow_is_to_decide_about(body, kind):
    assert Shape(NAMED).misfit(body, kind) == ""


@given(st.recursive(st.text(), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner)))
def test_brackets_in_texts_are_no_depth(document):
    body = as_json({"inputs": document})
    assert Shape(None).misfit(body, JSON) == ""
    deep = b"[" * DEPTH + body + b"]" * DEPTH
    assert f"more than {DEPTH} lists and objects" in Shape(None).misfit(deep, JSON)


@pytest.mark.parametrize(("content", "is_deep"), [
    ("[" * 1000, True), ('["' * 1000, True), ('["\\' * 1000, True), ('"[' + '\\"[' * 200_000, False),
])  # fmt: skip
def test_depth_is_known_where_a_body_is_cut_off(content, is_deep):
    """The last of them takes minutes where texts are looked for from each quote anew."""
    assert bool(Shape(None).misfit(content.encode(), JSON)) == is_deep


def test_mlflows_parser_is_not_asked(models, monkeypatch):
    model = ServedModel(models("pyfunc", does="double"))
    monkeypatch.setattr(scoring_server, "invocations", None)
    answer = model.answer(b"," * 60_000, CSV)
    assert (answer.status, json.loads(answer.body)) == (400, {
        "error_code": "BAD_REQUEST", "message": "the body has at least 60001 columns, and this model takes at most 257",
    })  # fmt: skip


def test_a_client_is_not_sent_its_own_body_as_an_error(models):
    """As of a body that says that it is JSON and is compressed: MLflow's message quotes all of it."""
    answer = ServedModel(models("pyfunc", does="double")).answer(b"\x1f\x8b" + b"\x00" * 50_000, JSON)
    assert answer.status == 400
    assert len(answer.body) < 2 * MOST_MESSAGE
