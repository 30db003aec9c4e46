"""Bodies of requests to a model's server: every form that MLflow knows, sound ones and odd ones, from hypothesis.

A body is at most 4 kB and has at most 64 columns, so that a failing one can be read.
"""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd
from hypothesis import strategies as st
from mlflow.types import DataType

if TYPE_CHECKING:
    from mlflow.types import Schema

MOST_BYTES = 4000
_MOST_COLUMNS = 64
JSON = "application/json"
FORMS = ("dataframe_split", "dataframe_split", "dataframe_records", "instances", "inputs", "inputs", "csv", "parquet")
# As a number that no float holds cannot be written by json.dumps.
_TOO_LARGE = "@1e999"

_ODD = st.sampled_from([
    None, True, False, float("nan"), float("inf"), -float("inf"), _TOO_LARGE, 0, -1, -0.0, 0.1, 1.5, 3.0, 5e-324,
    1e300, 2**24 + 1, 2**31, 2**53 + 1, 2**60 + 2**36 + 1, 2**63 - 1, 2**63, 2**64, 10**30, 10**400, "", "1", "1.5",
    "hello", "True", "NaN", "None", "2024-01-01", "aGk=", "ab\0", "\0", "é", "\ud800", " ", [], [1], ["xy"], [[1, 2]],
    {}, {"a": 1}, {"0": ["xy", "zw"]},
])  # fmt: skip
_NUMBERS = st.one_of(
    st.floats(-1e9, 1e9), st.integers(-1000, 1000), st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-(2**63), 2**63 - 1),
    # What loses digits on its way into a narrower type.
    st.sampled_from([0.1, 2**24 + 1, 2**53 + 1, 2**60 + 2**36 + 1, -(2**60) - 2**36 - 1]),
)  # fmt: skip
_WHOLE = st.one_of(st.integers(-1000, 1000), st.integers(-(2**31), 2**31 - 1))
_TEXT = st.one_of(st.sampled_from(["high", "low", "01", "hello"]), st.text(max_size=6))
SOUND: dict[DataType, st.SearchStrategy[Any]] = {
    DataType.double: _NUMBERS, DataType.float: st.one_of(st.floats(width=32, allow_nan=False), _NUMBERS),
    DataType.long: _WHOLE, DataType.integer: _WHOLE, DataType.string: _TEXT, DataType.boolean: st.booleans(),
    DataType.binary: st.sampled_from(["aGk=", "aGVsbG8="]),
    DataType.datetime: st.sampled_from(["2024-01-01", "2024-02-03T04:05:06"]),
}  # fmt: skip


class Body(NamedTuple):
    """A request's body and its content type."""

    content: bytes
    content_type: str


def columns_of(schema: Schema | None) -> list[tuple[str, DataType]]:
    """The names and types of a signature's columns; some of each for a tensor, or for no signature."""
    if schema is None:
        return [("a", DataType.double), ("b", DataType.string)]
    names = schema.input_names() if schema.has_input_names() else list(map(str, range(len(schema.inputs))))
    if schema.is_tensor_spec():
        return [(name, DataType.double) for name in (names if len(names) > 1 else ["0", "1"])]
    return list(zip(names, schema.input_types(), strict=True))


# What may be odd about a body; one thing at a time, as two would hide each other.
_FAULTS = ("none", "none", "values", "place", "kind", "kind", "around", "bytes", "type")


@st.composite
def bodies(draw: st.DrawFn, schema: Schema | None) -> Body:
    """Draw a body for a model of this signature; some are sound."""
    columns, fault = columns_of(schema), draw(st.sampled_from(_FAULTS))
    is_tensor = schema is not None and schema.is_tensor_spec()
    if is_tensor and draw(st.integers(0, 3)):
        form, content = draw(_tensors(schema))
    else:
        value = st.one_of if fault == "values" else lambda sound, *_: sound
        rows = [
            [draw(value(SOUND[kind], SOUND[kind], _ODD)) for _, kind in columns] for _ in range(draw(st.integers(1, 4)))
        ]
        names = [name for name, _ in columns]
        form = draw(st.sampled_from(FORMS))
        if form == "csv":
            return _csv(draw, names, rows, is_sound=fault in {"none", "values"})
        if form == "parquet":
            return _parquet(draw, names, rows, is_sound=fault in {"none", "values"})
        content = _content(draw, form, names, rows)
    if fault in {"place", "kind"} or (fault == "values" and is_tensor):
        content = draw(_of_another_kind(content) if fault == "kind" else _spoilt(content))
    document = draw(_surrounded({form: content})) if fault == "around" else {form: content}
    return _json(draw, document, fault)


