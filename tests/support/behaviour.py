"""A custom MLflow model that behaves, or misbehaves, as it is told."""

from __future__ import annotations

import ctypes
import os
import signal
import time

import mlflow


def count_load(path):
    loads = int(open(path).read()) if os.path.exists(path) else 0  # noqa: PTH110, PTH123, SIM115
    with open(path, "w") as file:  # noqa: PTH123
        file.write(str(loads + 1))
    while loads and os.environ.get("LOADED_ONCE_HANGS"):
        time.sleep(1)
    if loads:
        raise RuntimeError("this model can be loaded once")


class Behaviour(mlflow.pyfunc.PythonModel):
    """Doubles x; `does` names what else it does.

    - double, quadruple, triple: nothing else
    - periodic: takes x for one of 1 to 20, so that others change nothing
    - broken: raises when it is loaded
    - hungry: takes a gibibyte when it is loaded
    - greedy: takes two when it is asked for 666
    - leaky: keeps `after` MiB of each request
    - hang: never finishes loading
    - once: counts its loads in the file LOADED_ONCE, and raises at each but the first; or never finishes these, where
      LOADED_ONCE_HANGS is set
    - negative: raises on negative x
    - always: raises on every x
    - stuck, seized: does not come back for x = 666, in Python code or in native code that holds the interpreter; makes
      the file HANGS_SINCE first, where that is set
    - fatal: ends its process for x = 666
    - set: answers what cannot be written as JSON
    - slow: takes `after` seconds to answer
    - late: takes `after` seconds to answer x = 666
    """

    def __init__(self, does, after=0.0):
        self.does = does
        self.after = after
        self.kept = []

    def load_context(self, context):
        if self.does == "broken" and self.after == 0.0:
            raise RuntimeError("this model cannot be loaded")
        if self.does == "hungry":
            self.taken = [b"x" * 2**20 for _ in range(1024)]
        if self.does == "once" and "LOADED_ONCE" in os.environ:
            count_load(os.environ["LOADED_ONCE"])
        while self.does == "hang":
            time.sleep(1)

    def _fail_for_good(self):
        if "HANGS_SINCE" in os.environ:
            open(os.environ["HANGS_SINCE"], "x").close()  # noqa: PTH123
        if self.does == "fatal":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.does == "seized":
            ctypes.PyDLL(None).sleep(1000)
        while self.does == "stuck":
            time.sleep(0.001)

    def predict(self, context, model_input, params=None):
        if self.does == "always" or (self.does == "negative" and (model_input["x"] < 0).any()):
            raise ValueError("x is not to my liking")
        if self.does == "greedy" and (model_input["x"] == 666).any():
            self.taken = [b"x" * 2**20 for _ in range(2048)]
        if self.does == "leaky":
            self.kept.append(b"x" * int(self.after * 2**20))
        if (model_input["x"] == 666).any():
            self._fail_for_good()
        if self.does == "set":
            return {1, 2}
        if self.does == "slow" or (self.does == "late" and (model_input["x"] == 666).any()):
            time.sleep(self.after)
        if self.does == "periodic":
            return (1 + (model_input["x"] - 1) % 20) * 2
        return model_input["x"] * (3 if self.does == "triple" else 2)
