import lightgbm
import mlflow
from sklearn.datasets import load_diabetes

features, target = load_diabetes(return_X_y=True, as_frame=True)
with mlflow.start_run() as run:
    model = lightgbm.LGBMRegressor(n_estimators=20, verbose=-1).fit(features, target)
    mlflow.lightgbm.log_model(model, name="model", input_example=features.head(2))
print(f"runs:/{run.info.run_id}/model")
