"""Settings that can never be met are said: at any traffic by the file itself, at an endpoint's own by a plan."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from headgate.counts import Counts
from headgate.errors import SpecError
from headgate.release_file import check_release, parse_release
from headgate.traffic import Seen, unmet_at
from headgate.verdicts import Look, Verdict
from registry import Entry, Journal, Kind
from registry.traffic import seen

MINIMAL = "model: wine\nartifact: runs:/1/model\ntarget: {kind: local}\n"


@pytest.mark.parametrize(("entry", "field", "says"), [
    ("monitor: {schedule: '0 0 30 2 *'}", "monitor.schedule", "names a day that no month has"),
    ("freeze: [{start: '0 0 31 4 *', end: '0 8 * * MON'}]", "freeze[0].start", "never comes"),
    ("freeze: [{start: '0 8 * * MON', end: '0 0 31 6 *'}]", "freeze[0].end", "never comes"),
    ("runtime: {ready_timeout: 0s}", "runtime.ready_timeout", "above 0s"),
    ("runtime: {memory: 0Gi}", "runtime.memory", "at least 1Mi"),
    ("capture: {keep: 0Mi}", "capture.keep", "at least 1Mi"),
    ("gates: {smoke: {max_latency: 0s}}", "gates.smoke.max_latency", "above 0s"),
    ("gates: {shadow: {max_duration: 0s}}", "gates.shadow.max_duration", "above 0s"),
    ("strategy: {min_duration: 0s, max_duration: 0s}", "strategy.max_duration", "above 0s"),
    ("strategy: {min_requests: 99999999999}", "strategy.min_requests", "5.56e+07 requests a second"),
    ("capture: {sample: 0.0000001%}", "gates.shadow.min_requests", "needs 1.67e+09 requests a second"),
    ("gates: {shadow: {percent: 0.01%, min_requests: 100000000}}", "gates.shadow.min_requests", "within 10m"),
    ("gates: {shadow: {min_requests: 500}}", "gates.shadow.min_requests", "901 pairs to show that fewer than 0.5% do"),
    ("gates: {shadow: {max_disagreement: 0.1%}}", "gates.shadow.min_requests", "it takes 4512 pairs"),
    ("gates: {shadow: {max_disagreement: 0%}}", "gates.shadow.max_disagreement", "that no answer ever differs"),
    ("judge: {false_promotion: 0.1%}", "gates.shadow.min_requests", "with a chance of 0.1% (judge.false_promotion)"),
    ("judge: {latency: {margin: 0%, tolerance: 0%, floor: 0s}}", "judge.latency.margin", "can never be shown"),
    ("monitor: {window: 0s}", "monitor.window", "above 0s"),
    ("monitor: {window: 1s, min_rows: 2000000}", "monitor.min_rows", "needs 2e+06 requests a second"),
    ("monitor: {quality: {lookback: 0s}}", "monitor.quality.lookback", "above 0s"),
    ("monitor: {quality: {lookback: 1s, min_labels: 2000000}}", "monitor.quality.min_labels", "2e+06 requests a sec"),
])  # fmt: skip
def test_what_no_traffic_can_meet_is_refused_at_its_place(entry, field, says):
    with pytest.raises(SpecError) as raised:
        parse_release(MINIMAL + entry + "\n")
    (problem,) = raised.value.problems
    assert problem.field == field
    assert says in problem.message
    assert problem.line == 4
    assert problem.hint
    assert problem.value


@pytest.mark.parametrize("entry", [
    "gates: {shadow: {min_requests: 901}}",
    "gates: {shadow: {min_requests: 500, max_disagreement: 0.9%}}",
    "gates: {shadow: {min_requests: 1, max_disagreement: 100%}}",
    "judge: {false_promotion: 0.1%}\ngates: {shadow: off}",
])  # fmt: skip
def test_pairs_that_can_show_what_the_shadow_gate_asks_for_are_enough(entry):
    parse_release(MINIMAL + entry + "\n")


def test_the_numbers_that_a_refusal_names_are_enough():
    with pytest.raises(SpecError) as raised:
        parse_release(MINIMAL + "gates: {shadow: {min_requests: 700}}\n")
    (problem,) = raised.value.problems
    assert problem.hint == "901 at least, or max_disagreement of 0.65% at least"
    parse_release(MINIMAL + "gates: {shadow: {min_requests: 700, max_disagreement: 0.65%}}\n")


@pytest.mark.parametrize(("limits", "points"), [
    ("margin_points: 2%", "1.01%"), ("margin_points: 20%", "10.1%"), ("margin_points: 5%, tolerance: 0%", "2.52%"),
    ("margin_points: 20%, tolerance_points: 0.1%", "10.1%"),
])  # fmt: skip
def test_a_tolerance_that_does_not_fit_its_margin_is_a_warning_that_names_one_that_does(tmp_path, limits, points):
    file = tmp_path / "release.yaml"
    file.write_text(MINIMAL + f"judge: {{error_rate: {{{limits}}}}}\n")
    _, (problem,) = check_release(file)
    assert (problem.field, problem.line) == ("judge.error_rate.tolerance_points", 4)
    assert "taken back more often than promoted" in problem.message
    assert problem.hint.startswith(f"{points} at least")
    kept = ", ".join(part for part in limits.split(", ") if "tolerance_points" not in part)
    file.write_text(MINIMAL + f"judge: {{error_rate: {{{kept}, tolerance_points: {points}}}}}\n")
    assert check_release(file)[1] == []


@pytest.mark.parametrize("limits", ["margin_points: 0.5%", "margin_points: 1%", "margin_points: 0.01%, margin: 100%"])
def test_a_tolerance_that_fits_is_said_nothing_of(tmp_path, limits):
    (tmp_path / "release.yaml").write_text(MINIMAL + f"judge: {{error_rate: {{{limits}}}}}\n")
    assert check_release(tmp_path / "release.yaml")[1] == []


def test_client_errors_have_a_tolerance_of_their_own(tmp_path):
    (tmp_path / "release.yaml").write_text(MINIMAL + "judge: {client_error_rate: {margin_points: 20%}}\n")
    _, (problem,) = check_release(tmp_path / "release.yaml")
    assert problem.field == "judge.client_error_rate.tolerance_points"


def test_more_points_are_no_harm_than_are_good_enough_is_refused():
    with pytest.raises(SpecError, match=r"tolerance_points \(1%\) is at most margin_points \(0.1%\)"):
        parse_release(MINIMAL + "judge: {error_rate: {tolerance_points: 1%}}\n")


@pytest.mark.parametrize(("entry", "field", "says"), [
    ("judge: {error_rate: {margin_points: 0%}}", "judge.error_rate.margin_points", "where nothing fails"),
    ("judge: {client_error_rate: {margin_points: 0%}}", "judge.client_error_rate.margin_points", "where nothing fails"),
    ("judge: {latency: {floor: 9ms}}\nrollback: {on: [errors]}", "judge.latency", "rollback.on has no latency"),
    ("gates: {smoke: {max_latency: 2m}}", "gates.smoke.max_latency", "gateway.timeouts.request (1m)"),
    ("gates: {smoke: {max_latency: 3s}}\ngateway: {timeouts: {request: 2s}}", "gates.smoke.max_latency", "(2s)"),
    ("freeze: [{start: '0 18 * * FRI', end: '0 18 * * FRI'}]", "freeze", "leaves no moment to release in"),
    ("freeze: [{start: 0 0 * * *, end: 0 12 * * *}, {start: 0 12 * * *, end: 0 0 * * *}]", "freeze", "no moment"),
    ("strategy: {kind: blue-green, steps: [5%]}", "strategy.steps", "never reached"),
    ("rollback: {on: [errors, drift]}", "rollback.on", "no monitor entry"),
    ("monitor: {window: 60d}", "monitor.window", "capture.retention (30d)"),
    ("monitor: {quality: {lookback: 60d}}", "monitor.quality.lookback", "capture.retention (30d)"),
    ("monitor: {drift: {thresholds: {x: 0.2}, ignore: [x]}}", "monitor.drift.thresholds.x", "is never used"),
    ("monitor: {drift: {thresholds: {x: 0.2}}}\ncapture: {redact: [x]}", "monitor.drift.thresholds.x", "is never read"),
    ("gates: {shadow: {segment: x}}\ncapture: {redact: [x]}", "gates.shadow.segment", "is never read"),
    ("monitor: {quality: {answer: x}}\ncapture: {redact: [x]}", "monitor.quality.answer", "is never read"),
])  # fmt: skip
def test_what_is_never_used_is_a_warning_at_its_place(tmp_path, entry, field, says):
    (tmp_path / "release.yaml").write_text(MINIMAL + entry + "\n")
    _, (problem,) = check_release(tmp_path / "release.yaml")
    assert problem.field == field
    assert says in problem.message
    assert problem.line == 4
    assert problem.as_warning().severity == "warning"


@pytest.mark.parametrize("entry", [
    "monitor: {schedule: '0 0 29 2 *'}",
    "freeze: [{start: '0 18 * * FRI', end: '0 8 * * MON'}]",
    "freeze: [{start: '0 0 * * *', end: '0 12 * * *'}, {start: '1 12 * * *', end: '0 0 * * *'}]",
    "judge: {latency: {margin: 0%, tolerance: 0%}}",
    "strategy: {steps: [5%]}",
    "gates: {shadow: off}\ncapture: {sample: 0.0000001%}",
    "monitor: {}\nrollback: {on: [errors, drift, quality]}",
    "gates: {smoke: {max_latency: 2m}}\ngateway: {timeouts: {request: 2m}}",
    "gateway: {timeouts: {request: 1s}}",
    "rollback: {on: [errors]}",
    "judge: {client_error_rate: {margin_points: 1%}}",
])  # fmt: skip
def test_what_can_be_met_is_said_nothing_of(tmp_path, entry):
    (tmp_path / "release.yaml").write_text(MINIMAL + entry + "\n")
    assert check_release(tmp_path / "release.yaml")[1] == []


SLOW = Seen(per_second=0.1, requests=200, failures=0, when="at the shift of today")
BUSY = Seen(per_second=100.0, requests=200_000, failures=20, when="at the shift of today")


def at(
    traffic: Seen | None, entry: str = "", look_seconds: float = 1.0, log_delay: float = 5.0
) -> dict[str, str]:  # fmt: skip
    return {
        one.subject: f"{one.problem}; {one.fix}"
        for one in unmet_at(parse_release(MINIMAL + entry), traffic, look_seconds, log_delay)
    }


def test_the_defaults_are_met_by_a_busy_endpoint():
    assert at(BUSY, "monitor: {}\n") == {}


def test_what_an_endpoints_own_traffic_cannot_bring_is_said_with_the_numbers():
    found = at(SLOW, "monitor: {min_rows: 1000}\n")
    assert found.keys() == {"gates.shadow.max_duration", "strategy.min_requests", "monitor.min_rows"}
    assert found["gates.shadow.max_duration"] == (
        "is 10m, in which 60 pairs come, and no version passes with fewer than 1000: 0.1 requests a second (at the "
        "shift of today), 100% of which count; gates.shadow.max_duration of 167m at least, or max_disagreement of 7.3% "
        "at least with min_requests of 60"
    )
    assert "or max_disagreement" not in at(SLOW, "gates: {shadow: {max_duration: 10s}}\n")["gates.shadow.max_duration"]
    assert "180 come within strategy.max_duration (1h)" in found["strategy.min_requests"]
    assert "labels" not in str(found)
    assert "monitor.quality.min_labels" in at(SLOW, "monitor: {quality: {lookback: 5m}, min_rows: 1}\n")


def test_a_fix_that_a_plan_names_is_enough():
    more = "gates: {shadow: {max_duration: 167m}}\nstrategy: {min_requests: 180}\n"
    assert at(SLOW, more) == {}
    more = "gates: {shadow: {max_disagreement: 7.3%, min_requests: 60}}\nstrategy: {min_requests: 180}\n"
    assert at(SLOW, more) == {}


def test_where_nothing_failed_a_margin_of_nothing_is_said_with_what_was_counted():
    more = "judge: {error_rate: {margin_points: 0%}}\ngates: {shadow: off}\nstrategy: {min_requests: 0}\n"
    assert "none of 200 requests failed" in at(SLOW, more)["judge.error_rate.margin_points"]
    assert at(BUSY, more) == {}
    more = more.replace("error_rate", "client_error_rate")
    assert "none of 200 requests failed" in at(SLOW, more)["judge.client_error_rate.margin_points"]


def test_whether_a_tolerance_fits_is_said_of_the_rate_that_was_counted():
    more = "judge: {error_rate: {margin_points: 2%}}\n"
    subject = "judge.error_rate.tolerance_points"
    assert "0.01% of whose requests fail (at the shift of today)" in at(BUSY, more)[subject]
    often = BUSY.model_copy(update={"failures": 10_000})
    assert at(often, more) == {}
    of_clients = often.model_copy(update={"client_errors": 10_000})
    assert subject in at(of_clients, more), "answers of 4xx are another metric"


def test_steps_that_the_looks_of_a_platform_cannot_reach_are_said():
    more = "strategy: {min_duration: 1s, max_duration: 90s, min_requests: 0}\n"
    assert at(BUSY, more) == {}
    assert "in which 1 can end; fewer steps, or max_duration of 3m" in at(BUSY, more, 60.0)["strategy.steps"]
    assert "strategy.steps" in at(None, more, 60.0), "it takes no traffic to know"


@pytest.mark.parametrize("traffic", [BUSY, None], ids=["busy", "not known"])
def test_a_comparison_that_ends_before_the_log_has_a_row_is_said(traffic):
    more = "gates: {shadow: {max_duration: 3m, min_requests: 100, max_disagreement: 20%}}\n"
    said = at(traffic, more, log_delay=300.0)["gates.shadow.max_duration"]
    assert "is 3m, and the platform's log may be late by 5m" in said
    assert "10m at least" in said
    assert "gates.shadow.max_duration" not in at(traffic, more, log_delay=60.0)


def test_without_traffic_that_was_counted_a_plan_says_so():
    (finding,) = unmet_at(parse_release(MINIMAL), None, 1.0)
    assert (finding.severity, finding.subject) == ("ok", "traffic")


@pytest.mark.parametrize(("share", "per_second"), [(5000, 30.0), (10_000, 10.0)])
def test_traffic_is_that_of_the_newest_shift(tmp_path, share, per_second):
    journal = Journal(f"sqlite:///{tmp_path}/journal.db")
    assert seen(journal, "wine") is None
    for seconds in (10.0, 20.0):
        look = Look(
            seconds=seconds, share=share, stable=Counts(requests=int(20 * seconds), failures=1),
            canary=Counts(requests=int(10 * seconds), failures=2), e_value=1, needed=100, verdict=Verdict.RUNNING,
            reason="r",
        )  # fmt: skip
        journal.append(Entry(
            endpoint="wine", release_id="r", kind=Kind.LOOK, what="running", actor="judge",
            evidence=look.model_dump(mode="json"), at=datetime(2026, 11, 20, 9, tzinfo=UTC),
        ))  # fmt: skip
    found = seen(journal, "wine")
    assert (found.per_second, found.requests) == (per_second, 20 * per_second)
    assert found.failures == (2 if share == 10_000 else 3)
    assert found.when == "at the shift of 2026-11-20 09:00 UTC"
    journal.close()
