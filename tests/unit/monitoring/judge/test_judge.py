"""One release's judge: what it takes, what it says, and what does not confuse it."""

from __future__ import annotations

import itertools
import json
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from judging import BOUNDS, Traffic, judged, latencies, policy
from scipy.stats import binom

from monitoring.judge import (
    BoundedMean,
    Disagreement,
    ErrorRate,
    JudgeBatch,
    Latency,
    MetricError,
    Policy,
    PredictionShift,
    SequentialJudge,
)
from monitoring.judge.batch import PROMOTE, ROLLBACK
from monitoring.judge.judge import _culprits
from monitoring.judge.metrics import HARM, margin_scales

EVERYTHING = (
    ErrorRate(), Latency(BOUNDS), PredictionShift(3), BoundedMean(tuple(np.linspace(0, 1, 21))), Disagreement(),
)  # fmt: skip


def test_a_good_canary_is_shown_to_be_no_worse_step_by_step():
    judge = SequentialJudge(policy(*EVERYTHING), "m@v2")
    seen = []
    traffic = Traffic(3)
    for second in range(1, 1200):
        judgement = judge.observe(second, *traffic.second(judge.share))
        if judgement.phase != "running":
            seen.append(judgement)
        if judgement.phase == "promote":
            break
    assert [one.phase for one in seen] == ["advance", "advance", "promote"]
    assert seen[0].message.startswith("advance m@v2 at 5% to 25%: ")
    # At the margins of the step that has just ended.
    assert all(state.e_harmless >= 20 for name, state in seen[0].metrics.items() if name != "predictions")
    assert seen[-1].culprits == ()
    assert all(state.e_harmless >= 20 for name, state in seen[-1].metrics.items() if name != "predictions")
    low, high = seen[-1].metrics["errors"].confidence_sequence
    assert low < 0 < high < 0.01


FAULTS = {
    "errors": ({"errors": 0.2}, 15),
    "latency": ({"slower": 1.5}, 60),
    "predictions": ({"classes": (0.3, 0.3, 0.4)}, 400),
    "business": ({"value": 0.4}, 700),
}


@pytest.mark.parametrize("culprit", FAULTS)
def test_each_fault_is_found_among_all_metrics_and_named(culprit):
    faults, at_most = FAULTS[culprit]
    metrics = [metric for metric in EVERYTHING if metric.name != "disagreement"]
    judge = SequentialJudge(policy(*metrics), "m@v2")
    second, judgement = judged(judge, Traffic(1), **faults)
    assert judgement.phase == "rollback", judgement
    assert culprit in judgement.culprits
    assert second <= at_most
    assert judgement.e_value >= judgement.needed
    assert judgement.p_value <= 0.01
    assert judgement.message.startswith("roll back m@v2 at ")


def test_a_slow_tail_is_found_though_the_median_is_the_same():
    judge, traffic = SequentialJudge(policy(Latency(BOUNDS))), Traffic(2)
    for second in range(1, 400):
        stable, canary = traffic.second(judge.share)
        tail = latencies(traffic.rng, 1, 6.0) if second % 2 else 0
        traffic.arms["canary"]["latency"] = traffic.arms["canary"]["latency"] + tail
        judgement = judge.observe(second, {"latency": stable["latency"]}, {"latency": canary["latency"]})
        if judgement.phase == "rollback":
            break
    assert judgement.phase == "rollback"
    assert "p99" in judgement.message


def test_what_it_says_while_it_waits():
    judge, traffic = SequentialJudge(policy(), "m@v2"), Traffic(4)
    _, judgement = judged(judge, traffic, seconds=20)
    assert judgement.phase == "running"
    assert "hold m@v2 at 5%: " in judgement.message
    assert "requests failed against" in judgement.message
    assert "would have shown by now" in judgement.message


def test_minimum_exposure_and_duration_hold_back_promotion_and_never_a_rollback():
    late = {"min_duration": 3000.0, "min_requests": 10**6}
    _, judgement = judged(SequentialJudge(policy(**late)), Traffic(5), seconds=30, errors=0.3)
    assert judgement.phase == "rollback"
    _, judgement = judged(SequentialJudge(policy(**late)), Traffic(5), seconds=600)
    assert judgement.phase == "running"
    assert re.search(
        r"needs \d+ more requests \(at [\d.]+/s\) and \d+ s more.*, at most \d+ \w+ more", judgement.message
    )


def test_it_gives_up_at_the_end_of_its_time_and_says_what_was_missing():
    _, judgement = judged(SequentialJudge(policy(max_duration=30.0)), Traffic(5))
    assert judgement.phase == "inconclusive"
    assert "undecided canary at 5% after 30s: it still needs " in judgement.message


