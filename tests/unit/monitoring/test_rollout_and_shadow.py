from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pyarrow as pa
import pytest

from deploy_targets.prediction_log import SCHEMA
from headgate.counts import LATENCY, Counts, latencies
from headgate.gateway_limits import EndpointLimits
from headgate.records import Usage
from headgate.release_file import parse_release
from headgate.verdicts import Look, Verdict
from monitoring.agreement import Answered, agrees
from monitoring.rollout import STATE_FORMAT, RolloutJudge, policy_of
from monitoring.shadow import ShadowComparison
from monitoring.shadow_rule import rule_of
from tasks import gates

NONE = Counts(requests=0, failures=0)


BOUNDS = (0.01, 0.02, 0.04, 0.08, 0.16)
USAGE = {"stable": Usage(memory=2**28, cpu=1.0, servers=("a",)), "canary": Usage(memory=2**28, cpu=1.0, servers=("b",))}


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


def test_answers_of_4xx_and_of_5xx_are_judged_apart():
    """Half a percent of 5xx is lost among five of 4xx, if they are counted together."""
    watched = judge("steps: [50%], min_requests: 100000")
    for second in range(1, 60):
        stable = Counts(requests=1000 * second, failures=50 * second, client_errors=50 * second)
        canary = Counts(requests=1000 * second, failures=55 * second, client_errors=50 * second)
        seen = watched.look(second, stable, canary)
        if seen.verdict is Verdict.ROLLBACK:
            break
    assert (seen.verdict, seen.culprits) == (Verdict.ROLLBACK, ("errors",))
    assert seen.canary.failures < 100 + seen.canary.client_errors
    assert f"{5 * second} of {1000 * second} requests failed against 0 of" in seen.reason
    refuses = judge("steps: [50%]")
    stable = Counts(requests=1000, failures=0)
    seen = refuses.look(1, stable, Counts(requests=1000, failures=100, client_errors=100))
    assert (seen.verdict, seen.culprits) == (Verdict.ROLLBACK, ("client_errors",))
    assert "100 of 1000 requests got a 4xx answer against 0 of 1000" in seen.reason


def test_a_wider_margin_of_errors_is_that_of_4xx_too_unless_it_has_its_own():
    def margins(text):
        policy = policy_of(parse_release(f"model: m\nartifact: a\ntarget: {{kind: local}}\n{text}"), ())
        return {metric.name: metric.margin_points for metric in policy.metrics}

    assert margins("") == {"errors": 0.001, "client_errors": 0.001}
    assert margins("judge: {error_rate: {margin_points: 5%}}") == {"errors": 0.05, "client_errors": 0.05}
    own = "judge: {error_rate: {margin_points: 5%}, client_error_rate: {margin_points: 1%}}"
    assert margins(own) == {"errors": 0.05, "client_errors": 0.01}


def test_a_canary_that_died_is_taken_back_at_the_second_look():
    watched = judge("")
    assert look(watched, 1, 0, 0, problem="fails its health check").verdict is Verdict.RUNNING
    seen = look(watched, 2, 0, 0, problem="fails its health check")
    assert (seen.verdict, "fails its health check" in seen.reason) == (Verdict.ROLLBACK, True)


def test_without_requests_it_waits_and_then_is_undecided():
    watched = judge("min_duration: 1s, max_duration: 10s")
    waits = look(watched, 7, 100, 0)
    assert waits.verdict is Verdict.RUNNING
    assert re.search(r"it needs \d+ more requests \(none come\).*, at most 3 s more", waits.reason)
    assert ": none of 100 requests in 7 s reached it; check the weights with headgate status; it needs" in waits.reason
    nowhere = look(judge(""), 7, 0, 0).reason
    assert ": no requests in 7 s; check that clients call the endpoint; it needs" in nowhere
    assert "0 of 0" not in nowhere
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
    return Counts(requests=requests, failures=0, histograms=latencies(latency))


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


def test_a_state_and_the_looks_after_it_are_worth_all_looks():
    options = ("steps: [10%, 50%], min_requests: 1200, min_duration: 10s", "", BOUNDS)
    whole, first, state, looks = judge(*options), judge(*options), {}, []
    for second in range(1, 60):
        counts = slower(90 * second, 1), slower(10 * second, 2)
        looks.append(first.look(second, *counts, usage=USAGE))
        whole.look(second, *counts, usage=USAGE)
        if second == 40:
            state = json.loads(json.dumps(first.to_dict(), allow_nan=False))
            assert state["format"] == STATE_FORMAT
    assert looks[-1].share == 5000
    resumed = judge(*options)
    assert resumed.resume(looks[40:], slower(90 * 80, 1), slower(10 * 80, 2), state) == 59
    ours = resumed.look(60, slower(90 * 81, 1), slower(10 * 81, 2), usage=USAGE)
    assert ours == whole.look(60, slower(90 * 60, 1), slower(10 * 60, 2), usage=USAGE)
    # Killed just after it was written.
    again = judge(*options)
    assert again.resume([], slower(0, 1), slower(0, 2), state) == 40
    assert again.look(41, slower(90, 1), slower(10, 2), usage=USAGE) == looks[40]


