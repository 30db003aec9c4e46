"""Train the demo's four wine models on scikit-learn's own data and log each with plain MLflow.

    eval "$(headgate env)"; python examples/wine/train.py

Prints one JSON object: the artifact URI of each version.
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import mlflow
import numpy as np
from mlflow.models import infer_signature
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

if TYPE_CHECKING:
    import pandas as pd

PACKAGES = ("mlflow", "numpy", "pandas", "scikit-learn")
PROLINE_FLOOR = 345.0


class LogOfProline(TransformerMixin, BaseEstimator):
    """A new feature for v4, with a mistake: its author never saw a wine with so little proline."""

    def fit(self, _features: pd.DataFrame, _labels: pd.Series | None = None) -> LogOfProline:
        """Nothing is learned."""
        return self

    def transform(self, features: pd.DataFrame) -> pd.DataFrame:
        """Replace proline by a logarithm, which has no value below the floor."""
        with np.errstate(invalid="ignore"):
            return features.assign(proline=np.log(features["proline"] - PROLINE_FLOOR))


def split() -> tuple[pd.DataFrame, pd.DataFrame, pd.Series, pd.Series]:
    """Features and labels of scikit-learn's wine data: train, live, train, live."""
    features, labels = load_wine(return_X_y=True, as_frame=True)
    parts = train_test_split(features, labels, test_size=0.5, random_state=7, stratify=labels)
    return parts[0], parts[1], parts[2], parts[3]


def models() -> dict[str, Pipeline]:
    """The four versions, fitted."""
    train, _, labels, _ = split()
    scaled = make_pipeline(StandardScaler(), LogisticRegression()).fit(train, labels)
    # v3: the deployment lost the scaler, and kept the classifier that was trained behind it.
    unscaled = make_pipeline(scaled.named_steps["logisticregression"])
    usual = train["proline"] > PROLINE_FLOOR
    return {
        "v1": make_pipeline(DecisionTreeClassifier(max_depth=2, random_state=0)).fit(train, labels),
        "v2": scaled,
        "v3": unscaled,
        "v4": make_pipeline(LogOfProline(), StandardScaler(), LogisticRegression()).fit(train[usual], labels[usual]),
    }


def log(name: str, model: Pipeline) -> str:
    """Log a model as any team would, with the training sample beside it; returns its URI."""
    train, _, _, _ = split()
    example = train[train["proline"] > PROLINE_FLOOR].head(3)
    with mlflow.start_run(run_name=f"wine-{name}") as run, tempfile.TemporaryDirectory() as folder:
        mlflow.sklearn.log_model(
            model, name="model", signature=infer_signature(example, model.predict(example)), input_example=example,
            serialization_format="cloudpickle", code_paths=[__file__] if name == "v4" else None,
            pip_requirements=[f"{package}=={version(package)}" for package in PACKAGES],
        )  # fmt: skip
        reference = Path(folder) / "reference.parquet"
        train.to_parquet(reference)
        mlflow.log_artifact(str(reference))
    return f"runs:/{run.info.run_id}/model"


def main() -> None:
    """Train and log everything."""
    warnings.filterwarnings("ignore")
    mlflow.set_experiment("wine")
    json.dump({name: log(name, model) for name, model in models().items()}, sys.stdout)


if __name__ == "__main__":
    # cloudpickle must find LogOfProline in this module's own name, not in __main__.
    sys.path.insert(0, str(Path(__file__).parent))
    from train import main as run

    run()