def test_a_schedule_takes_its_time_and_promotes_only_with_evidence():
    timed = policy(
        ErrorRate(margin_points=0.02), ramp="schedule", shares=(0.1, 0.5), min_duration=60.0, min_requests=60
    )
    second, judgement = judged(SequentialJudge(timed), Traffic(6))
    assert (judgement.phase, second) == ("promote", 60)
    strict = policy(ErrorRate(margin_points=0.0001), ramp="schedule", max_duration=120.0)
    assert judged(SequentialJudge(strict), Traffic(6))[1].phase == "inconclusive"


def test_a_decision_is_final():
    judge, traffic = SequentialJudge(policy()), Traffic(7)
    second, _ = judged(judge, traffic, errors=0.5)
    assert judged(judge, traffic, seconds=60, start=second)[1].phase == "rollback"


def looks(*rows):
    """Each row: at, stable (requests, failures), canary."""
    judge = SequentialJudge(policy())
    for at, stable, canary in rows:
        judgement = judge.observe(at, {"errors": stable}, {"errors": canary})
    return judge, judgement


def test_counters_that_start_again_lose_nothing_and_invent_nothing():
    plain, expected = looks((1, (100, 2), (10, 1)), (2, (150, 3), (16, 1)), (3, (170, 3), (20, 2)))
    reset, judgement = looks((1, (100, 2), (10, 1)), (2, (50, 1), (6, 0)), (3, (70, 1), (10, 1)))
    assert judgement.e_value == expected.e_value
    assert all(np.array_equal(plain.totals(arm)["errors"], reset.totals(arm)["errors"]) for arm in ("stable", "canary"))


@pytest.mark.parametrize("empty", ["stable", "canary"])
def test_an_arm_without_requests_is_waited_for(empty):
    sizes = {"stable": 100, "canary": 9, empty: 0}
    rows = [(at, (sizes["stable"] * at,) * 2, (sizes["canary"] * at,) * 2) for at in range(1, 30)]
    _, judgement = looks(*rows)
    assert judgement.phase == "running"
    assert judgement.e_value == pytest.approx(1)


def test_counters_that_come_late_are_evidence_when_they_come():
    judge = SequentialJudge(policy())
    for at in range(1, 6):
        judgement = judge.observe(at, {"errors": (190 * at, 0)}, {})
    assert judgement.e_value == pytest.approx(1)
    judgement = judge.observe(6, {"errors": (1140, 0)}, {"errors": (60, 30)})
    assert judgement.phase == "rollback"


def test_a_clock_that_is_set_back_stands_still():
    judge, _ = looks((10, (100, 0), (10, 0)), (4, (200, 0), (20, 0)), (5, (300, 0), (30, 0)))
    assert judge._batch.now[0] == 10


def test_the_array_that_the_caller_counts_on_in_is_not_kept():
    judge, counters = SequentialJudge(policy()), np.array([100.0, 0.0])
    judge.observe(1, {"errors": counters}, {"errors": (10, 0)})
    counters += 50
    judge.observe(2, {"errors": counters}, {"errors": (15, 0)})
    assert judge.totals("stable")["errors"].tolist() == [150, 50]


@pytest.mark.parametrize("at", [1, 40, 150])
def test_it_goes_on_bit_for_bit_after_being_saved(at):
    metrics = policy(*EVERYTHING)
    whole, traffic, twin = SequentialJudge(metrics), Traffic(8), Traffic(8)
    for second in range(1, at + 1):
        whole.observe(second, *traffic.second(whole.share))
    saved = json.dumps(whole.to_dict())
    other = SequentialJudge.from_dict(metrics, json.loads(saved))
    for _ in range(at):
        twin.second(0.05)
    for second in range(at + 1, at + 40):
        arms = traffic.second(whole.share)
        assert whole.observe(second, *arms) == other.observe(second, *arms)
    assert json.dumps(whole.to_dict()) == json.dumps(other.to_dict())


def test_a_router_that_splits_otherwise_is_an_alarm_and_no_rollback():
    judge, traffic = SequentialJudge(policy(min_duration=3000.0), "m@v2"), Traffic(9, rate=2000)
    for second in range(1, 40):
        arms = traffic.second(judge.share * 1.3)
        judgement = judge.observe(second, *({"errors": arm["errors"]} for arm in arms))
    assert judgement.phase in {"running", "advance"}
    assert "is configured" in judgement.alarms[0]
    assert judgement.alarms[0] in judgement.message


def test_the_alarm_of_a_router_that_was_mended_ends_with_its_step():
    judge, traffic, seen = SequentialJudge(policy(min_duration=3000.0), "m@v2"), Traffic(9, rate=2000), {}
    for second in range(1, 120):
        step, wrong = judge.step, 1.3 if judge.step == 0 else 1.0
        arms = traffic.second(judge.share * wrong)
        judgement = judge.observe(second, *({"errors": arm["errors"]} for arm in arms))
        seen.setdefault(step, []).append(bool(judgement.alarms))
    assert seen[0][-1]
    assert len(seen) > 1
    # The look of the step itself, and the one after, still have requests of the split before.
    assert not any(seen[1][2:])


