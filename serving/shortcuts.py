"""Asking a model for an array's predictions with less between: one way a flavour, quickest first.

Every shortcut is only taken when it gave MLflow's own answers (`serving.model`), so it may be as bold as it likes.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from serving import answers

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
        yield _sklearn_steps(implementation.sklearn_model, model._predict_fn.__name__)  # noqa: SLF001 - as above
    yield flavour_predict(model)


def column_predictor(model: PyFuncModel) -> Predict | None:
    """For a scikit-learn pipeline that begins with a column transformer: predict from columns, without a frame.

    Taking columns out of a frame and putting the parts together again is most of such a model's time. Each
    transformer gets its columns as one array instead, of numbers where all are, of objects where one is text.
    """
    pipeline: Any = getattr(model._model_impl, "sklearn_model", None)  # noqa: SLF001 - as above
    steps = getattr(pipeline, "steps", None)
    if model.loader_module != "mlflow.sklearn" or not steps or not hasattr(steps[0][1], "transformers_"):
        return None
    first = steps[0][1]
    names = list(getattr(first, "feature_names_in_", []))
    parts = [
        (transformer, [name if isinstance(name, str) else names[name] for name in columns])
        for _, transformer, columns in first.transformers_
        if transformer != "drop" and isinstance(columns, list)
    ]
    if len(parts) < sum(transformer != "drop" for _, transformer, _ in first.transformers_):
        return None
    if len(steps) == 1 or first.sparse_output_:
        return None
    # A pipeline's own slice shares its fitted steps.
    predict = _sklearn_steps(pipeline[1:], model._predict_fn.__name__)  # noqa: SLF001 - as above

    def through(columns: dict[str, Any]) -> Any:  # noqa: ANN401
        blocks = [transformer.transform(_block([columns[name] for name in chosen])) for transformer, chosen in parts]
        dense = [block.toarray() if hasattr(block, "toarray") else block for block in blocks]
        return predict(np.hstack(dense))

    return through


def _block(columns: list[Any]) -> np.ndarray:
    """Columns side by side."""
    if all(isinstance(column, np.ndarray) for column in columns):
        return np.column_stack(columns)
    block = np.empty((len(columns[0]), len(columns)), dtype=object)
    for place, column in enumerate(columns):
        block[:, place] = column
    return block


def flavour_predict(model: PyFuncModel) -> Predict:
    """The flavour's own predict function, past MLflow's schema enforcement."""
    predict: Any = model._predict_fn  # noqa: SLF001 - as above
    parameter = inspect.signature(predict).parameters.get("params")
    if parameter is not None and parameter.kind is not inspect.Parameter.VAR_KEYWORD:
        return lambda data: predict(data, params=None)
    return predict  # type: ignore[no-any-return]


def _sklearn_steps(model: Any, predict_fn: str) -> Predict:  # noqa: ANN401 - scikit-learn has no types
    """A pipeline's steps one after the other, without the routing around each, and one check for NaN for all."""
    from sklearn import config_context  # noqa: PLC0415 - only where the model needs it
    from sklearn.pipeline import Pipeline  # noqa: PLC0415

    steps = [step for _, step in model.steps] if isinstance(model, Pipeline) else [model]
    transforms = [step.transform for step in steps[:-1] if step not in (None, "passthrough")]
    predict, whole = getattr(steps[-1], predict_fn), getattr(model, predict_fn)

    def through(array: np.ndarray) -> Any:  # noqa: ANN401
        if not np.isfinite(array).all():
            return whole(array)
        with config_context(assume_finite=True):
            for transform in transforms:
                array = transform(array)
            return predict(array)

    return through


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
