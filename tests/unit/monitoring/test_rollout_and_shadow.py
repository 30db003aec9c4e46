from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from deploy_targets.prediction_log import SCHEMA
from headgate.records import Counts, Look, Verdict
from headgate.release_file import parse_release
from monitoring.rollout import RolloutJudge
from monitoring.shadow import Answered, ShadowComparison, agrees

NONE = Counts(requests=0, failures=0)


BOUNDS = (0.01, 0.02, 0.04, 0.08, 0.16)


def judge(strategy: str, more: str = "", bounds=()) -> RolloutJudge:
    text = f"model: m\nartifact: a\ntarget: {{kind: local}}\nstrategy: {{ramp: schedule, {strategy}}}\n{more}\n"
    return RolloutJudge(parse_release(text), "m@v2", NONE, NONE, bounds)


def look(watched: RolloutJudge, seconds: float, stable: int, canary: int, failures: int = 0, problem: str = ""):
    return watched.look(
        seconds, Counts(requests=stable, failures=0), Counts(requests=canary, failures=failures), canary_problem=problem
    )


WIDE = "judge: {error_rate: {margin_points: 40%}}"


def test_a_good_canary_takes_every_step_and_is_promoted():
    watched = judge("steps: [10%, 50%], min_requests: 60, min_duration: 4s", WIDE)
    # 60 requests in proportion to 10 and 50: ten, then fifty; two seconds each.
    assert look(watched, 1, 100, 9).verdict is Verdict.RUNNING
    assert look(watched, 1.5, 150, 15).verdict is Verdict.RUNNING
    advanced = look(watched, 2, 200, 20)
    assert (advanced.verdict, advanced.share, watched.share) == (Verdict.ADVANCE, 1000, 5000)
    assert look(watched, 4, 260, 69).verdict is Verdict.RUNNING
    done = look(watched, 5, 300, 71)
    assert (done.verdict, done.canary.requests) == (Verdict.PROMOTE, 71)
    assert done.harmless["errors"] >= 20


def test_a_canary_that_is_not_shown_to_be_no_worse_is_not_promoted():
    watched = judge("steps: [50%], min_requests: 10, min_duration: 1s, max_duration: 60s")
    assert look(watched, 30, 50, 50).verdict is Verdict.RUNNING
    late = look(watched, 60, 100, 100)
    assert late.verdict is Verdict.INCONCLUSIVE
    assert "proof of no harm in errors (" in late.reason


def test_a_bad_canary_is_taken_back_whatever_the_minimum():
    watched = judge("min_requests: 100000, min_duration: 50m")
    seen = look(watched, 1, 1000, 20, failures=10)
    assert (seen.verdict, seen.culprits) == (Verdict.ROLLBACK, ("errors",))
    assert "10 of 20 requests failed against 0 of 1000" in seen.reason
    assert f"of {seen.needed:g} needed" in seen.reason


def test_a_canary_that_died_is_taken_back_at_the_second_look():
    watched = judge("")
    assert look(watched, 1, 0, 0, problem="fails its health check").verdict is Verdict.RUNNING
    seen = look(watched, 2, 0, 0, problem="fails its health check")
    assert (seen.verdict, "fails its health check" in seen.reason) == (Verdict.ROLLBACK, True)


def test_without_requests_it_waits_and_then_is_undecided():
    watched = judge("min_duration: 1s, max_duration: 10s")
    assert look(watched, 9, 100, 0).verdict is Verdict.RUNNING
    late = look(watched, 10, 100, 0)
    assert late.verdict is Verdict.INCONCLUSIVE
    assert "more requests" in late.reason


def test_a_restarted_gateway_does_not_undo_what_was_counted():
    watched = judge("steps: [10%], min_requests: 30, min_duration: 1s", WIDE)
    look(watched, 1, 100, 20)
    done = look(watched, 2, 50, 10)
    assert (done.verdict, done.canary.requests, done.stable.requests) == (Verdict.PROMOTE, 30, 150)


def test_blue_green_is_one_step_with_everything():
    assert judge("kind: blue-green").share == 10_000


def slower(requests: int, bucket: int) -> Counts:
    latency = [0] * (len(BOUNDS) + 1)
    latency[bucket] = requests
    return Counts(requests=requests, failures=0, latency=tuple(latency))


@pytest.mark.parametrize(("on", "verdict"), [("errors, latency", Verdict.ROLLBACK), ("errors", Verdict.RUNNING)])
def test_a_slower_canary_is_taken_back_where_the_file_says_so(on, verdict):
    watched = judge("min_requests: 100000", f"rollback: {{on: [{on}]}}", BOUNDS)
    for second in range(1, 20):
        seen = watched.look(second, slower(190 * second, 1), slower(10 * second, 4))
        if seen.verdict is Verdict.ROLLBACK:
            break
    assert seen.verdict is verdict
    if verdict is Verdict.ROLLBACK:
        assert seen.culprits == ("latency",)
        assert "p50 ≤ 160 ms against ≤ 20 ms" in seen.reason


