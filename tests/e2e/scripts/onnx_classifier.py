import mlflow
import numpy as np
from skl2onnx import to_onnx
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

images, digits = load_digits(return_X_y=True)
images = images.astype(np.float32)
model = LogisticRegression(max_iter=2000).fit(images, digits)
graph = to_onnx(model, images[:1], options={"zipmap": False})
with mlflow.start_run() as run:
    mlflow.onnx.log_model(graph, name="digits", input_example=images[:2])
print(f"runs:/{run.info.run_id}/digits")