def test_culprits_are_those_of_e_bh():
    hundred = math.log(100)
    assert _culprits({"a": hundred + math.log(3), "b": 0.0, "c": 0.0}, 0.01) == ("a",)
    assert _culprits({"a": hundred + 1.0, "b": 0.0, "c": 0.0}, 0.01) == ()
    # Two that are each too weak alone name each other.
    assert _culprits({"a": hundred + math.log(1.5), "b": hundred + math.log(1.6), "c": 0.0}, 0.01) == ("b", "a")


def test_earlier_steps_may_show_less():
    assert margin_scales((0.05, 0.25, 0.5)).tolist() == [10, 2, 1]
    assert margin_scales((0.001, 1.0)).tolist() == [10, 1]
    deltas = ErrorRate(margin_points=0.001).compare(np.zeros(2), margin_scales((0.05, 0.25, 0.5))).tests.delta
    assert deltas.tolist() == [0, 0.01, 0.002, 0.001]


@given(st.integers(0, 10**6), st.floats(0, 0.3), st.floats(0, 0.05), st.sampled_from([7, 30, 90]))
def test_latency_bounds_are_rounded_to_the_side_that_claims_less(seed, tolerance, floor, buckets):
    """Two versions alike: the canary never has more hits for harm, nor fewer for non-inferiority."""
    rng = np.random.default_rng(seed)
    bounds = tuple(np.unique(np.round(np.sort(rng.lognormal(-3, 1, buckets)), 6)))
    if len(bounds) < 2:
        return
    metric = Latency(bounds, tolerance=tolerance, margin=tolerance + 0.1, floor=floor)
    histogram = rng.integers(0, 1000, len(bounds) + 1).astype(float)
    comparison = metric.compare(histogram + 1, margin_scales((0.05, 0.5)))
    canary, stable = histogram @ comparison.canary, histogram @ comparison.stable
    edges = np.array([0.0, *bounds, np.inf])
    assert (canary <= stable).all()
    for test, step in enumerate(comparison.step):
        at = edges[int(np.argmax(comparison.stable[:, test]))]
        cells = np.flatnonzero(comparison.canary[:, test])
        slower = edges[cells[0]] if cells.size else np.inf
        wanted = max(at * (1 + tolerance), at + floor)
        if step == HARM:
            assert slower >= wanted * (1 - 1e-6)
        else:
            scale = margin_scales((0.05, 0.5))[step]
            assert slower <= max(at * (1 + metric.margin * scale), at + floor) * (1 + 1e-6)


def test_strata_are_compared_each_with_itself():
    """Longer prompts in the canary are not a slower canary; a canary that is slower in one stratum is."""
    rng = np.random.default_rng(0)
    verdicts = []
    for slower in (1.0, 1.6):
        judge = SequentialJudge(policy(Latency(BOUNDS, strata=2), shares=(0.2,), min_duration=60.0))
        arms = {arm: np.zeros((2, len(BOUNDS) + 1)) for arm in ("stable", "canary")}
        for second in range(1, 600):
            for arm, sizes, scales in (("stable", (120, 40), (1, 5)), ("canary", (10, 30), (1, 5 * slower))):
                arms[arm] += [latencies(rng, size, scale) for size, scale in zip(sizes, scales, strict=True)]
            judgement = judge.observe(second, *({"latency": arms[arm].ravel()} for arm in ("stable", "canary")))
            if judgement.phase != "running":
                break
        verdicts.append(judgement.phase)
    assert verdicts == ["promote", "rollback"]


def test_a_bounded_mean_counts_losses_whichever_way_is_better():
    more, less = (BoundedMean((0.0, 1.0, 2.0), better=way).compare(np.zeros(2), np.ones(1)) for way in ("more", "less"))
    assert more.canary[:, 0].tolist() == [0.75, 0.25]
    assert less.canary[:, 0].tolist() == [0.25, 0.75]


