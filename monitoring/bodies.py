"""A logged request and its answer as rows: one a record that was asked about, one value a field.

Every form of MLflow's requests is read, the clouds' `instances`, and the chats and completions of OpenAI's API, which
vLLM and others have too. Of a chat its figures are taken (messages, characters, tokens), not its text.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson

PREDICTION = "prediction"
"""The name of an answer, or the first part of the names of an answer's fields."""

_Document = dict[str, Any]


class Asked(NamedTuple):
    """One record of a request: its fields, and those of its answer; none where there is no answer to it."""

    inputs: dict[str, Any]
    outputs: dict[str, Any]


def records(request: bytes, response: bytes) -> list[Asked]:
    """The records of one request; none where its body has no form that is known.

    Args:
        request: the body as it was sent.
        response: the body of the answer.
    """
    document, answer = _document(request), _document(response)
    if isinstance(document.get("messages"), list) or isinstance(document.get("prompt"), str):
        return [Asked(_chat(document), _usage(answer))]
    inputs = _inputs(document)
    predictions = answer.get("predictions")
    if not isinstance(predictions, list) or len(predictions) != len(inputs):
        return [Asked(row, {}) for row in inputs]
    return [Asked(row, _prediction(value)) for row, value in zip(inputs, predictions, strict=True)]


def _document(body: bytes) -> _Document:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return document if isinstance(document, dict) else {}


def _inputs(document: _Document) -> list[dict[str, Any]]:
    split = document.get("dataframe_split")
    if isinstance(split, dict):
        return _split(split)
    rows = document.get("dataframe_records") or document.get("instances")
    if isinstance(rows, list):
        return [_row(row) for row in rows]
    inputs = document.get("inputs")
    if isinstance(inputs, dict) and all(isinstance(column, list) for column in inputs.values()):
        return [dict(zip(inputs, row, strict=True)) for row in zip(*inputs.values(), strict=False)]
    return [_row(row) for row in inputs] if isinstance(inputs, list) else []


def _split(table: _Document) -> list[dict[str, Any]]:
    columns, rows = table.get("columns"), table.get("data")
    if not isinstance(columns, list) or not isinstance(rows, list):
        return []
    names = [str(name) for name in columns]
    return [dict(zip(names, row, strict=False)) for row in rows if isinstance(row, list)]


def _row(row: Any) -> dict[str, Any]:  # noqa: ANN401 - whatever JSON holds
    if isinstance(row, dict):
        return row
    values = row if isinstance(row, list) else [row]
    return {str(index): value for index, value in enumerate(values) if isinstance(value, int | float | str)}


def _prediction(value: Any) -> dict[str, Any]:  # noqa: ANN401 - whatever JSON holds
    if isinstance(value, dict):
        return {f"{PREDICTION}.{key}": item for key, item in value.items() if isinstance(item, int | float | str)}
    return {PREDICTION: value} if isinstance(value, int | float | str) else {}


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
