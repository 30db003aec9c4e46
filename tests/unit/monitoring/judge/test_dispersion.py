"""Requests that fail together: how it is measured on the stable version's past, and what it does to verdicts."""

from __future__ import annotations

import numpy as np
import pytest
from judging import Traffic, judged, policy
from scipy.stats import binom

from monitoring.judge import ErrorRate, JudgeBatch, Latency, PredictionShift, SequentialJudge
from monitoring.judge.batch import ROLLBACK
from monitoring.judge.dispersion import Dispersion, measure

SECONDS, RATE, USUAL, IN_A_BURST = 3600, 100, 0.002, 0.3


def bursts(rng, servers: int, seconds: int = SECONDS) -> np.ndarray:
    """Failure rates, of shape (seconds, servers): in one of fifty windows of ten seconds three in ten fail."""
    bad = rng.random((-(-seconds // 10), servers)) < 0.02
    return np.where(np.repeat(bad, 10, axis=0)[:seconds], IN_A_BURST, USUAL)


def measured(rates, together: int = 1, **how) -> Dispersion:
    """Of one test, with RATE requests a second and server, and failures that come `together`."""
    rng = np.random.default_rng(5)
    hits = rng.binomial(RATE, np.broadcast_to(rates / together, rates.shape)) * together
    return measure(hits[..., None].astype(float), np.full((*rates.shape, 1), float(RATE)), **how)


def learn(judge: JudgeBatch | SequentialJudge, past: dict[str, np.ndarray]) -> None:
    """Rates and how much counts vary, both from the same seconds."""
    judge.warm_up(past)
    judge.measure(past)


def calm(servers: int) -> np.ndarray:
    return np.full((SECONDS, servers), USUAL)


@pytest.mark.parametrize("servers", [1, 20])
def test_independent_requests_have_no_dispersion(servers):
    found = measured(calm(servers))
    assert found.phi[0] == pytest.approx(1.0, abs=0.1)
    assert found.spread[0] == pytest.approx(1.0, abs=0.1)
    assert not found.has_bursts[0]
    assert found.known_seconds == servers * SECONDS


@pytest.mark.parametrize("servers", [1, 20])
def test_requests_that_fail_within_a_second_have_their_number_as_phi_and_are_no_burst(servers):
    found = measured(calm(servers), together=8)
    assert found.phi[0] == pytest.approx(8.0, rel=0.15)
    assert found.spread[0] == pytest.approx(8.0, rel=0.15)
    assert not found.has_bursts[0]


def test_bursts_of_one_of_several_servers_are_in_the_spread_and_not_in_phi():
    found = measured(bursts(np.random.default_rng(1), 20))
    assert found.phi[0] < 1.5
    assert found.spread[0] > 50
    assert found.has_bursts[0]
    assert np.isinf(found.per_second)


def test_a_burst_of_the_only_server_hits_fewer_requests_of_a_version_with_fewer():
    rates = bursts(np.random.default_rng(2), 1)
    alone, several = measured(rates), measured(rates, is_alone=False)
    assert alone.has_bursts[0]
    assert alone.phi[0] < 2
    assert alone.spread[0] > 50
    assert alone.per_second == RATE
    assert np.isinf(several.per_second), "the log does not tell several servers apart"


def test_a_sample_of_the_requests_shows_a_part_of_the_dispersion():
    found = measured(calm(1), together=8, sample=0.5)
    assert found.phi[0] == pytest.approx(15.0, rel=0.15)
    assert measured(bursts(np.random.default_rng(2), 1), sample=0.5).per_second == 2 * RATE


@pytest.mark.parametrize("seed", range(10))
def test_a_few_failures_in_little_traffic_are_no_dispersion(seed):
    rng = np.random.default_rng(seed)
    trials = rng.poisson(0.05, (6 * SECONDS, 20, 1)).astype(float)
    found = measure(rng.binomial(trials.astype(int), 0.002).astype(float), trials)
    assert (found.phi[0], found.spread[0], found.has_bursts[0]) == (1.0, 1.0, False)


def test_seconds_without_requests_are_no_known_past():
    trials = np.zeros((6 * SECONDS, 1, 1))
    trials[-22:] = RATE
    assert measure(np.zeros_like(trials), trials).why_not.startswith("less than ten minutes")
    trials[-900:] = RATE
    found = measure(np.zeros_like(trials), trials)
    assert (found.why_not, found.known_seconds, found.phi[0]) == ("", 900.0, 1.0)


def test_a_server_that_is_worse_all_the_time_is_in_phi():
    rates = calm(20)
    rates[:, 3] *= 4
    assert measured(rates).phi[0] > 2


def test_a_rate_that_changes_by_the_hour_is_no_dispersion_of_the_only_server():
    rates = USUAL * (1.5 + np.sin(np.arange(SECONDS) / SECONDS * 2 * np.pi))[:, None]
    assert measured(rates).spread[0] < 1.2


def test_what_is_written_down_comes_back():
    found = measured(bursts(np.random.default_rng(2), 1))
    back = Dispersion.from_dict(found.to_dict())
    assert back.to_dict() == found.to_dict()
    several = measured(calm(20))
    assert np.isinf(Dispersion.from_dict(several.to_dict()).per_second)


def released(*, known: bool) -> tuple[float, float]:
    """The shares of 100 good, and of 100 broken canaries, that are taken back, on two of twenty servers with bursts."""
    rng, size, seconds = np.random.default_rng(11), 100, 300
    shares = []
    for broken in (0.0, 0.2):
        batch = JudgeBatch(policy(shares=(0.1,), min_duration=10**6), size)
        if known:
            rates = bursts(rng, 18)
            learn(batch, {"errors": np.stack([np.full(rates.shape, 10), rng.binomial(10, rates)], axis=-1)})
        rates = np.stack([bursts(rng, 20, seconds) for _ in range(size)])
        rates[:, :, :2] = np.maximum(rates[:, :, :2], broken)
        failures = rng.binomial(10, rates).cumsum(axis=1)
        for second in range(seconds):
            arms = [failures[:, second, part].sum(axis=1) for part in (slice(2, 20), slice(2))]
            total = [np.full(size, 10.0 * servers * (second + 1)) for servers in (18, 2)]
            stable, canary = ({"errors": np.stack([n, x], axis=1)} for n, x in zip(total, arms, strict=True))
            phase = batch.observe(second + 1.0, stable, canary)
        shares.append(float((phase == ROLLBACK).mean()))
    return shares[0], shares[1]


def test_bursts_take_no_good_version_back_once_they_are_known_and_a_broken_one_is_found():
    good, broken = released(known=True)
    assert good <= binom.ppf(1 - 1e-4, 100, 0.01) / 100
    assert broken == 1
    assert released(known=False)[0] > 0.2, "without it they do: the test would show nothing"


def until(judge: SequentialJudge, failing_seconds: int) -> float | None:
    """The second in which a canary is taken back of which half of the requests fail for so long."""
    stable, canary = np.zeros(2), np.zeros(2)
    judge.begin({"errors": stable}, {"errors": canary})
    for second in range(1, 61):
        stable += (95, 0)
        canary += (5, 3 if second <= failing_seconds else 0)
        if judge.observe(second, {"errors": stable}, {"errors": canary}).phase == "rollback":
            return second
    return None


def test_with_bursts_in_the_past_a_fault_has_to_last_and_without_it_does_not():
    past = bursts(np.random.default_rng(2), 1)
    hits = np.random.default_rng(3).binomial(RATE, past)
    counts = {"errors": np.stack([np.full(past.shape, RATE), hits], axis=-1)}
    found = {}
    for name, rows in (("bursts", counts), ("calm", {"errors": counts["errors"] * [1, 0]})):
        for failing in (10, 60):
            judge = SequentialJudge(policy(min_duration=10**6))
            judge.warm_up({"errors": (10**6, 2000)})
            judge.measure(rows)
            found[name, failing] = until(judge, failing)
    assert found["bursts", 10] is None
    assert 12 <= found["bursts", 60] <= 20
    assert found["calm", 10] == found["calm", 60] < 5


def test_dispersion_is_measured_metric_by_metric():
    rates = bursts(np.random.default_rng(3), 18)
    failures = np.random.default_rng(4).binomial(10, rates)
    batch = JudgeBatch(policy(ErrorRate(), PredictionShift(3)))
    learn(batch, {"errors": np.stack([np.full(rates.shape, 10), failures], axis=-1)})
    batch.observe(1.0, {"errors": (100, 1), "predictions": (50, 30, 20)}, {"errors": (5, 0), "predictions": (2, 2, 1)})
    assert batch.dispersion_of("errors") > 2
    assert batch.dispersion_of("predictions") == 1
    assert batch.undispersed() == ["nothing is known of the stable version's past"]


def test_stalls_divide_the_evidence_that_a_version_is_slower_and_not_that_it_is_as_fast():
    rng, bounds = np.random.default_rng(6), (0.01, 0.1)
    stalls = rng.random((1200, 1)) < 0.05
    slow = np.where(stalls, 80, rng.binomial(RATE, 0.01, (1200, 1)))
    batch = JudgeBatch(policy(ErrorRate(), Latency(bounds)))
    learn(batch, {"latency": np.stack([RATE - slow, slow, 0 * slow], axis=-1)})
    found = batch.dispersions["latency"]
    near = Latency(bounds).compare(np.array([1000.0, 50.0, 1.0]), batch.scales).step >= 0
    assert found.phi[~near].max() > 20
    assert (found.phi[near] == 1).all()


def test_a_judge_goes_on_bit_for_bit_in_the_middle_of_a_burst():
    past = bursts(np.random.default_rng(2), 1)
    hits = np.random.default_rng(3).binomial(RATE, past)
    chosen = policy(min_duration=10**6)
    judge = SequentialJudge(chosen)
    judge.warm_up({"errors": (10**6, 2000)})
    judge.measure({"errors": np.stack([np.full(past.shape, RATE), hits], axis=-1)})
    judge.begin({"errors": (0, 0)}, {"errors": (0, 0)})
    for second in range(1, 9):
        judge.observe(second, {"errors": (95 * second, 0)}, {"errors": (5 * second, 2 * second)})
    again = SequentialJudge.from_dict(chosen, judge.to_dict())
    said = [one.observe(9, {"errors": (855, 0)}, {"errors": (45, 18)}) for one in (judge, again)]
    assert said[0] == said[1]
    assert judge.to_dict() == again.to_dict()


@pytest.mark.parametrize(
    ("past", "says"),
    [
        ({}, "1% holds if requests fail independently: nothing is known of the stable version's past"),
        ({"errors": np.ones((50, 1, 2))}, "1% holds if requests fail independently: less than ten minutes"),
        (
            {"errors": np.broadcast_to((100.0, 0.0), (3600, 1, 2))},
            "requests failed independently in 1h of logs of the stable version's servers",
        ),
    ],
)
def test_the_verdict_says_what_it_is_worth(past, says):
    judge = SequentialJudge(policy())
    judge.measure(past)
    _, judgement = judged(judge, Traffic(1), errors=0.5)
    assert judgement.phase == "rollback"
    assert says in judgement.message


def test_the_verdict_says_what_its_evidence_was_divided_by():
    rates = bursts(np.random.default_rng(3), 18)
    failures = np.random.default_rng(4).binomial(10, rates)
    judge = SequentialJudge(policy())
    learn(judge, {"errors": np.stack([np.full(rates.shape, 10), failures], axis=-1)})
    _, judgement = judged(judge, Traffic(1), errors=0.9)
    assert judgement.phase == "rollback"
    assert "evidence of errors is divided by" in judgement.message
    assert "in 18h of logs of the stable version's servers; failures came in bursts, so a fault has to last" in (
        judgement.message
    )