def test_every_bounded_bet_has_a_mean_of_at_most_one():
    """Values on bucket edges, both arms with the same mean: by counting out."""
    batch = JudgeBatch(policy(BoundedMean((0.0, 0.5, 1.0), tolerance=0.0, margin=0.1), shares=(0.5,)))
    chances = []
    for split in itertools.product(range(3), repeat=2):
        one = JudgeBatch(policy(BoundedMean((0.0, 0.5, 1.0), tolerance=0.0, margin=0.1), shares=(0.5,)))
        canary, stable = ([hits, 2 - hits] for hits in split)
        one.observe(1.0, {"business": stable}, {"business": canary})
        chance = binom.pmf(split[0], 2, 0.5) * binom.pmf(split[1], 2, 0.5)
        chances.append(chance * math.exp(one.evidence.harm["business"][0]))
    assert sum(chances) <= 1 + 1e-9
    assert not batch.evidence.log_harm.any()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: ErrorRate(tolerance=0.5, margin=0.1), "at most the margin"),
        (lambda: Latency((0.1,)), "at least two rising numbers"),
        (lambda: Latency((0.2, 0.1)), "rising"),
        (lambda: Latency(BOUNDS, quantiles=(0.5, 1.0)), "between 0 and 1"),
        (lambda: Latency(BOUNDS, tolerance=0.3), "from 0 to margin"),
        (lambda: PredictionShift(1), "at least two"),
        (lambda: PredictionShift(3, tolerance=1.5), "from 0 to 1"),
        (lambda: BoundedMean((1.0,)), "rising"),
        (lambda: BoundedMean((0.0, 1.0), better="higher"), "`more` or `less`"),
        (lambda: Disagreement(tolerance=0.0), "between 0 and 1"),
        (lambda: Policy([]), "has metrics"),
        (lambda: Policy([ErrorRate(), ErrorRate()]), "a name of its own"),
        (lambda: Policy([PredictionShift(3)]), "never shows that there is no harm"),
        (lambda: Policy([ErrorRate()], alpha=0.0), "between 0 and 1"),
        (lambda: Policy([ErrorRate()], shares=(0.5, 0.2)), "shares rise"),
        (lambda: Policy([ErrorRate()], ramp="fast"), "`evidence` or `schedule`"),
    ],
)
def test_a_metric_that_cannot_be_says_why(make, says):
    with pytest.raises(MetricError, match=says):
        make()


def test_latencies_wait_until_their_quantiles_are_known():
    judge, traffic = SequentialJudge(policy(ErrorRate(), Latency(BOUNDS), min_duration=10**6)), Traffic(1)
    for second in range(1, 10):
        share, arms = judge.share, traffic.second(0.05, slower=3.0)
        judgement = judge.observe(second, *({n: arm[n] for n in ("errors", "latency")} for arm in arms))
        if second < 4:
            # Some 190 stable requests a second, and 500 are needed; they are no evidence.
            assert judgement.metrics["latency"].e_value == 1.0
    assert share == 0.05
    assert judgement.culprits == ("latency",)


def test_many_endpoints_are_judged_at_once_as_one_would_be():
    single, batch = [JudgeBatch(policy()) for _ in range(3)], JudgeBatch(policy(), 3)
    rng = np.random.default_rng(5)
    total = np.zeros((2, 3, 2))
    for second in range(1, 60):
        total[..., 0] += [[100] * 3, [20] * 3]
        total[..., 1] += [rng.binomial(100, 0.01, 3), rng.binomial(20, [0.01, 0.3, 0.02])]
        phases = batch.observe(second, {"errors": total[0]}, {"errors": total[1]})
        alone = [
            one.observe(second, {"errors": total[0, i]}, {"errors": total[1, i]})[0] for i, one in enumerate(single)
        ]
        assert phases.tolist() == alone
        assert np.allclose(batch.log_harm, [one.log_harm[0] for one in single], rtol=1e-9)
    assert phases[1] == ROLLBACK
    assert PROMOTE != ROLLBACK


def look_at(judge, traffic, second, *, paused=False, **faults):
    arms = traffic.second(judge.share, **faults)
    return judge.observe(second, *({"errors": arm["errors"]} for arm in arms), paused=paused)


def test_a_paused_judge_stays_in_its_step_and_its_time_stands_still():
    judge, traffic = SequentialJudge(policy(max_duration=700.0), "m@v2"), Traffic(3)
    said = [look_at(judge, traffic, second, paused=True) for second in range(1, 1001)]
    assert {one.phase for one in said} == {"running"}
    assert judge.step == 0
    assert "it needs someone to resume it" in said[-1].message
    # What it has seen meanwhile counts, and the thousand seconds do not.
    assert look_at(judge, traffic, 1001).phase == "advance"
    restored = SequentialJudge.from_dict(judge.policy, json.loads(json.dumps(judge.to_dict())))
    assert restored.to_dict() == judge.to_dict()
    for second in range(1002, 1700):
        if (last := look_at(judge, traffic, second)).phase == "promote":
            break
    assert last.phase == "promote"


def test_harm_ends_a_pause():
    judge, traffic = SequentialJudge(policy()), Traffic(4)
    phases = [look_at(judge, traffic, second, paused=True, errors=0.3).phase for second in range(1, 30)]
    assert phases.index("rollback") < 10
