import mlflow
import pandas as pd


class Shouting(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return [text.upper() + "!" for text in model_input["text"]]


with mlflow.start_run() as run:
    mlflow.pyfunc.log_model(name="shout", python_model=Shouting(), input_example=pd.DataFrame({"text": ["hello"]}))
print(f"runs:/{run.info.run_id}/shout")
