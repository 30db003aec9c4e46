"""Refuse a body that cannot fit the model's signature, before MLflow parses it.

MLflow makes a pandas column for each name in a body, known or not, in 0.1 ms each: a header of 60 kB of commas takes
ten seconds, and 5,000 records with one unknown name each take minutes and gigabytes. Counting the names takes
milliseconds. MLflow ignores unknown names, so a limited number of them is accepted. A Parquet file of some kilobytes
can stand for a billion rows, so what it would take is counted too.
"""

from __future__ import annotations

import csv
import io
import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mlflow.types import Schema

MORE_COLUMNS = 256
"""Columns beside those of the signature that a body may have."""
ANY_COLUMNS = 10_000
"""Columns that a body may have where the signature names none."""
DEPTH = 64
"""Lists and objects within each other; NumPy has at most 64 dimensions."""
FREE, TIMES = 16 * 2**20, 256
"""A Parquet file may take 16 MiB and 256 times its own size in memory."""
_VALUE = 8
"""Bytes of a value, whatever its type."""
_BEGINNING = 2**16
"""Bytes of a CSV in which too many columns are looked for first."""
_TEXT = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)', re.DOTALL)
"""A text, or what is left of a body whose last text does not end; else it would be looked for from each quote anew."""
_STEPS = np.zeros(256, np.int8)
_STEPS[list(b"[{")], _STEPS[list(b"]}")] = 1, -1


class Shape:
    """Check bodies for one model.

    Args:
        schema: the signature's inputs; None where there is none.
    """

    def __init__(self, schema: Schema | None) -> None:
        named = schema is not None and schema.has_input_names()
        self._most = len(schema.inputs) + MORE_COLUMNS if named and schema is not None else ANY_COLUMNS

    def misfit(self, body: bytes, content_type: str) -> str:
        """Return why no body of this shape can be for this model; empty where MLflow is to parse it."""
        kind = content_type.partition(";")[0].strip().lower()
        if kind == "text/csv":
            columns = _csv_columns(body, self._most)
        elif kind == "application/vnd.apache.parquet":
            if size := _parquet_size(body):
                return f"the body has {len(body)} bytes and would take {size >> 20} MiB in memory"
            columns = _parquet_columns(body)
        elif kind == "application/json":
            if _depth(body) > DEPTH:
                return f"the body has more than {DEPTH} lists and objects within each other"
            columns = _json_columns(body)
        else:
            return ""
        if columns <= self._most:
            return ""
        return f"the body has at least {columns} columns, and this model takes at most {self._most}"


def _parquet_columns(body: bytes) -> int:
    """The columns of a file; 0 where MLflow is to say what is wrong with it."""
    described = _described(body)
    return 0 if described is None else int(described.num_columns)


def _parquet_size(body: bytes) -> int:
    """The bytes that a file would take; 0 where that is allowed. Equal values are kept once, in any number."""
    described, allowed = _described(body), FREE + TIMES * len(body)
    if described is None:
        return 0
    # Not by column: PyArrow 25 ends the process where the description of one has a fault.
    groups = [described.row_group(place) for place in range(described.num_row_groups)]
    rows = max(described.num_rows, sum(group.num_rows for group in groups))
    size = max(rows * described.num_columns * _VALUE, sum(group.total_byte_size for group in groups))
    return size if size > allowed else _texts_above(body, allowed)


def _described(body: bytes) -> Any:  # noqa: ANN401 - Parquet's own description, where PyArrow is there
    try:
        import pyarrow as pa  # noqa: PLC0415 - not every model's environment has it
        import pyarrow.parquet as pq  # noqa: PLC0415
    except ImportError:
        return None
    try:
        return pq.read_metadata(io.BytesIO(body))
    except (OSError, ValueError, pa.ArrowException):
        return None


def _texts_above(body: bytes, allowed: int) -> int:
    """How long the texts are together; 0 where that is allowed, and where MLflow is to say what is wrong with them."""
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.compute as pc  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    try:
        kinds = pq.read_schema(io.BytesIO(body))
        texts = [field.name for field in kinds if pa.types.is_string(field.type) or pa.types.is_binary(field.type)]
        if not texts:
            return 0
        # As places in a dictionary, of which each text is in memory once.
        places = pq.ParquetFile(io.BytesIO(body), read_dictionary=texts).read(columns=texts)
        size = 0
        for column in places.columns:
            column.validate(full=True)
            # Of two columns of one name only one is read so.
            for chunk in column.chunks if pa.types.is_dictionary(column.type) else ():
                lengths = pc.take(pc.binary_length(chunk.dictionary), chunk.indices)
                size += pc.sum(lengths.cast(pa.int64())).as_py() or 0
    except (OSError, ValueError, pa.ArrowException):
        return 0
    return size if size > allowed else 0


def _depth(body: bytes) -> int:
    """How deep lists and objects are; 0 where that is allowed."""
    if body.count(b"[") + body.count(b"{") <= DEPTH or (depth := _brackets(body)) <= DEPTH:
        return 0
    return depth if b'"' not in body else _brackets(_TEXT.sub(b"", body))


def _brackets(body: bytes) -> int:
    return int(np.cumsum(_STEPS[np.frombuffer(body, np.uint8)], dtype=np.int64).max(initial=0))


def _csv_columns(body: bytes, most: int) -> int:
    """The fields of the longest record, or as many as are too many; 0 where there cannot be too many."""
    if body.count(b",") < most:
        return 0
    crude = max(line.count(b",") for line in body.splitlines() or [b""]) + 1
    if crude <= most or b'"' not in body:
        return crude
    # A comma within quotes ends no field. Reading all of 2 MB of commas would hold the interpreter for 0.1 s.
    size = _BEGINNING
    while (fields := _csv_fields(body[:size], crude)) <= most and size < len(body):
        size *= 8
    return fields


def _csv_fields(body: bytes, crude: int) -> int:
    previous = csv.field_size_limit(len(body) + 1)
    try:
        return max(map(len, csv.reader(io.StringIO(body.decode("utf-8", "replace"), newline=""))), default=0)
    except csv.Error:
        # Such as a NUL: MLflow's parser says what is wrong with it, at no such price.
        return crude
    finally:
        csv.field_size_limit(previous)


def _json_columns(body: bytes) -> int:
    """The names of all columns, in whichever of MLflow's forms; 0 where it is none of them."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return 0
    if not isinstance(document, dict):
        return 0
    return max((_columns(form, content) for form, content in document.items()), default=0)


def _columns(form: str, content: Any) -> int:  # noqa: ANN401 - parsed JSON
    if form == "dataframe_split" and isinstance(content, dict):
        return max(_length(content.get("columns")), _longest(content.get("data")))
    if form == "inputs" and isinstance(content, dict):
        return len(content)
    if form in {"dataframe_records", "instances", "inputs"} and isinstance(content, list):
        return len(set().union(*(record for record in content if isinstance(record, dict))))
    return 0


def _length(content: Any) -> int:  # noqa: ANN401
    return len(content) if isinstance(content, list) else 0


def _longest(rows: Any) -> int:  # noqa: ANN401
    if not isinstance(rows, list):
        return 0
    lengths: Iterable[int] = map(_length, rows)
    return max(lengths, default=0)
