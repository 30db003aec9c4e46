"""Taking the values of named fields out of a request's or an answer's body, before it is written anywhere."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Collection

_COLUMNS, _ROWS = "columns", "data"
_UNNAMED = {"inputs", "instances", _ROWS}
"""Where MLflow's forms of a request may have rows without the names of their fields."""


def redact(body: bytes, fields: Collection[str], content_type: str = "application/json") -> bytes:
    """A body with null in the place of every value of these fields, at any depth; in a CSV with an empty cell.

    A table as `dataframe_split` has it loses the columns of these names. Rows whose fields have no names, and a body
    that is neither a JSON object nor a CSV, are left out whole, as their fields are not known.
    """
    if content_type.partition(";")[0].strip() == "text/csv":
        return _redact_csv(body, fields)
    try:
        return _redact_json(body, fields)
    except (ValueError, TypeError, RecursionError):
        # No JSON, or nested deeper than can be written again.
        return b""


def _redact_json(body: bytes, fields: Collection[str]) -> bytes:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        # MLflow's server takes NaN and Infinity, which JSON does not have.
        document = json.loads(body)
        return json.dumps(_without(document, fields)).encode() if isinstance(document, dict) else b""
    return orjson.dumps(_without(document, fields)) if isinstance(document, dict) else b""


def _redact_csv(body: bytes, fields: Collection[str]) -> bytes:
    try:
        header, *rows = csv.reader(io.StringIO(body.decode(), newline=""), strict=True)
    except (ValueError, csv.Error):
        return b""
    if any(len(row) > len(header) for row in rows):
        # Of a longer row the first cell is no column's.
        return b""
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(header)
    kept = [name not in fields for name in header]
    writer.writerows([[cell if keep else "" for cell, keep in zip(row, kept, strict=False)] for row in rows])
    return written.getvalue().encode()


def _without(value: Any, fields: Collection[str]) -> Any:  # noqa: ANN401 - whatever JSON holds
    if isinstance(value, list):
        return [_without(item, fields) for item in value]
    if not isinstance(value, dict):
        return value
    columns, rows = value.get(_COLUMNS), value.get(_ROWS)
    if isinstance(columns, list) and isinstance(rows, list):
        named = [not (isinstance(name, str) and name in fields) for name in columns]
        return {**_without({name: item for name, item in value.items() if name != _ROWS}, fields),
                _ROWS: [_masked(row, named) for row in rows]}  # fmt: skip
    return {
        name: None if name in fields else _named(item, fields) if name in _UNNAMED else _without(item, fields)
        for name, item in value.items()
    }


def _named(value: Any, fields: Collection[str]) -> Any:  # noqa: ANN401 - whatever JSON holds
    """Records, or a column each; rows without names are left out."""
    if isinstance(value, list):
        return [_without(item, fields) if isinstance(item, dict) else None for item in value]
    return _without(value, fields) if isinstance(value, dict) else None


def _masked(row: Any, kept: list[bool]) -> Any:  # noqa: ANN401 - whatever JSON holds
    if not isinstance(row, list) or len(row) > len(kept):
        return None
    return [value if keep else None for value, keep in zip(row, kept, strict=False)]
