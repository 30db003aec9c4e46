"""Whether a request lacks what the signature requires, so that a model that raises is not to blame.

JSON's null, a CSV's empty cell, NaN and Infinity reach a model as missing or infinite values. Few models take these.
Where one raises on them, the client sent what the signature does not have, and the answer is MLflow's: 400.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlflow.types import Schema


def lacks_values(data: Any, schema: Schema | None) -> bool:  # noqa: ANN401 - whatever MLflow's parser makes
    """Whether a required input has a missing or an infinite value.

    Args:
        data: what MLflow's parser made of a body: a frame, an array, arrays by name, records, or a scalar.
        schema: the signature's inputs; without it every input is required.
    """
    required = set(schema.required_input_names()) if schema is not None and schema.has_input_names() else None
    return any(
        _has_hole(values) for name, values in _columns(data) if required is None or name is None or name in required
    )


def _columns(data: Any) -> Iterator[tuple[Any, Any]]:  # noqa: ANN401
    if isinstance(data, pd.DataFrame):
        for place, name in enumerate(data.columns):
            yield name, data.iloc[:, place].to_numpy()
    elif isinstance(data, dict):
        yield from data.items()
    elif isinstance(data, list) and data and all(isinstance(record, dict) for record in data):
        for name in dict.fromkeys(name for record in data for name in record):
            # MLflow makes a frame of them, in which what one record lacks is missing.
            yield name, [record.get(name) for record in data]
    else:
        # It has no names, so MLflow takes it for the only input.
        yield None, data


def _has_hole(values: Any) -> bool:  # noqa: ANN401
    try:
        array = np.asarray(values)
    except ValueError:
        # Rows of several lengths, one after the other.
        return any(map(_has_hole, values))
    if array.dtype.kind in "fc":
        return not bool(np.isfinite(array).all())
    if array.dtype.kind != "O":
        return bool(array.dtype.kind in "mM" and np.isnat(array).any())
    return any(_is_hole(value) for value in array.ravel())


def _is_hole(value: Any) -> bool:  # noqa: ANN401
    if isinstance(value, list | np.ndarray):
        return _has_hole(value)
    if isinstance(value, float | np.floating):
        return not np.isfinite(value)
    return value is None or value is pd.NA or value is pd.NaT
