"""Small models of many flavours, saved as any user of MLflow would save them."""

from __future__ import annotations

import json
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from filelock import FileLock
from mlflow.models import ModelSignature, infer_signature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_diabetes, load_wine
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeRegressor

BEHAVIOUR, ECHO = (Path(__file__).with_name(name) for name in ("behaviour.py", "echo.py"))

_SIMPLE = ("double", "float", "long", "integer", "string", "boolean")
_ANSWER = Schema([ColSpec(DataType.string)])
SIGNATURES = {
    **{kind: ModelSignature(Schema([ColSpec(DataType[kind], name) for name in "ab"]), _ANSWER) for kind in _SIMPLE},
    "simple": ModelSignature(Schema([ColSpec(DataType[kind], kind) for kind in _SIMPLE]), _ANSWER),
    "every": ModelSignature(Schema([ColSpec(kind, kind.name) for kind in DataType]), _ANSWER),
    "optional": ModelSignature(
        Schema([ColSpec(DataType[kind], kind, required=kind == "string") for kind in _SIMPLE]), _ANSWER
    ),
    "params": ModelSignature(
        Schema([ColSpec(DataType.double, "x")]), _ANSWER, ParamSchema([ParamSpec("depth", DataType.long, 1)])
    ),
    "unnamed": ModelSignature(Schema([ColSpec(DataType.double), ColSpec(DataType.string)]), _ANSWER),
    "tensor": ModelSignature(Schema([TensorSpec(np.dtype("float32"), (-1, 2))]), _ANSWER),
    "tensors": ModelSignature(
        Schema([TensorSpec(np.dtype("float64"), (-1, 2), "a"), TensorSpec(np.dtype("int64"), (-1,), "b")]), _ANSWER
    ),
    "none": None,
}
"""Signatures of every kind that MLflow has, by name, for a model that answers what it was asked."""

ASKED: dict[str, tuple[str, dict[str, Any], str]] = {
    **{f"echo of {kind}": ("echo", {"inputs": kind}, "frame") for kind in (*_SIMPLE, "simple")},
    **{
        f"echo of {kind}": ("echo", {"inputs": kind}, "mlflow")
        for kind in ("every", "optional", "params", "unnamed", "tensor", "tensors", "none")
    },
    **{
        f"untouched {dtype}": ("untouched", {"dtype": dtype}, "array")
        for dtype in ("float64", "float32", "mixed", "narrow")
    },
    "text in columns": ("strings", {}, "columns"),
    "onnx tensor": ("onnx", {"table": False}, "array"),
}
"""Models of every kind of signature: how each is made, and the way that the server asks it."""


def pinned(*packages: str) -> list[str]:
    """The versions that this environment has, so that nothing new is downloaded."""
    return [f"{package}=={version(package)}" for package in packages]


def wine() -> tuple[pd.DataFrame, pd.Series]:
    return load_wine(return_X_y=True, as_frame=True)