@st.composite
def _of_another_kind(draw: st.DrawFn, content: Any) -> Any:
    """A content in which all that is alike has become something else that can be walked through as it could."""
    if isinstance(content, dict) and "data" in content:
        split = {name: content[name] for name in ("columns", "data")}
        names, data = split["columns"], split["data"]
        return draw(st.sampled_from([
            {**split, "data": [_letters(len(names)) for _ in data]}, {**split, "data": dict(enumerate(data))},
            {**split, "columns": "".join(names)}, {**split, "columns": dict.fromkeys(names, 0)},
            {**split, "data": [dict(zip(names, row, strict=True)) for row in data]}, {"data": data},
            {**split, "data": [dict(enumerate(row)) for row in data]}, list(split.items()), "".join(names),
            {**split, "columns": names[:1] * len(names)}, {**split, "data": data[0]}, {**split, "columns": None},
        ]))  # fmt: skip
    if isinstance(content, dict):
        return draw(st.sampled_from([
            {name: _letters(3) for name in content}, {name: column[0] for name, column in content.items() if column},
            {name: dict(enumerate(column)) for name, column in content.items()}, list(content.items()), [content],
            {name: [column] for name, column in content.items()}, {**content, "more": [1]}, "".join(content),
        ]))  # fmt: skip
    if not isinstance(content, list) or not content:
        return draw(_ODD)
    return draw(st.sampled_from([
        dict(enumerate(content)), content[0], [_letters(2) for _ in content], [[row] for row in content],
        [*content, {}], [*content, []], [list(row.items()) if isinstance(row, dict) else row for row in content],
        [{**row, "more": 1} if isinstance(row, dict) and not place else row for place, row in enumerate(content)],
        _letters(len(content)), [row if place else None for place, row in enumerate(content)],
    ]))  # fmt: skip


def _letters(number: int) -> str:
    return "hello"[:number].ljust(number, "o")


@st.composite
def _tensors(draw: st.DrawFn, schema: Schema) -> tuple[str, Any]:
    """A form, and arrays of the shapes that a signature has as nested lists."""
    rows, numbers = draw(st.integers(1, 3)), draw(st.sampled_from([_WHOLE, _NUMBERS]))
    form = draw(st.sampled_from(["inputs", "instances"]))
    lists = []
    for spec in schema.inputs:
        nested: st.SearchStrategy[Any] = numbers if spec.type.kind == "f" else _WHOLE
        for size in reversed(spec.shape):
            length = rows if size == -1 else size
            nested = st.lists(nested, min_size=length, max_size=length)
        lists.append(draw(nested))
    if not schema.has_input_names():
        return form, lists[0]
    named = dict(zip(schema.input_names(), lists, strict=True))
    if form == "inputs":
        return form, named
    return form, [dict(zip(named, row, strict=True)) for row in zip(*named.values(), strict=True)]


def _content(draw: st.DrawFn, form: str, names: list[str], rows: list[list[Any]]) -> Any:
    shape = draw(st.sampled_from(["records", "columns", "lists", "column"]))
    if form == "dataframe_split":
        order = draw(st.permutations(range(len(names)))) if shape == "columns" else range(len(names))
        split = {
            "columns": [names[place] for place in order],
            "data": [[row[place] for place in order] for row in rows],
        }
        return {**split, "index": list(range(5, 5 + len(rows)))} if shape == "column" else split
    if form == "dataframe_records" or shape == "records" or (form == "instances" and shape == "columns"):
        return [dict(zip(names, row, strict=True)) for row in rows]
    if shape == "columns":
        return {name: [row[place] for row in rows] for place, name in enumerate(names)}
    return rows if shape == "lists" else [row[0] for row in rows]


