"""Where counts become blocks: by numbers of requests alone, whatever looks they come in."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import binom

from monitoring.judge import ErrorRate, JudgeBatch, Latency, Policy, SequentialJudge, batch
from monitoring.judge.batch import LEAST_BLOCK, ROLLBACK

POLICY = Policy([ErrorRate()], max_duration=1e6)


def judged(looks, policy=POLICY, **options):
    """A judge after these looks; each has the fresh counts of the canary and the stable version."""
    judge = SequentialJudge(policy)
    totals = np.zeros((2, 2))
    for at, fresh in enumerate(looks, start=1):
        totals += np.array(fresh, float)
        said = judge.observe(float(at), {"errors": totals[1].copy()}, {"errors": totals[0].copy()}, **options)
    return said


def every_outcome(looks, canary, stable):
    """The mean of the e-value over all outcomes of looks, each of (canary's, stable version's) requests.

    `canary` and `stable` are the rates of each look.
    """
    counts = [number for look in looks for number in look]
    rates = [rate for pair in zip(canary, stable, strict=True) for rate in pair]
    outcomes = np.array(list(itertools.product(*(range(number + 1) for number in counts))), float)
    chances = np.prod(binom.pmf(outcomes, counts, rates), axis=1)
    judges = JudgeBatch(POLICY, len(outcomes))
    requests, failures = np.zeros(2), np.zeros((2, len(outcomes)))
    for at, look in enumerate(looks):
        requests += look
        failures += outcomes[:, 2 * at : 2 * at + 2].T
        arms = [
            {"errors": np.stack([np.full(len(outcomes), trials), hits], axis=1)}
            for trials, hits in zip(requests, failures, strict=True)
        ]
        judges.observe(at + 1.0, arms[1], arms[0])
    assert chances.sum() == pytest.approx(1)
    return float(chances @ np.exp(judges.log_harm))


@pytest.mark.parametrize("rate", [0.02, 0.2, 0.6])
@pytest.mark.parametrize(
    "looks",
    [
        # Arms in looks of their own, little traffic, a look without any, and one that is a block by itself.
        [(0, 3), (2, 0), (0, 3), (2, 0)],
        [(1, 1), (1, 0), (0, 0), (1, 4), (1, 2)],
        [(3, 3), (0, 5), (2, 0)],
    ],
)
def test_the_mean_of_the_e_value_over_every_outcome_is_at_most_one(monkeypatch, looks, rate):
    monkeypatch.setattr(batch, "LEAST_BLOCK", 5)
    mean = every_outcome(looks, [1.1 * rate] * len(looks), [rate] * len(looks))
    assert 0.6 < mean <= 1 + 1e-9
    # The rate of both may change from block to block.
    if looks[0] == (3, 3):
        assert every_outcome(looks, [0.11, 0.55, 0.55], [0.1, 0.5, 0.5]) <= 1 + 1e-9
    assert every_outcome(looks, [min(3 * rate, 1)] * len(looks), [rate] * len(looks)) > mean


def test_counts_in_other_looks_are_worth_what_they_are_worth_in_the_same_ones():
    together = judged([((20, 4), (380, 4))] * 6)
    apart = judged([((20, 4), (0, 0)), ((0, 0), (380, 4))] * 6)
    assert apart.e_value == pytest.approx(together.e_value, rel=0.02)
    assert apart.phase == together.phase == "rollback"


def test_little_traffic_is_judged_in_blocks_and_a_busy_endpoint_look_by_look():
    """A failed request among nineteen good ones of the other version, second by second."""
    seconds = [((1, 1), (0, 0))] + [((0, 0), (1, 0))] * (LEAST_BLOCK - 1)
    assert judged(seconds[:-1]).e_value == pytest.approx(1)
    assert judged(seconds).e_value == pytest.approx(judged([((1, 1), (LEAST_BLOCK - 1, 0))]).e_value, rel=0.02)
    busy = [((10, 1), (190, 0)), ((10, 2), (190, 1))]
    assert len({judged(busy[:looks]).e_value for looks in (0, 1, 2) if looks} | {1.0}) == 3


@pytest.mark.parametrize("requests", [0, 5])
def test_failures_before_their_requests_are_an_alarm_and_no_verdict(requests):
    early = [((10, 0), (190, 0)), ((requests, 8), (190, 0))]
    said = judged(early)
    assert said.phase == "running"
    assert said.e_value == pytest.approx(judged(early[:1]).e_value, rel=0.1)
    assert said.alarms[-1] == f"the counters of the canary are wrong: 8 of {requests} in errors; they are not judged"
    assert f"8 of {requests} in errors" in said.message
    whole = judged([*early, ((40, 0), (190, 0))])
    assert "wrong" not in str(whole.alarms)
    assert whole.e_value > 10 * said.e_value


def test_a_block_has_one_split_of_traffic():
    """What is left of a step ends with it: the next one's counts are not joined to it."""
    judges = JudgeBatch(POLICY, 2)
    counted = {"errors": np.array([[10.0, 0.0], [10.0, 0.0]])}
    judges.observe(1.0, counted, {"errors": np.array([[2.0, 2.0], [0.0, 0.0]])})
    before = judges.log_harm.copy()
    assert before == pytest.approx(0)
    judges.begin_step(np.array([True, True]))
    judges.observe(2.0, counted, {"errors": np.array([[2.0, 2.0], [10.0, 10.0]])})
    assert judges.log_harm[0] > 1, "both versions had requests: it was a block"
    assert judges.log_harm[1] == pytest.approx(0), "ten failures against ten requests of the step before are none"


