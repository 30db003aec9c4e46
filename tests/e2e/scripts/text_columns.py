import mlflow
import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

features, labels = load_breast_cancer(return_X_y=True, as_frame=True)
table = pd.DataFrame(
    {
        "size": np.where(features["mean radius"] > 14, "large", "small"),
        "texture": features["mean texture"],
        "visits": np.arange(len(features)) % 7,
    }
)
model = make_pipeline(
    make_column_transformer((OneHotEncoder(), ["size"]), remainder="passthrough"), LogisticRegression(max_iter=1000)
).fit(table, labels.map({0: "malignant", 1: "benign"}))
with mlflow.start_run() as run:
    mlflow.sklearn.log_model(model, name="model", input_example=table.head(2), serialization_format="cloudpickle")
print(f"runs:/{run.info.run_id}/model")