def test_latencies_in_other_buckets_than_those_of_the_target_are_not_compared():
    """As another version of the target wrote them down, in the same release."""
    watched = judge("min_requests: 100000", "rollback: {on: [errors, latency]}", BOUNDS)
    for second in range(1, 20):
        seen = watched.look(second, *(
            Counts(requests=rate * second, failures=0, histograms=latencies(latency))
            for rate, latency in ((190, (190 * second, 0, 0)), (10, (0, 0, 10 * second)))
        ))  # fmt: skip
    assert (seen.verdict, sum(seen.canary.buckets(LATENCY))) == (Verdict.RUNNING, 0)


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
    """Rows of a log: all of one time, or else five a second."""
    rows = [
        {
            "request_id": key, "time": at or NOW + timedelta(seconds=number / 5), "status": status,
            "seconds": 0.01, "mirrored": mirrored, "content_type": "application/json",
            "request": request, "endpoint": "m", "revision": revision,
            "response": json.dumps({"predictions": [answer]}).encode(),
        }
        for number, (key, answer) in enumerate(answers.items())
    ]  # fmt: skip
    return pa.RecordBatch.from_pylist(rows, schema=SCHEMA)


def comparison(**limits) -> ShadowComparison:
    lines = ", ".join(f"{key}: {value}" for key, value in limits.items())
    spec = parse_release(f"model: m\nartifact: a\ntarget: {{kind: local}}\ngates: {{shadow: {{{lines}}}}}\n")
    return ShadowComparison(spec.gates.shadow, rule_of(spec, spec.gates.shadow), "v1", "v2")


def quick_and_slow(*, failed: float, answered: float, share: float, percent: str = "100%"):
    """Yield the report after each second of 50 requests, of which a version fails a share.

    Args:
        failed: seconds after which it fails.
        answered: seconds after which it answers the others.
        share: of requests that it fails.
        percent: of requests that are copied.
    """
    spec = parse_release(
        f"model: m\nartifact: a\ntarget: {{kind: local}}\n"
        f"gates: {{shadow: {{min_requests: 50, max_disagreement: 20%, percent: {percent}}}}}\n"
    )
    asked = ShadowComparison(spec.gates.shadow, rule_of(spec, spec.gates.shadow), "v1", "v2", since=START)
    every = round(1 / share)
    rows = []
    for number in range(30 * 50):
        fails = number % every == 0
        rows.append(logged("v1", number, number / 50, 0.01))
        rows.append(logged("v2", number, number / 50, failed if fails else answered, 500 if fails else 200))
    for second in range(1, 30):
        until = datetime.fromtimestamp(START + second, UTC)
        asked.add([pa.RecordBatch.from_pylist([row for row in rows if row["time"] <= until])])
        yield asked.report(final=False)


@pytest.mark.parametrize("percent", ["100%", "50%"])
def test_a_version_that_fails_slowly_does_not_pass_before_its_failures_are_seen(percent):
    found = [report for report in quick_and_slow(failed=4, answered=0.01, share=1 / 3, percent=percent) if report]
    assert found
    assert not any(report.passed for report in found)


def test_a_version_that_fails_at_once_is_not_refused_before_its_answers_are_seen():
    found = [report for report in quick_and_slow(failed=0.01, answered=4, share=1 / 20) if report]
    assert found
    assert found[0].passed, found[0].reason


def labels(count: int, *, wrong: int = 0) -> dict[str, object]:
    return {str(number): ("other" if number < wrong else "same") for number in range(count)}


def test_equal_answers_pass_once_there_are_enough():
    compared = comparison(min_requests=50, max_disagreement="10%")
    compared.add([batch("v1", labels(49)), batch("v2", labels(49), mirrored=True)])
    assert compared.report(final=False) is None
    compared.add([batch("v1", labels(51)), batch("v2", labels(51), mirrored=True)])
    report = compared.report(final=False)
    assert (report.passed, report.pairs, report.disagreements, report.unmatched) == (True, 51, 0, 0)


