"""Turning a model's raw output into the JSON body that MLflow's own server would send.

Arrays of plain numbers and strings are encoded by orjson; anything else by MLflow's encoder, so that both
servers always say the same. Source: mlflow 3.17, `predictions_to_json` and `_get_jsonable_obj`.
"""

from __future__ import annotations

from io import StringIO
from typing import Any

import numpy as np
import orjson
import pandas as pd
from mlflow.pyfunc.scoring_server import predictions_to_json

_PLAIN_KINDS = frozenset("iubU")


class Records(list[dict[str, float]]):
    """One record a row, of finite Python numbers."""


def encode(raw: Any) -> bytes:  # noqa: ANN401 - a model may return anything
    """`{"predictions": …}` for whatever the model returned."""
    plain = _plain(raw)
    if plain is None:
        buffer = StringIO()
        predictions_to_json(raw, buffer)
        return buffer.getvalue().encode()
    return orjson.dumps({"predictions": plain})


def _plain(raw: Any) -> Any:  # noqa: ANN401
    """The output as lists, where orjson and MLflow's encoder agree on it; None otherwise."""
    if isinstance(raw, Records):
        return raw
    if isinstance(raw, np.ndarray):
        # JSON has no NaN: MLflow writes the token `NaN`, orjson would write null.
        plain = raw.dtype.kind in _PLAIN_KINDS or (raw.dtype.kind == "f" and np.isfinite(raw).all())
        return raw.tolist() if plain else None
    if isinstance(raw, pd.Series):
        return _records([0 if raw.name is None else raw.name], [raw])
    if isinstance(raw, pd.DataFrame):
        return _records(list(raw.columns), [raw.iloc[:, place] for place in range(raw.shape[1])])
    return _tensors(raw) if isinstance(raw, dict) else None


def _tensors(raw: dict[Any, Any]) -> dict[str, Any] | None:
    """Named arrays, as ONNX models answer tensors."""
    lists = {key: _plain(value) for key, value in raw.items() if type(key) is str and isinstance(value, np.ndarray)}
    return lists if lists and len(lists) == len(raw) and None not in lists.values() else None


def _records(names: list[Any], columns: list[pd.Series]) -> list[dict[str, Any]] | None:
    """One record a row, as pandas' `to_dict` gives it and many times as fast; None where a value is not plain."""
    # A name that is neither text nor a number is left to MLflow's encoder, and a repeated one to pandas.
    if len(set(names)) < len(names) or not all(type(name) in (str, int) for name in names):
        return None
    lists = [_plain(column.to_numpy()) for column in columns]
    if None in lists:
        return None
    keys = [str(name) for name in names]
    return [dict(zip(keys, row, strict=True)) for row in zip(*lists, strict=True)]