def test_a_shift_that_was_cut_short_goes_on_with_the_evidence_that_was_written_down():
    options = ("steps: [10%, 50%], min_requests: 100000", "", BOUNDS)
    whole, first = judge(*options), judge(*options)
    looks = []
    for second in range(1, 30):
        looks.append(first.look(second, slower(90 * second, 1), slower(10 * second, 2)))
        whole.look(second, slower(90 * second, 1), slower(10 * second, 2))
    resumed = judge(*options)
    written = [Look.model_validate_json(one.model_dump_json()) for one in looks]
    # The gateway counted on meanwhile; nobody looked at that.
    assert resumed.resume(written, slower(90 * 50, 1), slower(10 * 50, 2)) == 29
    ours = resumed.look(30, slower(90 * 51, 1), slower(10 * 51, 2))
    assert ours == whole.look(30, slower(90 * 30, 1), slower(10 * 30, 2))


def test_latencies_in_other_buckets_than_those_of_the_target_are_not_compared():
    """As another version of the target wrote them down, in the same release."""
    watched = judge("min_requests: 100000", "rollback: {on: [errors, latency]}", BOUNDS)
    for second in range(1, 20):
        seen = watched.look(second, *(
            Counts(requests=rate * second, failures=0, latency=latency)
            for rate, latency in ((190, (190 * second, 0, 0)), (10, (0, 0, 10 * second)))
        ))  # fmt: skip
    assert (seen.verdict, sum(seen.canary.latency)) == (Verdict.RUNNING, 0)


NOW = datetime(2026, 1, 1, tzinfo=UTC)


def batch(
    revision: str,
    answers: dict[str, object],
    *,
    mirrored: bool = False,
    status: int = 200,
    at: datetime | None = None,
    request: bytes = b"{}",
) -> pa.RecordBatch:
    rows = [
        {
            "request_id": key, "time": at or NOW, "status": status, "seconds": 0.01, "mirrored": mirrored,
            "content_type": "application/json", "request": request, "endpoint": "m", "revision": revision,
            "response": json.dumps({"predictions": [answer]}).encode(),
        }
        for key, answer in answers.items()
    ]  # fmt: skip
    return pa.RecordBatch.from_pylist(rows, schema=SCHEMA)


def comparison(**limits) -> ShadowComparison:
    lines = ", ".join(f"{key}: {value}" for key, value in limits.items())
    spec = parse_release(f"model: m\nartifact: a\ntarget: {{kind: local}}\ngates: {{shadow: {{{lines}}}}}\n")
    return ShadowComparison(spec.gates.shadow, 0.01, "v1", "v2")


def labels(count: int, *, wrong: int = 0) -> dict[str, object]:
    return {str(number): ("other" if number < wrong else "same") for number in range(count)}


def test_equal_answers_pass_once_there_are_enough():
    compared = comparison(min_requests=50, max_disagreement="1%")
    compared.add([batch("v1", labels(49)), batch("v2", labels(49), mirrored=True)])
    assert compared.report(final=False) is None
    compared.add([batch("v1", labels(51)), batch("v2", labels(51), mirrored=True)])
    report = compared.report(final=False)
    assert (report.passed, report.pairs, report.disagreements, report.unmatched) == (True, 51, 0, 0)


def test_wrong_answers_are_refused_before_the_minimum():
    compared = comparison(min_requests=5000, max_disagreement="1%")
    compared.add([batch("v1", labels(40)), batch("v2", labels(40, wrong=30), mirrored=True)])
    report = compared.report(final=False)
    assert (report.passed, report.disagreements, len(report.examples)) == (False, 30, 5)
    assert "30 of 40 answers differ (75%), 1% may" in report.reason


def test_the_worst_segments_are_told_by_what_is_sure_of_them():
    compared = comparison(min_requests=500, max_disagreement="50%", segment="region")
    sizes = {"north": (200, 2), "south": (200, 40), "tiny": (1, 1), None: (10, 0)}
    for region, (pairs, wrong) in sizes.items():
        inputs = {"x": 1} if region is None else {"x": 1, "region": region}
        request = json.dumps({"dataframe_records": [inputs]}).encode()
        ours = {f"{region}-{key}": value for key, value in labels(pairs).items()}
        theirs = {f"{region}-{key}": value for key, value in labels(pairs, wrong=wrong).items()}
        compared.add([batch("v1", ours, request=request), batch("v2", theirs, mirrored=True, request=request)])
    found = compared.report(final=True).segments
    assert [(segment.value, segment.pairs, segment.disagreements) for segment in found] == [
        ("south", 200, 40), ("tiny", 1, 1), ("north", 200, 2)
    ]  # fmt: skip
    assert [round(segment.low, 3) for segment in found] == [0.116, 0.025, 0.0]
    assert comparison(min_requests=1).report(final=True).segments == ()