def test_while_it_compares_it_says_what_it_waits_for_and_how_long_that_takes():
    compared = comparison(min_requests=50, max_disagreement="10%")
    assert compared.waits_for(20, 580) == (
        "0 of 50 requests compared in 20 s: no request was logged since then; at most 9 min more"
    )
    compared.add([batch("v1", labels(10))])
    assert "10 of the logged requests have one of their two answers; at most 9 min more" in compared.waits_for(20, 580)
    compared.add([batch("v2", labels(10, wrong=2), mirrored=True)])
    assert compared.waits_for(20, 580) == (
        "10 of 50 requests compared in 20 s, 2 of them differ; about 1 min at 0.5/s, at most 9 min more"
    )
    compared = comparison(min_requests=50, max_disagreement="10%")
    compared.add([batch("v1", labels(60)), batch("v2", labels(60, wrong=9), mirrored=True)])
    assert compared.report(final=False) is None
    assert "60 requests compared in 1 min: 9 differ (15%, 10% may)" in compared.waits_for(60, 540)


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
    assert comparison().report(final=True).segments == ()


def test_segments_are_bounded(monkeypatch):
    monkeypatch.setattr("monitoring.shadow._MOST_SEGMENTS", 2)
    compared = comparison(max_disagreement="50%", segment="user")
    for user in range(5):
        request = json.dumps({"instances": [{"user": user}]}).encode()
        key = str(user)
        compared.add([batch("v1", {key: 1}, request=request), batch("v2", {key: 2}, mirrored=True, request=request)])
    found = compared.report(final=True).segments
    assert {segment.value: segment.pairs for segment in found} == {"0": 1, "1": 1, "(others)": 3}


def test_rows_may_come_late_in_any_order_and_twice():
    compared = comparison(min_requests=60, max_disagreement="20%")
    compared.add([batch("v2", labels(60), mirrored=True)])
    compared.add([batch("v1", labels(6))])
    compared.add([batch("v1", labels(60)), batch("v2", labels(60), mirrored=True)])
    assert compared.report(final=False).pairs == 60


def test_direct_requests_and_other_revisions_are_not_compared():
    compared = comparison(min_requests=20, max_disagreement="50%")
    compared.add([batch("v1", labels(50)), batch("v2", labels(50)), batch("v0", labels(50), mirrored=True)])
    assert compared.report(final=False) is None
    late = compared.report(final=True)
    assert (late.passed, late.undecided, late.pairs) == (False, True, 0)
    assert late.reason == (
        "it needs about 20 more compared requests if none differs; 0 of 0 answers differ, 50% may; e-value 1 of 20 "
        "needed to pass, and 1 of 100 needed to refuse"
    )


def test_failures_of_the_challenger_are_disagreements():
    compared = comparison(min_requests=10, max_disagreement="50%")
    compared.add([batch("v1", labels(10)), batch("v2", labels(4), mirrored=True, status=500)])
    compared.add([batch("v2", labels(10), mirrored=True)])
    report = compared.report(final=True)
    assert (report.errors, report.disagreements, report.passed) == (4, 4, False)


def test_copies_that_are_never_answered_have_failed():
    compared = comparison(min_requests=20, max_disagreement="20%")
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


START = 1e9


def logged(revision: str, number: int, arrived: float, seconds: float, status: int = 200) -> dict:
    """A row as the log has it: at the time of the answer."""
    return {
        "revision": revision, "request_id": f"r{number}", "status": status, "seconds": seconds,
        "mirrored": revision == "v2", "request": b'{"inputs": [1]}', "response": b'{"predictions": [1]}',
        "time": datetime.fromtimestamp(START + arrived + seconds, UTC),
    }  # fmt: skip


def compared(
    champion: float, candidate: float, *, before: float = 0.0, lost: int = 0, failed: int = 0,
    since: float | None = START, longest: float = 60.0,
):  # fmt: skip
    """What becomes of a candidate, at five requests a second, mirrored from second 0 on.

    Args:
        champion, candidate: the seconds that each takes.
        before: how long there was traffic before.
        lost: every copy of so many has no answer; 0: none.
        failed: every request of so many is one that the champion fails; 0: none.
        since: what the comparison is told of when mirroring began.
        longest: the seconds that the gateway waits for the champion.
    """
    limits = {"min_requests": 100, "max_disagreement": "5%"}
    spec = parse_release(f"model: m\nartifact: a\ntarget: {{kind: local}}\ngates: {{shadow: {json.dumps(limits)}}}\n")
    told = {} if since is None else {"since": since}
    rule = rule_of(spec, spec.gates.shadow)
    asked = ShadowComparison(spec.gates.shadow, rule, "v1", "v2", longest=longest, **told)
    rows = []
    for number in range(round(-before * 5), 400):
        at = number / 5
        rows.append(logged("v1", number, at, champion, 503 if failed and number % failed == 0 else 200))
        if number >= 0 and not (lost and number % lost == 0):
            rows.append(logged("v2", number, at, candidate))
    # What was answered before mirroring began is not read.
    rows = sorted((row for row in rows if row["time"].timestamp() >= START), key=lambda row: row["time"])
    for first in range(0, len(rows), 5):
        asked.add([pa.RecordBatch.from_pylist(rows[first : first + 5])])
        if (found := asked.report(final=False)) is not None:
            return found
    return asked.report(final=True)


