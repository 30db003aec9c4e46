"""Every form of body, sound and odd, to models of every kind of signature: the server says what MLflow's says."""

from __future__ import annotations

import pytest
from support.same_answers import check

pytestmark = pytest.mark.filterwarnings("ignore")
BODIES = 2000
MODELS = (
    "echo of string", "echo of simple", "echo of optional", "echo of none", "echo of tensors", "untouched narrow",
    "text in columns", "onnx tensor",
)  # fmt: skip
"""One of every way to ask and every kind of signature; test_twenty_thousand_bodies.py asks ten times as much."""


@pytest.mark.parametrize("kind", MODELS)
def test_the_server_says_what_mlflows_says(models, kind):
    check(models, kind, BODIES // len(MODELS))
