"""Asking a scikit-learn pipeline with less between: its steps one after the other, without what surrounds each.

A row through scikit-learn's own `predict` spends most of its time in checks, once a step, of what the server has
checked already. The steps that most pipelines are made of are computed by their formula; any other is asked itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    Predict = Callable[[Any], Any]


def array_predictor(model: Any, predict_fn: str) -> Predict:  # noqa: ANN401 - scikit-learn has no types
    """Predict from an array of finite numbers, step by step; from any other array as the model itself does."""
    from sklearn import config_context  # noqa: PLC0415 - only where the model needs it
    from sklearn.pipeline import Pipeline  # noqa: PLC0415

    steps = [step for _, step in model.steps] if isinstance(model, Pipeline) else [model]
    transforms = [_transform(step) for step in steps[:-1] if step not in (None, "passthrough")]
    predict, whole = _predict(steps[-1], predict_fn), getattr(model, predict_fn)

    def through(asked: np.ndarray) -> Any:  # noqa: ANN401
        array = asked
        with config_context(assume_finite=True):
            for transform, is_formula in transforms:
                # What is infinite stays so in a formula, and a number may become too large there; it is seen after it.
                if not (is_formula or _is_finite(array)):
                    break
                array = transform(array)
            else:
                if _is_finite(array):
                    return predict(array)
        return whole(asked)

    return through


def column_predictor(pipeline: Any, predict_fn: str) -> Predict | None:  # noqa: ANN401 - as above
    """For a pipeline that begins with a column transformer: predict from columns, without a frame.

    Taking columns out of a frame and putting the parts together again is most of such a model's time. Each
    transformer gets its columns as one array instead, of numbers where all are, of objects where one is text.
    """
    steps = getattr(pipeline, "steps", None)
    if not steps or not hasattr(steps[0][1], "transformers_"):
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
    predict = array_predictor(pipeline[1:], predict_fn)

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


def _is_finite(array: Any) -> bool:  # noqa: ANN401 - a sparse matrix, too
    return not isinstance(array, np.ndarray) or bool(np.isfinite(array).all())


def _transform(step: Any) -> tuple[Predict, bool]:  # noqa: ANN401 - as above
    """A step's `transform`, by its formula where that is plain; and whether it is."""
    from sklearn.preprocessing import StandardScaler  # noqa: PLC0415

    if type(step) is not StandardScaler:
        return step.transform, False
    mean, scale = step.mean_ if step.with_mean else 0.0, step.scale_ if step.with_std else 1.0
    # In any other type scikit-learn rounds on the way.
    return lambda array: (array - mean) / scale if array.dtype == np.float64 else step.transform(array), True


def _predict(step: Any, predict_fn: str) -> Predict:  # noqa: ANN401 - as above
    """The last step's answer, by its formula where it is a linear model's."""
    from sklearn.linear_model._base import LinearClassifierMixin, LinearModel  # noqa: PLC0415

    kind, asked = type(step), getattr(step, predict_fn)
    if predict_fn != "predict":
        return asked  # type: ignore[no-any-return]
    if isinstance(step, LinearModel) and _inherits(kind, LinearModel, "predict", "_decision_function"):
        coefficients, intercept = step.coef_.T, step.intercept_
        return lambda array: array @ coefficients + intercept if array.dtype == np.float64 else asked(array)
    if isinstance(step, LinearClassifierMixin) and _inherits(
        kind, LinearClassifierMixin, "predict", "decision_function"
    ):
        return _linear_classes(step)
    return asked  # type: ignore[no-any-return]


def _linear_classes(step: Any) -> Predict:  # noqa: ANN401 - as above
    coefficients, intercept, classes = step.coef_.T, step.intercept_, step.classes_

    def predict(array: np.ndarray) -> Any:  # noqa: ANN401
        if array.dtype != np.float64:
            return step.predict(array)
        scores = array @ coefficients + intercept
        return classes[scores.argmax(axis=1) if scores.shape[1] > 1 else (scores[:, 0] > 0).astype(int)]

    return predict


def _inherits(kind: type, base: type, *names: str) -> bool:
    """Whether a class has a base's own methods."""
    return all(getattr(kind, name) is getattr(base, name) for name in names)