@pytest.mark.parametrize("since", [START, None], ids=["told", "not told"])
@pytest.mark.parametrize("before", [0.0, 10.0, 60.0])
@pytest.mark.parametrize(
    ("champion", "candidate"), [(0.1, 0.1), (3, 3), (3, 0.1), (7, 7), (7, 0.1), (20, 0.1), (20, 20), (0.1, 4)]
)
def test_equal_answers_pass_however_slow_the_champion_and_whenever_mirroring_began(champion, candidate, before, since):
    report = compared(champion, candidate, before=before, since=since)
    assert report.passed, report.reason
    assert (report.disagreements, report.errors) == (0, 0)


@pytest.mark.parametrize("candidate", [0.1, 200])
def test_copies_wait_for_the_champion_as_long_as_the_gateway_does(candidate):
    assert compared(200, candidate, before=10.0, longest=300.0).passed
    assert not compared(200, 0.1, before=10.0, longest=300.0, lost=3).passed


def test_the_gateway_waits_for_both_as_long_as_the_longer_limit_is(monkeypatch):
    told = {}

    def made(*_, **given):
        told.update(given)
        raise KeyboardInterrupt

    monkeypatch.setattr("monitoring.shadow.ShadowComparison", made)
    spec = parse_release("model: m\nartifact: a\ntarget: {kind: local}\n")
    target = SimpleNamespace(SUBSTITUTED=(), MIRROR_LIMIT=0, captured=None)
    job = SimpleNamespace(spec=spec, target=target, endpoint="m", journal=None)
    arms = [SimpleNamespace(name=f"{seconds}", limits=EndpointLimits(request=seconds)) for seconds in (900.0, 60.0)]
    with pytest.raises(KeyboardInterrupt):
        gates._compare(job, *arms, 0.0)
    assert told["longest"] == 900.0


@pytest.mark.parametrize(("late", "are_missing"), [(0, False), (8, False), (25, False), (45, True)])
def test_a_log_that_a_busy_machine_writes_late_is_waited_for(late, are_missing):
    asked, held_back = comparison(min_requests=400, max_disagreement="5%"), []
    for second in range(120):
        numbers = range(second * 5, second * 5 + 5)
        rows = [logged("v1", number, number / 5, 0.1) for number in numbers]
        held_back += [logged("v2", number, number / 5, 0.1) for number in numbers]
        # From the second second on, nothing of the challenger is written for a while.
        if not 2 <= second < 2 + late:
            rows, held_back = rows + held_back, []
        asked.add([pa.RecordBatch.from_pylist(rows)])
    report = asked.report(final=True)
    assert (report.errors > 0) == are_missing, report.reason


@pytest.mark.parametrize("champion", [0.1, 3, 7])
@pytest.mark.parametrize("candidate", [0.1, 7])
@pytest.mark.parametrize("since", [START, None], ids=["told", "not told"])
def test_copies_without_an_answer_are_found_also_beside_a_slow_champion(champion, candidate, since):
    report = compared(champion, candidate, before=10.0, lost=3, since=since)
    assert not report.passed
    assert "had no answer in" in report.reason


def test_a_candidate_that_answers_nothing_does_not_pass():
    report = compared(0.1, 0.1, lost=1)
    assert not report.passed
    assert report.disagreements == report.pairs > 0


def test_a_champion_that_fails_does_not_keep_the_version_out_that_would_cure_it():
    report = compared(3, 0.1, failed=2)
    assert report.passed, report.reason
    assert "that only the champion failed are not compared" in report.reason


@pytest.mark.parametrize(("ours", "theirs", "same"), [
    ("[NaN, 0.5]", "[NaN, 0.50001]", True), ("[NaN, 0.5]", "[0.5, NaN]", False), ("[NaN]", "[null]", False),
    ("[Infinity]", "[1e999]", True), ("[Infinity]", "[-Infinity]", False), ("[Infinity]", "[5.0]", False),
    ("[5.0]", "[Infinity]", False), ("[1.0]", f"[1{'0' * 400}]", False), ("[NaN", "[NaN ", False),
])  # fmt: skip
def test_answers_without_a_number_are_compared(ours, theirs, same):
    bodies = [f'{{"predictions": {text}}}'.encode() for text in (ours, theirs)]
    assert agrees(*(Answered(200, 0.1, b"", body) for body in bodies), 0.05) is same
