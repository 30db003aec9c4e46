"""A logged request and its answer as rows: one a record that was asked about, one value a field.

Every form of MLflow's requests is read (JSON with the tokens NaN and Infinity too, CSV, Parquet), the clouds'
`instances`, and the chats and completions of OpenAI's API, which vLLM and others have too. Of a chat its figures are
taken (messages, characters, tokens), not its text. What is no number is a missing value.
"""

from __future__ import annotations

import io
import json
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
import pandas as pd

from monitoring.parquet import ParquetFile, UnreadableError, reading

if TYPE_CHECKING:
    from collections.abc import Mapping

PREDICTION = "prediction"
"""The name of an answer, or the first part of the names of an answer's fields."""
JSON, CSV, PARQUET = "application/json", "text/csv", "application/vnd.apache.parquet"

_Document = dict[str, Any]
_MOST_PARTS = 64
"""Of a list within an answer, such as the probabilities of classes; a longer one is an embedding, and left out."""


class Asked(NamedTuple):
    """One record of a request: its fields, and those of its answer; none where there is no answer to it."""

    inputs: dict[str, Any]
    outputs: dict[str, Any]


def records(
    request: bytes, response: bytes, content_type: str = JSON, types: Mapping[str, str] | None = None
) -> list[Asked] | None:
    """Read the records of one request.

    Args:
        request: the body as it was sent.
        response: the body of the answer, JSON.
        content_type: the request's.
        types: of a CSV's columns as the server reads them, by name (pandas' names of types); without them the values
            decide, as they do for MLflow's server of a model without a signature.

    Returns:
        A record each; None where the body cannot be read, or has no form that is known.
    """
    answer = parse_json(response, nan=None)
    answer = answer if isinstance(answer, dict) else {}
    kind = content_type.partition(";")[0].strip().lower()
    if kind in {CSV, PARQUET}:
        return _answered(_table(request, types if kind == CSV else None, kind), answer)
    document = parse_json(request, nan=None)
    if not isinstance(document, dict):
        return None
    if isinstance(document.get("messages"), list) or isinstance(document.get("prompt"), str):
        return [Asked(_chat(document), _usage(answer))]
    return _answered(_inputs(document), answer)


def parse_json(body: bytes, nan: float | None = math.nan) -> Any:  # noqa: ANN401 - whatever JSON holds
    """Parse JSON as MLflow's server does, which takes the tokens NaN and Infinity; None for what it does not take.

    Args:
        body: as it was sent.
        nan: what NaN becomes.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(body, parse_constant=lambda word: nan if word == "NaN" else float(word))
    except (ValueError, RecursionError):
        return None


def _answered(inputs: list[dict[str, Any]] | None, answer: _Document) -> list[Asked] | None:
    if inputs is None:
        return None
    outputs = _outputs(answer.get("predictions"), len(inputs))
    return [Asked(row, said) for row, said in zip(inputs, outputs, strict=True)]


def _table(body: bytes, types: Mapping[str, str] | None, kind: str) -> list[dict[str, Any]] | None:
    """The rows of a table, read as MLflow's server reads it."""
    try:
        with reading():
            if kind == CSV:
                frame = pd.read_csv(io.StringIO(body.decode()), dtype=types)
            else:
                frame = ParquetFile(file := io.BytesIO(body)).read(file).to_pandas()
    except UnreadableError:
        # Of a CSV that is not UTF-8, is empty or breaks off, and of values that are not of the types.
        return None
    columns = {
        str(name): [None if pd.api.types.is_scalar(value) and pd.isna(value) else value for value in column]
        for name, column in zip(
            frame.columns, (frame.iloc[:, place].tolist() for place in range(frame.shape[1])), strict=True
        )
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _inputs(document: _Document) -> list[dict[str, Any]] | None:
    if "dataframe_split" in document:
        return _split(document["dataframe_split"])
    for form in ("dataframe_records", "instances", "inputs"):
        if form not in document:
            continue
        content = document[form]
        if isinstance(content, list):
            return [_row(row) for row in content]
        if isinstance(content, dict):
            return _columns(content)
        # MLflow takes a scalar for the one value of a model without names.
        return [_row(content)] if form == "inputs" and isinstance(content, int | float | str) else None
    return None


def _columns(content: _Document) -> list[dict[str, Any]]:
    """A list a column; scalars are those of one record, or of all."""
    lists = [column for column in content.values() if isinstance(column, list)]
    rows = min(map(len, lists)) if lists else 1
    columns = [column if isinstance(column, list) else [column] * rows for column in content.values()]
    return [dict(zip(content, row, strict=True)) for row in zip(*columns, strict=False)]


def _split(table: Any) -> list[dict[str, Any]] | None:  # noqa: ANN401 - whatever JSON holds
    rows = table.get("data") if isinstance(table, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        return None
    columns = table.get("columns")
    if columns is None:
        columns = range(max(map(len, rows), default=0))
    elif not isinstance(columns, list):
        return None
    names = [str(name) for name in columns]
    return [dict(zip(names, row, strict=False)) for row in rows]


def _row(row: Any) -> dict[str, Any]:  # noqa: ANN401 - whatever JSON holds
    if isinstance(row, dict):
        return row
    values = row if isinstance(row, list) else [row]
    return {str(index): value for index, value in enumerate(values) if isinstance(value, int | float | str)}


def _outputs(predictions: Any, number: int) -> list[dict[str, Any]]:  # noqa: ANN401 - whatever JSON holds
    """What was answered to each record: from a list of answers, from a list a part, or the one answer to one record."""
    if isinstance(predictions, list) and len(predictions) == number:
        return [_prediction(value, PREDICTION) for value in predictions]
    if isinstance(predictions, dict) and predictions:
        parts = list(predictions.values())
        if all(isinstance(part, list) and len(part) == number for part in parts):
            return [
                _prediction(dict(zip(predictions, row, strict=True)), PREDICTION) for row in zip(*parts, strict=True)
            ]
    if number == 1 and predictions is not None and not isinstance(predictions, list):
        return [_prediction(predictions, PREDICTION)]
    return [{} for _ in range(number)]


def _prediction(value: Any, name: str) -> dict[str, Any]:  # noqa: ANN401 - whatever JSON holds
    """An answer's numbers and texts, by name; those of a list by their places."""
    if isinstance(value, int | float | str):
        return {name: value}
    parts: list[tuple[Any, Any]] = list(value.items()) if isinstance(value, dict) else []
    if isinstance(value, list) and len(value) <= _MOST_PARTS:
        parts = list(enumerate(value))
    found: dict[str, Any] = {}
    for key, part in parts:
        found |= _prediction(part, f"{name}.{key}")
    return found


def _chat(document: _Document) -> dict[str, Any]:
    settings = {name: document.get(name) for name in ("model", "max_tokens", "temperature")}
    messages = document.get("messages")
    if isinstance(messages, list):
        texts = [message.get("content") for message in messages if isinstance(message, dict)]
        settings["messages"] = len(messages)
    else:
        texts = [document["prompt"]]
    settings["characters"] = sum(len(text) for text in texts if isinstance(text, str))
    return {name: value for name, value in settings.items() if isinstance(value, int | float | str)}


def _usage(answer: _Document) -> dict[str, Any]:
    usage, choices = answer.get("usage"), answer.get("choices")
    found = {}
    if isinstance(usage, dict):
        found = {f"{PREDICTION}.{name}": usage.get(name) for name in ("prompt_tokens", "completion_tokens")}
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        found[f"{PREDICTION}.finish_reason"] = choices[0].get("finish_reason")
    return {name: value for name, value in found.items() if isinstance(value, int | float | str)}