class Models:
    """Model folders by name; see the methods. Each is made once, for all processes that use this folder."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def __call__(self, name: str, **options: Any) -> Path:
        key = "-".join([name, *(f"{option}-{value}" for option, value in sorted(options.items()))])
        path = self._root / key
        with FileLock(f"{path}.lock"):
            if not path.exists():
                making = path.with_name(f"{key}.making")
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    getattr(self, f"_{name}")(str(making), **options)
                making.rename(path)
        return path

    def _wine(self, path: str, regularisation: float = 1.0) -> None:
        features, labels = wine()
        model = make_pipeline(StandardScaler(), LogisticRegression(C=regularisation)).fit(features, labels)
        self._sklearn(model, path, features, model.predict(features))

    def _proba(self, path: str) -> None:
        features, labels = wine()
        model = make_pipeline(StandardScaler(), LogisticRegression()).fit(features, labels)
        signature = infer_signature(features, model.predict_proba(features))
        mlflow.sklearn.save_model(
            model, path, signature=signature, input_example=features.head(2), pyfunc_predict_fn="predict_proba",
            pip_requirements=pinned("mlflow", "scikit-learn", "pandas"), serialization_format="cloudpickle",
        )  # fmt: skip

    def _strings(self, path: str) -> None:
        features, labels = wine()
        table = features[["alcohol", "hue"]].assign(
            grade=np.where(features.proline > 700, "high", "low"), number=np.arange(len(features)), red=True
        )
        encode = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), ["grade"]), remainder="passthrough")
        model = make_pipeline(encode, StandardScaler(), LogisticRegression()).fit(table, labels.map(lambda x: f"c{x}"))
        self._sklearn(model, path, table, model.predict(table))

    def _integers(self, path: str) -> None:
        features, labels = wine()
        table = features[["alcohol", "hue"]].assign(number=np.arange(len(features)))
        # A tree: a linear model's last bit depends on the processor and on how its rows lie in memory.
        model = make_pipeline(StandardScaler(), DecisionTreeRegressor(max_depth=4, random_state=0)).fit(table, labels)
        self._sklearn(model, path, table, model.predict(table))

    def _no_signature(self, path: str) -> None:
        features, labels = wine()
        model = make_pipeline(StandardScaler(), LogisticRegression()).fit(features.to_numpy(), labels)
        mlflow.sklearn.save_model(
            model, path, pip_requirements=pinned("mlflow", "scikit-learn", "pandas"), serialization_format="cloudpickle"
        )

    def _lightgbm(self, path: str) -> None:
        import lightgbm

        features, target = load_diabetes(return_X_y=True, as_frame=True)
        model = lightgbm.LGBMRegressor(n_estimators=10, verbose=-1).fit(features, target)
        mlflow.lightgbm.save_model(
            model, path, signature=infer_signature(features, model.predict(features)), input_example=features.head(2),
            pip_requirements=pinned("mlflow", "lightgbm", "scikit-learn", "pandas"),
        )  # fmt: skip

    def _onnx(self, path: str, table: bool = False) -> None:
        from skl2onnx import to_onnx

        features, labels = wine()
        array = features.to_numpy().astype(np.float32)
        model = make_pipeline(StandardScaler(), Ridge()).fit(array, labels.astype(float))
        if table:
            outputs = pd.DataFrame({"variable": model.predict(array).reshape(-1)})
            signature, example = infer_signature(features, outputs), features.head(2)
        else:
            signature, example = infer_signature(array, model.predict(array)), array[:2]
        mlflow.onnx.save_model(
            to_onnx(model, array[:1]), path, signature=signature, input_example=example,
            pip_requirements=pinned("mlflow", "onnxruntime", "onnx", "pandas"),
        )  # fmt: skip

    def _pyfunc(self, path: str, does: str = "double", after: float = 0.0) -> None:
        """A custom model whose behaviour is told: see behaviour.py."""
        import behaviour

        schema = Schema([ColSpec(DataType.double, "x")])
        mlflow.pyfunc.save_model(
            path, python_model=behaviour.Behaviour(does, after), code_paths=[str(BEHAVIOUR)],
            signature=mlflow.models.ModelSignature(schema, Schema([ColSpec(DataType.double)])),
            input_example=None if does in {"hang", "hungry"} else pd.DataFrame({"x": [1.0]}),
            pip_requirements=pinned("mlflow", "pandas"),
        )  # fmt: skip
        # For support/light_server.py, which does not read MLflow's files.
        (Path(path) / "behaviour.json").write_text(json.dumps({"does": does, "after": after}), encoding="utf-8")

    def _echo(self, path: str, inputs: str) -> None:
        """A model that answers what it was asked; `inputs` names one of `SIGNATURES`."""
        import echo

        mlflow.pyfunc.save_model(
            path, python_model=echo.Echo(), code_paths=[str(ECHO)], signature=SIGNATURES[inputs],
            pip_requirements=pinned("mlflow", "pandas"),
        )  # fmt: skip

    def _untouched(self, path: str, dtype: str) -> None:
        """A scikit-learn model that answers the numbers that it was asked: of several types, or all of one."""
        table = pd.DataFrame({"a": [0.5, 1.5, 2.5], "b": [1.0, 2.0, 3.0]})
        kinds = {"mixed": {"b": "int64"}, "narrow": {"a": "float32", "b": "int32"}}
        table = table.astype(kinds.get(dtype, dtype))
        model = LinearRegression().fit(table, table)
        model.coef_, model.intercept_ = np.eye(table.shape[1]), np.zeros(table.shape[1])
        self._sklearn(model, path, table, model.predict(table))

    def _sklearn(self, model: Any, path: str, features: pd.DataFrame, answers: Any) -> None:
        mlflow.sklearn.save_model(
            model, path, signature=infer_signature(features, answers), input_example=features.head(2),
            pip_requirements=pinned("mlflow", "scikit-learn", "pandas"), serialization_format="cloudpickle",
        )  # fmt: skip
