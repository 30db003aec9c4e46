"""As a new user would: one's own script logs a model with plain MLflow, `headgate init`, `headgate release`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.stack import http

SCRIPTS = Path(__file__).parent / "scripts"

DIABETES = ["age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6"]
ASKED = {
    "lightgbm_regressor": ({"dataframe_records": [dict.fromkeys(DIABETES, 0.01)]}, float),
    "onnx_classifier": ({"inputs": [[0.0] * 64]}, int),
    "custom_pyfunc": ({"instances": [{"text": "well done"}]}, "WELL DONE!"),
    "text_columns": ({"dataframe_records": [{"size": "large", "texture": 19.0, "visits": 3}]}, "malignant"),
}  # fmt: skip


@pytest.mark.parametrize("script", ASKED)
def test_a_model_of_ones_own(stack, tmp_path, script):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", SCRIPTS / f"{script}.py"], capture_output=True, text=True, check=False,
        env={**os.environ, **stack.env}, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    uri = done.stdout.splitlines()[-1]
    file = tmp_path / "release.yaml"
    stack.headgate("init", uri, "--model", script, "--file", str(file))
    result = stack.json("release", str(file))
    assert (result["outcome"], result["version"]) == ("promoted", 1)
    body, expected = ASKED[script]
    reply = http.post(result["url"], json=body)
    assert reply.status_code == 200, reply.text
    predictions = reply.json()["predictions"]
    answer = predictions["label"][0] if isinstance(predictions, dict) else predictions[0]
    assert isinstance(answer, expected) if isinstance(expected, type) else answer == expected
    assert reply.headers["x-headgate-revision"].startswith("v1-")
    assert json.loads(http.post(result["url"], content=b"{}").text)["error_code"]