def test_segments_are_bounded(monkeypatch):
    monkeypatch.setattr("monitoring.shadow._MOST_SEGMENTS", 2)
    compared = comparison(min_requests=1, max_disagreement="50%", segment="user")
    for user in range(5):
        request = json.dumps({"instances": [{"user": user}]}).encode()
        key = str(user)
        compared.add([batch("v1", {key: 1}, request=request), batch("v2", {key: 2}, mirrored=True, request=request)])
    found = compared.report(final=True).segments
    assert {segment.value: segment.pairs for segment in found} == {"0": 1, "1": 1, "(others)": 3}


def test_rows_may_come_late_in_any_order_and_twice():
    compared = comparison(min_requests=10, max_disagreement="1%")
    compared.add([batch("v2", labels(10), mirrored=True)])
    compared.add([batch("v1", labels(6))])
    compared.add([batch("v1", labels(10)), batch("v2", labels(10), mirrored=True)])
    assert compared.report(final=False).pairs == 10


def test_direct_requests_and_other_revisions_are_not_compared():
    compared = comparison(min_requests=1)
    compared.add([batch("v1", labels(5)), batch("v2", labels(5)), batch("v0", labels(5), mirrored=True)])
    assert compared.report(final=False) is None
    late = compared.report(final=True)
    assert (late.passed, late.reason) == (False, "only 0 of 1 requests were compared in time")


def test_failures_of_the_challenger_are_disagreements():
    compared = comparison(min_requests=10, max_disagreement="50%")
    compared.add([batch("v1", labels(10)), batch("v2", labels(4), mirrored=True, status=500)])
    compared.add([batch("v2", labels(10), mirrored=True)])
    report = compared.report(final=True)
    assert (report.errors, report.disagreements, report.passed) == (4, 4, True)


def test_copies_that_are_never_answered_have_failed():
    compared = comparison(min_requests=10, max_disagreement="10%")
    early, later, last = (NOW + timedelta(seconds=seconds) for seconds in (3, 4, 20))
    compared.add([batch("v1", {"start": 1}, at=NOW), batch("v2", {"start": 1}, mirrored=True, at=NOW)])
    compared.add([batch("v1", labels(30), at=early)])
    compared.add([batch("v2", labels(12), mirrored=True, at=early)])
    compared.add([batch("v1", {"end": 1}, at=later), batch("v2", {"end": 1}, mirrored=True, at=later)])
    compared.add([batch("v1", {"later": 1}, at=later + timedelta(seconds=2))])
    assert compared.report(final=False) is None, "it does not pass while copies are late"
    compared.add([batch("v1", {"last": 1}, at=last), batch("v2", {"last": 1}, mirrored=True, at=last)])
    report = compared.report(final=False)
    assert (report.passed, report.errors, report.pairs) == (False, 19, 34)
    assert "19 of them failures (19 had no answer in 5 s)" in report.reason


@pytest.mark.parametrize(("ours", "theirs", "same"), [
    (b"[1.0]", b"[1.04]", True), (b"[1.0]", b"[1.06]", False), (b"[3]", b"[4]", False), (b"[100]", b"[101]", False),
    (b"[1]", b"[1.0]", True), (b'["a"]', b'["b"]', False), (b"[true]", b"[1]", False), (b"[null]", b"[null]", True),
    (b'[{"p": 0.5, "c": 1}]', b'[{"p": 0.51, "c": 1}]', True), (b'[{"p": 0.5}]', b'[{"q": 0.5}]', False),
    (b"[1.0, 2.0]", b"[1.0]", False), (b"[0.0]", b"[0.0000001]", False), (b"not json", b"[1]", False),
])  # fmt: skip
def test_labels_agree_exactly_and_numbers_within_the_tolerance(ours, theirs, same):
    assert agrees(Answered(200, 0.1, b"", ours), Answered(200, 0.1, b"", theirs), 0.05) is same


def test_two_failures_agree_and_one_does_not():
    ok, bad, invalid = (Answered(status, 0.1, b"", b"{}") for status in (200, 500, 400))
    assert agrees(bad, bad._replace(response=b"another id"), 0)
    assert not agrees(ok, bad, 0)
    assert not agrees(invalid, bad, 0)
