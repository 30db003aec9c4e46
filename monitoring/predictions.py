"""The prediction log as a table: the inputs that clients sent, one column a feature, and what was answered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pyarrow as pa

PREDICTION = "prediction"
"""The column that holds the answer."""

_OK = 200


def table(batches: Iterable[pa.RecordBatch], revision: str, *, limit: int = 100_000) -> pd.DataFrame:
    """The rows that a revision answered for clients, newest last.

    Args:
        batches: from a target's `captured`.
        revision: whose answers; mirrored copies are left out.
        limit: at most so many rows, the newest.
    """
    rows: list[dict[str, Any]] = []
    for batch in batches:
        for row in batch.to_pylist():
            if row["revision"] == revision and not row["mirrored"] and row["status"] == _OK:
                rows += _rows(row["request"], row["response"])
        if len(rows) > 2 * limit:
            rows = rows[-limit:]
    return pd.DataFrame(rows[-limit:])


def _rows(request: bytes, response: bytes) -> list[dict[str, Any]]:
    """The records of one request, with the answer of each; none where its form has no columns."""
    try:
        document, answer = orjson.loads(request), orjson.loads(response)
    except orjson.JSONDecodeError:
        return []
    inputs = _inputs(document) if isinstance(document, dict) else []
    predictions = answer.get("predictions") if isinstance(answer, dict) else None
    if not isinstance(predictions, list) or len(predictions) != len(inputs):
        return inputs
    return [{**row, **_prediction(value)} for row, value in zip(inputs, predictions, strict=True)]


def _inputs(document: dict[str, Any]) -> list[dict[str, Any]]:
    split = document.get("dataframe_split")
    if isinstance(split, dict) and "columns" in split:
        return [dict(zip(split["columns"], row, strict=False)) for row in split.get("data", [])]
    records = document.get("dataframe_records") or document.get("instances")
    if isinstance(records, list):
        return [row if isinstance(row, dict) else _numbered(row) for row in records]
    inputs = document.get("inputs")
    if isinstance(inputs, dict) and all(isinstance(column, list) for column in inputs.values()):
        return [dict(zip(inputs, row, strict=True)) for row in zip(*inputs.values(), strict=False)]
    return [_numbered(row) for row in inputs] if isinstance(inputs, list) else []


def _numbered(row: Any) -> dict[str, Any]:  # noqa: ANN401
    values = row if isinstance(row, list) else [row]
    return {str(index): value for index, value in enumerate(values) if isinstance(value, int | float | str)}


def _prediction(value: Any) -> dict[str, Any]:  # noqa: ANN401
    if isinstance(value, dict):
        return {f"{PREDICTION}.{key}": item for key, item in value.items() if isinstance(item, int | float | str)}
    return {PREDICTION: value} if isinstance(value, int | float | str) else {}
