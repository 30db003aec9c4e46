"""A custom MLflow model that behaves, or misbehaves, as it is told."""

from __future__ import annotations

import time

import mlflow


class Behaviour(mlflow.pyfunc.PythonModel):
    """Doubles x; `does` names what else it does.

    - double, quadruple, triple: nothing else
    - periodic: takes x for one of 1 to 20, so that others change nothing
    - broken: raises when it is loaded
    - hungry: takes a gibibyte when it is loaded
    - greedy: takes two when it is asked for 666
    - hang: never finishes loading
    - negative: raises on negative x
    - always: raises on every x
    - slow: takes `after` seconds to answer
    """

    def __init__(self, does, after=0.0):
        self.does = does
        self.after = after

    def load_context(self, context):
        if self.does == "broken" and self.after == 0.0:
            raise RuntimeError("this model cannot be loaded")
        if self.does == "hungry":
            self.taken = [b"x" * 2**20 for _ in range(1024)]
        while self.does == "hang":
            time.sleep(1)

    def predict(self, context, model_input, params=None):
        if self.does == "always" or (self.does == "negative" and (model_input["x"] < 0).any()):
            raise ValueError("x is not to my liking")
        if self.does == "greedy" and (model_input["x"] == 666).any():
            self.taken = [b"x" * 2**20 for _ in range(2048)]
        if self.does == "slow":
            time.sleep(self.after)
        if self.does == "periodic":
            return (1 + (model_input["x"] - 1) % 20) * 2
        return model_input["x"] * (3 if self.does == "triple" else 2)
