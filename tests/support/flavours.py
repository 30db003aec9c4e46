"""A model of every flavour that MLflow writes and that may be installed, saved as its users do."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

import mlflow
import numpy as np
import pandas as pd
from sklearn.datasets import load_diabetes, load_wine
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WINE, KINDS = load_wine(return_X_y=True, as_frame=True)
ILLNESS, PROGRESS = load_diabetes(return_X_y=True, as_frame=True)
MONTHS = pd.Series(
    np.random.default_rng(0).normal(size=96).cumsum(), pd.date_range("2010", periods=96, freq="MS"), name="y"
)

ESTIMATORS = {
    "forest": RandomForestClassifier(5), "boosting": HistGradientBoostingClassifier(max_iter=3), "svm": SVC(),
    "neighbours": KNeighborsClassifier(), "network": MLPClassifier(max_iter=3),
    "search": GridSearchCV(LogisticRegression(max_iter=20), {"C": [1, 2]}, cv=2, scoring="accuracy"),
    "pipeline": make_pipeline(FunctionTransformer(np.log1p), StandardScaler(), LogisticRegression()),
}  # fmt: skip


TRUSTED = [
    "sklearn.neighbors._kd_tree.KDTree", "sklearn.metrics._dist_metrics.EuclideanDistance64", "numpy.dtype",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor", "sklearn.tree._tree.Tree",
    "sklearn.metrics._classification.accuracy_score", "sklearn.metrics._scorer._Scorer",
    "sklearn.model_selection._split.StratifiedKFold", "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
]  # fmt: skip
"""What skops asks its users about, for these models."""


def _sklearn(name: str, form: str) -> Callable[[Path], None]:
    def save(path: Path) -> None:
        more = {"skops_trusted_types": TRUSTED} if form == "skops" else {}
        model = ESTIMATORS[name].fit(WINE, KINDS)
        mlflow.sklearn.save_model(model, str(path), serialization_format=form, pip_requirements=[], **more)

    return save


def _isotonic(path: Path) -> None:
    model = IsotonicRegression().fit(PROGRESS, PROGRESS)
    mlflow.sklearn.save_model(model, str(path), serialization_format="pickle", pip_requirements=[])


def _boosted(flavour: str, classifier: str, **options: object) -> Callable[[Path], None]:
    def save(path: Path) -> None:
        model = getattr(import_module(flavour), classifier)(**options).fit(WINE, KINDS)
        more = {"serialization_format": "cloudpickle"} if flavour == "lightgbm" else {}
        import_module(f"mlflow.{flavour}").save_model(model, str(path), pip_requirements=[], **more)

    return save


def _statsmodels(of: str) -> Callable[[Path], None]:
    def save(path: Path) -> None:
        import statsmodels.api as sm
        import statsmodels.formula.api as smf

        made = {
            "ols": lambda: sm.OLS(PROGRESS, sm.add_constant(ILLNESS)),
            "glm": lambda: sm.GLM(PROGRESS, sm.add_constant(ILLNESS), family=sm.families.Poisson()),
            "formula": lambda: smf.ols("y ~ bmi + np.log(bp):age", ILLNESS.assign(y=PROGRESS)),
            "arima": lambda: sm.tsa.ARIMA(MONTHS, order=(1, 1, 0)),
        }
        mlflow.statsmodels.save_model(made[of]().fit(), str(path), pip_requirements=[])

    return save


def _pmdarima(path: Path) -> None:
    import pmdarima

    model = pmdarima.ARIMA((1, 0, 0), suppress_warnings=True).fit(MONTHS)
    mlflow.pmdarima.save_model(model, str(path), pip_requirements=[])


def _prophet(path: Path) -> None:
    import prophet

    model = prophet.Prophet().fit(pd.DataFrame({"ds": MONTHS.index, "y": MONTHS.to_numpy()}))
    mlflow.prophet.save_model(model, str(path), pip_requirements=[])


def _onnx(path: Path) -> None:
    from skl2onnx import to_onnx

    model = to_onnx(Ridge().fit(ILLNESS, PROGRESS), ILLNESS.head(1).to_numpy(dtype="float32"))
    mlflow.onnx.save_model(model, str(path), pip_requirements=[])


def _pytorch(path: Path) -> None:
    import torch

    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.LSTM(4, 2))
    mlflow.pytorch.save_model(net, str(path), pip_requirements=[], serialization_format="pickle")


def _torchscript(path: Path) -> None:
    import torch

    net = torch.jit.script(torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU()))
    mlflow.pytorch.save_model(net, str(path), pip_requirements=[], serialization_format="pickle")


FLAVOURS: dict[str, tuple[str, Callable[[Path], None]]] = {
    **{
        f"sklearn {name}, {form}": ("sklearn", _sklearn(name, form))
        for name in ESTIMATORS for form in ("pickle", "cloudpickle", "skops")
    },
    "sklearn isotonic": ("sklearn", _isotonic),
    "lightgbm": ("lightgbm", _boosted("lightgbm", "LGBMClassifier", n_estimators=3, verbose=-1)),
    "xgboost": ("xgboost", _boosted("xgboost", "XGBClassifier", n_estimators=3)),
    "catboost": ("catboost", _boosted("catboost", "CatBoostClassifier", iterations=3, verbose=False,
                                      allow_writing_files=False)),
    **{f"statsmodels {of}": ("statsmodels", _statsmodels(of)) for of in ("ols", "glm", "formula", "arima")},
    "pmdarima": ("pmdarima", _pmdarima), "prophet": ("prophet", _prophet), "onnx": ("skl2onnx", _onnx),
    "pytorch": ("torch", _pytorch), "torchscript": ("torch", _torchscript),
}  # fmt: skip
"""By name: the package that it needs, and what saves it."""
