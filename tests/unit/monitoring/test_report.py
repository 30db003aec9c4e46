from __future__ import annotations

import json
from datetime import UTC, datetime

import pyarrow as pa
import pytest

from deploy_targets.prediction_log import SCHEMA
from headgate.phases import Outcome
from headgate.records import Counts, Disagreement, Event, Look, ReleaseResult, ShadowReport, Verdict
from monitoring.plots import rollout_plot
from monitoring.predictions import table
from monitoring.report import Evidence, write_report


def logged(request: object, response: object, **changes) -> pa.RecordBatch:
    row = {
        "request_id": "1", "time": datetime.now(UTC), "status": 200, "seconds": 0.1, "mirrored": False,
        "content_type": "application/json", "request": json.dumps(request).encode(),
        "response": json.dumps(response).encode(), "endpoint": "e", "revision": "v1", **changes,
    }  # fmt: skip
    return pa.RecordBatch.from_pylist([row], schema=SCHEMA)


@pytest.mark.parametrize("request_body", [
    {"dataframe_split": {"columns": ["a", "b"], "data": [[1, "x"], [2, "y"]]}},
    {"dataframe_records": [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]},
    {"instances": [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]},
    {"inputs": {"a": [1, 2], "b": ["x", "y"]}},
])  # fmt: skip
def test_every_form_of_request_becomes_the_same_table(request_body):
    rows = table([logged(request_body, {"predictions": [0.5, 0.7]})], "v1")
    assert rows.to_dict("list") == {"a": [1, 2], "b": ["x", "y"], "prediction": [0.5, 0.7]}


def test_only_answers_that_clients_saw_are_in_the_table():
    body, answer = {"inputs": [[1.0, 2.0]]}, {"predictions": [1]}
    batches = [
        logged(body, answer), logged(body, answer, revision="v2"), logged(body, answer, mirrored=True),
        logged(body, answer, status=500), logged("text", answer),
    ]  # fmt: skip
    assert table(batches, "v1").to_dict("list") == {"0": [1.0], "1": [2.0], "prediction": [1]}
    assert len(table([logged(body, answer)] * 5, "v1", limit=2)) == 2


def looks() -> tuple[Look, ...]:
    def at(second: int) -> Look:
        stable, canary = Counts(requests=100 * second, failures=1), Counts(requests=5 * second, failures=second)
        return Look(
            seconds=second,
            share=500,
            stable=stable,
            canary=canary,
            e_value=2.0**second,
            needed=100,
            verdict=Verdict.RUNNING,
            reason="r",
        )

    return tuple(map(at, range(1, 9)))


def test_the_report_is_one_page_that_loads_nothing(tmp_path):
    now = datetime.now(UTC)
    shadow = ShadowReport(
        pairs=10, unmatched=1, disagreements=2, errors=1, rate=0.2, limit=0.1, e_value=3, latency_ratio=1.1,
        passed=False, reason="2 of 10 answers differ",
        examples=(Disagreement(request_id="1", request="<script>alert(1)</script>", champion="a", challenger="b"),),
    )  # fmt: skip
    result = ReleaseResult(release_id="r1", endpoint="wine", outcome=Outcome.ROLLED_BACK, reason="e-value 256")
    events = (Event(at=now, what="judge", actor="judge", reason="roll back"),)
    evidence = Evidence(result=result, title="wine", looks=looks(), shadow=shadow, events=events)
    file = tmp_path / "reports" / "r1.html"
    write_report(evidence, file)
    page = file.read_text()
    assert "<svg" in page
    assert "&lt;script&gt;" in page
    assert "<script" not in page
    assert not [line for line in page.splitlines() if "src=" in line or "<link" in line]
    for text in ("rolled back", "2 of 10 answers differ", "roll back", "e-value 256"):
        assert text in page


def test_the_plot_is_a_picture():
    assert rollout_plot(looks(), "wine", kind="png").startswith(b"\x89PNG")
    assert b"<svg" in rollout_plot(looks(), "wine")
