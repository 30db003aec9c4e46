"""Reading the common JSON bodies without pandas in between.

A `Columns` reader knows a model's named scalar columns. It takes a body whose every part has the JSON type that it
knows, and whose values already have the declared types: a text is a sequence too, and must not become a row of
letters. For every other body it returns None, and MLflow's own parser decides, errors included.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from mlflow.types import DataType, Schema

Rows = list[list[Any]]

_INT32 = range(-(2**31), 2**31)
_INT64 = range(-(2**63), 2**63)
_FLOATS = {DataType.double: np.float64, DataType.float: np.float32}
_INTEGERS = {DataType.long: (np.int64, _INT64), DataType.integer: (np.int32, _INT32)}
_OTHERS = {DataType.string: str, DataType.boolean: bool}
_EXACT = 2**53
"""Below it every whole number is a double."""
_SPLIT = {"columns", "data"}


class Columns:
    """The named scalar columns of a signature.

    Args:
        schema: a signature's inputs, for which `Columns.can_read` holds.
    """

    def __init__(self, schema: Schema) -> None:
        self.names: list[str] = list(schema.input_names())
        self._types: list[DataType] = list(schema.input_types())
        self.is_numeric = all(kind in _FLOATS or kind in _INTEGERS for kind in self._types)
        kinds = set(self._types)
        self._dtype = np.result_type(*[self._numpy(kind) for kind in kinds]) if self.is_numeric else None
        self._integers = [(index, _INTEGERS[kind][1]) for index, kind in enumerate(self._types) if kind in _INTEGERS]
        self._is_uniform = self.is_numeric and len(kinds) == 1
        narrow = [index for index, kind in enumerate(self._types) if kind is DataType.float]
        # In an array of a wider type these columns have to be rounded all the same.
        self._narrow = narrow if self._dtype != np.float32 else []
        self._index = pd.Index(self.names)

    @staticmethod
    def can_read(schema: Schema | None) -> bool:
        """Whether every input is a required column of numbers, strings or booleans, with a name of its own."""
        if schema is None or schema.is_tensor_spec() or not schema.has_input_names():
            return False
        if len(set(schema.input_names())) < len(schema.inputs):
            return False
        simple = {*_FLOATS, *_INTEGERS, *_OTHERS}
        return all(
            isinstance(column.type, DataType) and column.type in simple and column.required for column in schema.inputs
        )

    def rows(self, document: Any) -> Rows | None:  # noqa: ANN401 - parsed JSON
        """The body's values in the signature's order, or None where MLflow's parser should read it."""
        if type(document) is not dict or len(document) != 1:
            return None
        ((form, content),) = document.items()
        try:
            if form == "dataframe_split":
                return self._split(content)
            if form in {"dataframe_records", "instances"}:
                return self._records(content, is_exact=form == "instances")
            return self._by_column(content) if form == "inputs" else None
        except (KeyError, ValueError):
            # A column is missing, or columns differ in length.
            return None

    def array(self, rows: Rows) -> np.ndarray | None:
        """The rows as one array of the signature's common type; None where a value has another type."""
        for index, allowed in self._integers:
            for row in rows:
                if type(row[index]) is not int or row[index] not in allowed:
                    return None
        try:
            array: np.ndarray = np.array(rows)
        except ValueError:
            return None
        if array.dtype.kind not in "if" or array.shape != (len(rows), len(self.names)):
            return None
        if self._dtype == np.float32 or self._narrow:
            if not rounds_alike(array):
                return None
            if self._narrow:
                array = array.astype(self._dtype)
                array[:, self._narrow] = array[:, self._narrow].astype(np.float32)
                return array
        return array.astype(self._dtype, copy=False)

    def frame(self, rows: Rows) -> pd.DataFrame | None:
        """The rows as the frame that MLflow's schema enforcement would make; None as in `array`."""
        if self._is_uniform:
            array = self.array(rows)
            return None if array is None else pd.DataFrame(array, columns=self._index, copy=False)
        columns = self.columns(rows)
        return None if columns is None else pd.DataFrame(columns, copy=False)

    def columns(self, rows: Rows) -> dict[str, Any] | None:
        """The rows column by column, each of its declared type; None as in `array`."""
        columns = {}
        for name, kind, values in zip(self.names, self._types, zip(*rows, strict=True), strict=True):
            column = _column(kind, values)
            if column is None:
                return None
            columns[name] = column
        return columns

    @staticmethod
    def _numpy(kind: DataType) -> Any:  # noqa: ANN401
        return _FLOATS.get(kind) or _INTEGERS[kind][0]

    def _split(self, content: Any) -> Rows | None:  # noqa: ANN401
        if type(content) is not dict or content.keys() != _SPLIT:
            return None
        given, data = content["columns"], content["data"]
        if not (_are(list, (given, data)) and _are(list, data) and set(map(len, data)) == {len(given)}):
            return None
        if given == self.names:
            return data  # type: ignore[no-any-return]
        if not _are(str, given):
            return None
        places = {name: index for index, name in enumerate(given)}
        if len(places) != len(given):
            return None
        order = [places[name] for name in self.names]
        return [[row[index] for index in order] for row in data]

    def _records(self, content: Any, *, is_exact: bool) -> Rows | None:  # noqa: ANN401
        """One record a row; MLflow makes columns of `instances`, so that one with more fields may break the others."""
        if type(content) is not list or not _are(dict, content):
            return None
        if is_exact and set(map(len, content)) != {len(self.names)}:
            return None
        return [[row[name] for name in self.names] for row in content]

    def _by_column(self, content: Any) -> Rows | None:  # noqa: ANN401
        """A list a column; of scalars MLflow makes one record."""
        if type(content) is not dict or len(content) != len(self.names):
            return None
        columns = [content[name] for name in self.names]
        if not _are(list, columns):
            return None
        return [list(row) for row in zip(*columns, strict=True)] or None


def _are(kind: type, values: Any) -> bool:  # noqa: ANN401
    """Whether there are values, and all of just this type."""
    return set(map(type, values)) == {kind}


def rounds_alike(array: np.ndarray) -> bool:
    """Whether numbers become the same float32 by way of a double and by way of a 64-bit integer; MLflow has both."""
    return bool(((array > -_EXACT) & (array < _EXACT)).all())


def _column(kind: DataType, values: tuple[Any, ...]) -> Any:  # noqa: ANN401
    if kind in _FLOATS:
        found = set(map(type, values))
        if not found <= {float, int}:
            return None
        column = np.array(values, _FLOATS[kind])
        return column if kind is DataType.double or int not in found or rounds_alike(column) else None
    if kind in _INTEGERS:
        dtype, allowed = _INTEGERS[kind]
        return np.array(values, dtype) if all(type(v) is int and v in allowed for v in values) else None
    if not _are(_OTHERS[kind], values):
        return None
    if kind is DataType.boolean:
        return np.array(values)
    # NumPy, of which MLflow makes use for some forms, drops a text's last characters where they are NUL.
    return None if "\0" in "".join(values) else list(values)
