"""Requests and answers that are no plain JSON, in a cloud's own log: each row is read, and none hides the others."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest
from support.pretended_clouds import ENDPOINT
from support.stack import wait_for

from deploy_targets.logged import content_type_of
from deploy_targets.vertex.capture import body_of
from headgate.records import Payload, Window
from monitoring.bodies import CSV, JSON, records

ANSWER = b'{"predictions": [NaN, 0.5]}'
ASKED = {
    "plain": (b'{"dataframe_split": {"columns": ["a", "b"], "data": [[1.5, "x"], [2.5, "y"]]}}', JSON),
    "NaN": (b'{"dataframe_split": {"columns": ["a", "b"], "data": [[NaN, "x"], [2.5, "y"]]}}', JSON),
    "Infinity": (b'{"dataframe_split": {"columns": ["a", "b"], "data": [[Infinity, "x"], [2.5, "y"]]}}', JSON),
    "CSV": (b"a,b\n1.5,x\n2.5,y\n", CSV),
}
FIRST = {"plain": 1.5, "NaN": None, "Infinity": math.inf, "CSV": 1.5}


@pytest.fixture(params=["on_sagemaker", "on_vertex", "on_azure"])
def cloud(request):
    return request.getfixturevalue(request.param)


def test_every_request_is_read(cloud):
    for machine in cloud.double.machines.started:
        machine.answer = ANSWER
    began = datetime.now(UTC) - timedelta(seconds=1)
    for body, kind in ASKED.values():
        assert cloud.target.invoke(ENDPOINT, Payload(body=body, content_type=kind)).status == 200

    def logged():
        window = Window(start=began, end=datetime.now(UTC) + timedelta(seconds=1))
        rows = [row for batch in cloud.target.captured(ENDPOINT, window) for row in batch.to_pylist()]
        return rows if len(rows) == len(ASKED) else None

    rows = wait_for(logged, 10)
    found = [records(row["request"], row["response"], row["content_type"]) for row in rows]
    assert sorted(str(one[0].inputs["a"]) for one in found) == sorted(map(str, FIRST.values()))
    for first, second in found:
        assert (first.inputs["b"], second.inputs) == ("x", {"a": 2.5, "b": "y"})
        assert [first.outputs, second.outputs] == [{}, {"prediction": 0.5}]


@pytest.mark.parametrize(("texts", "body", "kind"), [
    (['{"inputs": [NaN]}'], b'{"inputs": [NaN]}', JSON), (["a\n1"], b"a\n1", CSV),
    (["[1, NaN]", "[2, 3]"], b'{"instances":[[1,NaN],[2,3]]}', JSON), (["PAR1", "[2]"], b"PAR1\n[2]", CSV),
    (["[" * 100_000], b"[" * 100_000, CSV),
])  # fmt: skip
def test_a_log_without_content_types_is_no_error_whatever_it_holds(texts, body, kind):
    assert body_of([{"v": text} for text in texts], "instances") == body
    assert content_type_of(body) == kind