@st.composite
def _spoilt(draw: st.DrawFn, content: Any) -> Any:
    """Change one place of a content: what stands there goes, is doubled, or becomes what it should not be."""
    if draw(st.booleans()) or not isinstance(content, list | dict) or not content:
        return draw(st.one_of(_ODD, st.just(content)))
    spoilt: Any = content.copy()
    place = draw(st.sampled_from(list(content) if isinstance(content, dict) else list(range(len(content)))))
    match draw(st.sampled_from(["within", "within", "within", "gone", "flat", "more", "wide"])):
        case "within":
            spoilt[place] = draw(_spoilt(content[place]))
        case "gone":
            del spoilt[place]
        case "flat":
            spoilt[place] = draw(st.one_of(_ODD, st.sampled_from(["xy", "ab", 7])))
        case "wide" if isinstance(spoilt, dict):
            spoilt |= {f"more{number}": draw(_ODD) for number in range(_MOST_COLUMNS - len(spoilt))}
        case _ if isinstance(spoilt, dict):
            spoilt["extra"] = draw(st.one_of(_ODD, st.just(content[place])))
        case _:
            spoilt.append(draw(st.one_of(_ODD, st.just(content[place]))))
    return spoilt


@st.composite
def _surrounded(draw: st.DrawFn, document: dict[str, Any]) -> Any:
    """Leave a document as it is, or put more beside its one form."""
    (content,) = document.values()
    return draw(st.sampled_from([
        document, document, document, {**document, "params": {"depth": 2}}, {**document, "params": {"depth": "deep"}},
        {**document, "params": 7}, {**document, "extra": 1}, {**document, "instances": content}, {"other": content},
        [document], content, {}, {**document, "signature_name": "serving_default"},
    ]))  # fmt: skip


def _json(draw: st.DrawFn, document: Any, fault: str) -> Body:
    text = json.dumps(document, ensure_ascii=draw(st.booleans())).replace(f'"{_TOO_LARGE}"', "1e999")
    content, content_type = text.encode(errors="surrogatepass"), JSON
    if fault == "type":
        content_type = draw(st.sampled_from([
            f"{JSON}; charset=utf-8", f"{JSON};charset=UTF-8", f"{JSON}; charset=utf-16", f"{JSON};charset=latin-1",
            f"{JSON}; version=1", f"{JSON}lines", "Application/JSON", "text/csv", "text/plain", "", f" {JSON}",
        ]))  # fmt: skip
    if fault == "bytes":
        content = draw(st.sampled_from([
            content[:-1], b"\xef\xbb\xbf" + content, b" \n" + content, content + b"}", b"\xff" + content,
            text.encode("utf-16", errors="surrogatepass"), content.replace(b'"', b"'"), b"", b"null", b"7", b'"a"',
        ]))  # fmt: skip
    return Body(content[:MOST_BYTES], content_type)


def _csv(draw: st.DrawFn, names: list[str], rows: list[list[Any]], *, is_sound: bool) -> Body:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator=draw(st.sampled_from(["\n", "\r\n"])))
    writer.writerow(names)
    writer.writerows([["" if value is None else value for value in row] for row in rows])
    content = buffer.getvalue().encode(errors="replace")
    if is_sound:
        return Body(content[:MOST_BYTES], "text/csv")
    content_type = draw(st.sampled_from(["text/csv", "text/csv; charset=utf-8", "text/csv; charset=latin-1"]))
    spoilt = [content, content, content.partition(b"\n")[2], content + b",,,\n", content + b'"', b"\xff" + content, b""]
    return Body(draw(st.sampled_from(spoilt))[:MOST_BYTES], content_type)


def _parquet(draw: st.DrawFn, names: list[str], rows: list[list[Any]], *, is_sound: bool) -> Body:
    buffer = io.BytesIO()
    columns = {name: [row[place] for row in rows] for place, name in enumerate(names)}
    frame = pd.DataFrame({name: _of_one_type(column) for name, column in columns.items()})
    frame.to_parquet(buffer)
    content = buffer.getvalue()
    return Body(content if is_sound or draw(st.booleans()) else content[:-9], "application/vnd.apache.parquet")


def _of_one_type(column: list[Any]) -> list[Any]:
    if len(set(map(type, column))) == 1 and isinstance(column[0], bool | float):
        return column
    if all(type(value) is int and abs(value) < 2**63 for value in column):
        return column
    return [str(value).encode("ascii", "replace").decode() for value in column]
