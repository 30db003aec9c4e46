"""Asking a model for an array's predictions with less between: one way a flavour, quickest first.

Every shortcut is only taken when it gave MLflow's own answers (`model.py`), so it may be as bold as it likes.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from headgate_server import answers, scikit_learn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mlflow.pyfunc import PyFuncModel

    Predict = Callable[[Any], Any]

FLAVOURS = frozenset({"mlflow.sklearn", "mlflow.lightgbm", "mlflow.xgboost", "mlflow.catboost", "mlflow.onnx"})
"""The flavours that take arrays."""


def array_predictors(model: PyFuncModel) -> Iterator[Predict]:
    """Ways to predict from an array; the flavour's own predict function comes last."""
    flavour, implementation = model.loader_module, model._model_impl  # noqa: SLF001 - MLflow has no public name
    if flavour == "mlflow.onnx":
        yield _onnx_records(implementation) or flavour_predict(model)
        return
    if flavour == "mlflow.lightgbm" and hasattr(implementation.lgb_model, "booster_"):
        # scikit-learn's checks take nine tenths of a row's time, and the columns were checked already.
        yield implementation.lgb_model.booster_.predict
    if flavour == "mlflow.sklearn":
        predict_fn: str = model._predict_fn.__name__  # noqa: SLF001 - as above
        yield scikit_learn.array_predictor(implementation.sklearn_model, predict_fn)
    yield flavour_predict(model)


def column_predictor(model: PyFuncModel) -> Predict | None:
    """A way to predict from columns, where the flavour has one."""
    if model.loader_module != "mlflow.sklearn":
        return None
    predict_fn: str = model._predict_fn.__name__  # noqa: SLF001 - as above
    return scikit_learn.column_predictor(model._model_impl.sklearn_model, predict_fn)  # noqa: SLF001 - as above


def flavour_predict(model: PyFuncModel) -> Predict:
    """The flavour's own predict function, past MLflow's schema enforcement."""
    predict: Any = model._predict_fn  # noqa: SLF001 - as above
    parameter = inspect.signature(predict).parameters.get("params")
    if parameter is not None and parameter.kind is not inspect.Parameter.VAR_KEYWORD:
        return lambda data: predict(data, params=None)
    return predict  # type: ignore[no-any-return]


def _onnx_records(wrapper: Any) -> Predict | None:  # noqa: ANN401 - MLflow's private wrapper
    """What MLflow's ONNX flavour answers for a frame, without the frame: one record a row."""
    session, names = wrapper.rt, wrapper.output_names
    (input_name, input_type), *others = wrapper.inputs
    if others:
        return None
    as_float32 = input_type == "tensor(float)"

    def predict(array: np.ndarray) -> Any:  # noqa: ANN401
        fed = array.astype(np.float32) if as_float32 and array.dtype == np.float64 else array
        outputs = [np.asarray(output).reshape(-1) for output in session.run(names, {input_name: fed})]
        if len(outputs) == 1 and outputs[0].dtype.kind == "f" and np.isfinite(outputs[0]).all():
            name = names[0]
            return answers.Records([{name: value} for value in outputs[0].tolist()])
        return pd.DataFrame.from_dict(dict(zip(names, outputs, strict=True)))

    return predict
