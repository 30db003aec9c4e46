"""Taking the values of named fields out of a request's or an answer's body, before it is written anywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Collection

_COLUMNS, _ROWS = "columns", "data"


def redact(body: bytes, fields: Collection[str]) -> bytes:
    """A JSON body with null in the place of every value of these fields, at any depth.

    A table as `dataframe_split` has it loses the columns of these names. A body that is no JSON is left out whole, as
    nobody can say what is in it.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return b""
    return orjson.dumps(_without(document, fields))


def _without(value: Any, fields: Collection[str]) -> Any:  # noqa: ANN401 - whatever JSON holds
    if isinstance(value, list):
        return [_without(item, fields) for item in value]
    if not isinstance(value, dict):
        return value
    columns, rows = value.get(_COLUMNS), value.get(_ROWS)
    if isinstance(columns, list) and isinstance(rows, list):
        hidden = {index for index, name in enumerate(columns) if name in fields}
        value = {**value, _ROWS: [_masked(row, hidden) for row in rows]}
    return {name: None if name in fields else _without(item, fields) for name, item in value.items()}


def _masked(row: Any, hidden: set[int]) -> Any:  # noqa: ANN401 - whatever JSON holds
    if not isinstance(row, list):
        return row
    return [None if index in hidden else value for index, value in enumerate(row)]
