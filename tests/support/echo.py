"""A custom MLflow model that answers what it was asked: every value with its type, so that no difference is lost."""

from __future__ import annotations

import mlflow
import numpy as np
import pandas as pd


class Echo(mlflow.pyfunc.PythonModel):
    """Tells the type and the parts of its input."""

    def predict(self, context, model_input, params=None):
        """Answer one text, of the input and the parameters."""
        return [_told(model_input), _told(params)]


def _told(value):
    if isinstance(value, pd.DataFrame):
        columns = [
            (repr(name), str(value[name].dtype), list(map(_told, value[name]))) for name in dict.fromkeys(value.columns)
        ]
        return f"frame {columns}"
    if isinstance(value, np.ndarray):
        return f"array {value.dtype} {value.shape} {[_told(item) for item in value.ravel().tolist()]}"
    if isinstance(value, dict):
        return f"dict { {name: _told(item) for name, item in value.items()} }"
    if isinstance(value, list):
        return f"list {list(map(_told, value))}"
    return f"{type(value).__name__} {value!r}"
