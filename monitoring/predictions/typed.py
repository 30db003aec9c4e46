"""The one schema of predictions: typed columns, whatever platform logged them.

Fixed columns are in `FIXED`; each input is `input.<field>`, each part of an answer `output.<field>`. One row is one
record of a request. Numbers are numbers, a column whose values mix types is text, and what is nested is its JSON.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from monitoring.bodies import JSON, Asked, records

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

INPUT, OUTPUT = "input.", "output."

FIXED = pa.schema(
    [
        ("request_id", pa.string()),
        ("row", pa.int32()),
        ("time", pa.timestamp("us", tz="UTC")),
        ("status", pa.int16()),
        ("seconds", pa.float32()),
        ("mirrored", pa.bool_()),
        ("readable", pa.bool_()),
    ]
)
"""`row` is the record's place in its request; `time` when it was answered; `mirrored`: no client saw the answer.

A request without a record has a row of its own: `readable` is false where its body cannot be read, and null where it
has no rows or was not kept (capture.redact). Files of earlier releases do not have that column.
"""

_NOTHING = [Asked({}, {})]
TYPES = b"types"
"""In the metadata of a log's batch: the types by which the server reads a CSV's columns, as JSON."""
_MOST_FIELDS = 1000
"""Of one file; a client that made up names would otherwise make a column of each."""


def typed(batches: Iterable[pa.RecordBatch]) -> pa.Table:
    """The rows of a target's log, typed.

    Args:
        batches: from `captured`, of one endpoint and revision.
    """
    fixed: dict[str, list[Any]] = {name: [] for name in FIXED.names}
    found: dict[str, list[Any]] = {}
    size = 0
    for batch in batches:
        types = orjson.loads((batch.schema.metadata or {}).get(TYPES, b"null"))
        for row in batch.to_pylist():
            body = row["request"]
            read = records(body, row["response"], row["content_type"] or JSON, types) if body else []
            row["readable"] = False if read is None else True if read else None
            # A request that nobody can read was answered all the same.
            for index, asked in enumerate(read or _NOTHING):
                row["row"] = index
                for name in FIXED.names:
                    fixed[name].append(row[name])
                for prefix, fields in zip((INPUT, OUTPUT), asked, strict=True):
                    for name, value in fields.items():
                        if len(found) >= _MOST_FIELDS and prefix + name not in found:
                            continue
                        column = found.setdefault(prefix + name, [])
                        column.extend([None] * (size - len(column)))
                        column.append(value)
                size += 1
    for column in found.values():
        column.extend([None] * (size - len(column)))
    arrays = [pa.array(fixed[field.name], field.type) for field in FIXED]
    return pa.table([*arrays, *map(_array, found.values())], names=[*FIXED.names, *found])


def alike(columns: Sequence[pa.ChunkedArray]) -> pa.ChunkedArray:
    """One column of several parts whose types may differ: numbers together, all else as text."""
    kinds = {column.type for column in columns if not types.is_null(column.type)}
    if len(kinds) <= 1:
        kind = next(iter(kinds), pa.null())
    else:
        kind = pa.float64() if all(map(_is_number, kinds)) else pa.string()
    # A whole number beyond 53 bits is rounded.
    return pa.chunked_array([chunk for column in columns for chunk in column.cast(kind, safe=False).chunks], kind)


def is_kept(kind: pa.DataType) -> bool:
    """Whether a column of this type is one that `typed` makes."""
    simple = (types.is_string, types.is_binary, types.is_boolean, types.is_null, types.is_timestamp, types.is_temporal)
    return _is_number(kind) or any(holds(kind) for holds in simple) or bool(types.is_decimal(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(types.is_integer(kind) or types.is_floating(kind))


def _array(values: list[Any]) -> pa.Array:
    try:
        array = pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return pa.array(list(map(_text, values)), pa.string())
    return pa.array(list(map(_text, values)), pa.string()) if types.is_nested(array.type) else array


def _text(value: Any) -> str | None:  # noqa: ANN401 - whatever JSON holds
    if value is None or isinstance(value, str):
        return value
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:
        # A whole number beyond 64 bits, or what only Parquet has: a time with its zone, bytes.
        return str(value)


def answered(table: pa.Table, *, copies: bool) -> pa.ChunkedArray:
    """Which rows were answered, and, without `copies`, seen by a client."""
    good = pc.less(table["status"], 300)
    return good if copies else pc.and_(pc.invert(table["mirrored"]), good)