def test_what_chose_a_metrics_tests_is_no_evidence_for_them():
    policy = Policy([ErrorRate(), Latency((0.1, 0.2))], max_duration=1e6)
    judges = JudgeBatch(policy, 1)
    stable = {"errors": np.array([400.0, 0]), "latency": np.array([400.0, 0, 0])}
    slow = {"errors": np.array([400.0, 0]), "latency": np.array([0, 0, 400.0])}
    judges.observe(1.0, stable, slow)
    judges.observe(2.0, {name: 2 * cells for name, cells in stable.items()}, slow)
    judges.observe(3.0, {name: 3 * cells for name, cells in stable.items()}, slow)
    assert judges.evidence.harm["latency"][0] == pytest.approx(0)
    judges.observe(4.0, {name: 4 * cells for name, cells in stable.items()}, {name: 2 * c for name, c in slow.items()})
    assert judges.phase[0] == ROLLBACK


def test_the_state_between_two_blocks_is_kept():
    looks = [((1, 1), (0, 0)), ((0, 0), (12, 0)), ((0, 0), (12, 0))]
    totals = np.cumsum(np.array(looks, float), axis=0)
    straight, cut = SequentialJudge(POLICY), SequentialJudge(POLICY)
    for at, arms in enumerate(totals, start=1):
        said = straight.observe(at, {"errors": arms[1]}, {"errors": arms[0]})
        cut = SequentialJudge.from_dict(POLICY, cut.to_dict())
        assert cut.observe(at, {"errors": arms[1]}, {"errors": arms[0]}).e_value == said.e_value
    assert said.e_value > 1


@pytest.mark.parametrize("looks", [1, 12])
@pytest.mark.parametrize("stable", [0.002, 0.05])
def test_the_rate_that_would_have_shown_is_one_that_shows(looks, stable):
    """A canary that fails at this rate is at the threshold; at a third more it is taken back."""
    policy = Policy([ErrorRate()], max_duration=1e6)

    def look(rate):
        batch_of_one, requests = JudgeBatch(policy), np.array([600.0, 11_400.0])
        for at in range(1, looks + 1):
            counted = requests * at / looks
            # Failures as they are expected, which need not be whole.
            batch_of_one.observe(
                float(at), {"errors": counted[1] * np.array([1, stable])}, {"errors": counted[0] * np.array([1, rate])}
            )
        return batch_of_one

    least = look(stable).least_rate("errors")
    assert least == pytest.approx(look(0.5).least_rate("errors"), rel=0.01), "whatever the canary did"
    assert look(1.33 * least).log_harm[0] > policy.needed
    assert look(0.6 * least).log_harm[0] < policy.needed
    if looks == 1:
        # The only block is bet on before anything of it is known.
        assert look(least).log_harm[0] == pytest.approx(policy.needed, abs=0.7)


def test_with_a_request_a_minute_three_failures_of_three_show_and_one_does_not():
    minutes = [((1, 1), (0, 0)) if minute % 20 == 0 else ((0, 0), (1, 0)) for minute in range(60)]
    said = judged(minutes[:20])
    assert said.phase == "running"
    assert "no regression could have been shown yet" in said.message
    assert judged(minutes).phase == "rollback"
    # Of blocks like these, twelve show what three do, and lower rates.
    assert "a failure rate of" in judged([((1, int(minute == 0)), (19, 0)) for minute in range(12)]).message


@pytest.mark.parametrize(("late", "alarms"), [(0.0, True), (4.0, False)])
def test_counts_that_come_late_are_not_compared_with_the_new_split(late, alarms):
    """For four looks after a step, what comes is still of the step before."""
    judge = SequentialJudge(Policy([ErrorRate()], max_duration=1e6), late=late)
    shares, totals, seen = [], np.zeros(2), []
    for at in range(1, 40):
        shares.append(judge.share)
        totals += 20_000 * np.array([shares[max(at - 5, 0)], 1 - shares[max(at - 5, 0)]])
        said = judge.observe(float(at), {"errors": [totals[1], 0]}, {"errors": [totals[0], 0]})
        seen.append(any("is configured" in alarm for alarm in said.alarms))
    assert shares[-1] == 0.5
    assert any(seen) is alarms
