from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from headgate.records import Counts
from monitoring.judge import OFFSETS, ErrorRateJudge, disagreement_e_value


def counts(requests: int, failures: int) -> Counts:
    return Counts(requests=requests, failures=failures)


def blocks(rng, n, *, stable, canary, per_look=(190, 10)):
    for _ in range(n):
        yield (
            counts(per_look[0], int(rng.binomial(per_look[0], stable))),
            counts(per_look[1], int(rng.binomial(per_look[1], canary))),
        )


def run(rng, looks, **rates) -> tuple[ErrorRateJudge, int]:
    """Look until the judge rejects; returns how many failed canary requests that took."""
    judge, failed = ErrorRateJudge(0.01), 0
    for stable, canary in blocks(rng, looks, **rates):
        judge.observe(stable, canary)
        failed += canary.failures
        if judge.rejects:
            break
    return judge, failed


@pytest.mark.parametrize("p", [0.001, 0.01, 0.2, 0.5])
@pytest.mark.parametrize(("history", "seen"), [((0, 0), None), ((1000, 10), None), ((100, 40), (5, 3))])
def test_one_block_is_an_e_value_by_enumeration(p, history, seen):
    """The mean of E over every outcome of a block is at most 1 wherever the canary is no worse."""
    stable_n, canary_n = 9, 5
    judge = ErrorRateJudge(0.01, counts(*history))
    if seen:
        judge._learn(counts(0, 0), counts(*seen))
    for canary_p in (p, p * 0.7):
        means = np.zeros(len(OFFSETS) + 1)
        for x, y in itertools.product(range(stable_n + 1), range(canary_n + 1)):
            chance = stats.binom.pmf(x, stable_n, p) * stats.binom.pmf(y, canary_n, canary_p)
            means += chance * np.exp(judge._block(counts(stable_n, x), counts(canary_n, y)))
        assert (means <= 1 + 1e-9).all()


def test_no_traffic_is_no_evidence():
    judge = ErrorRateJudge(0.01)
    for stable, canary in [((0, 0), (0, 0)), ((50, 3), (0, 0)), ((0, 0), (50, 30))]:
        assert judge.observe(counts(*stable), counts(*canary)) == 1.0
    assert not judge.rejects


@given(st.integers(0, 9))
def test_more_canary_failures_are_more_evidence(failures):
    fewer, more = ErrorRateJudge(0.01), ErrorRateJudge(0.01)
    fewer.observe(counts(1000, 10), counts(10, failures))
    more.observe(counts(1000, 10), counts(10, failures + 1))
    assert more.e_value >= fewer.e_value


def test_false_rollbacks_stay_within_their_budget():
    """400 releases of an equal version, 300 looks each; the budget is 5%, so 36 would be four sigmas too many."""
    rng = np.random.default_rng(1)
    rejected = 0
    for _ in range(400):
        judge = ErrorRateJudge(0.05)
        looks = blocks(rng, 300, stable=0.01, canary=0.01, per_look=(40, 10))
        rejected += any(judge.observe(*block) >= judge.needed for block in looks)
    assert rejected <= 36


def test_changing_weights_and_rates_together_do_not_mislead():
    """The base rate grows fourfold just as the canary's share does: a pooled test would blame the canary."""
    rng = np.random.default_rng(2)
    rejected = 0
    for _ in range(100):
        judge = ErrorRateJudge(0.01)
        for stable, canary in blocks(rng, 100, stable=0.005, canary=0.005, per_look=(190, 10)):
            judge.observe(stable, canary)
        for stable, canary in blocks(rng, 100, stable=0.02, canary=0.02, per_look=(100, 100)):
            judge.observe(stable, canary)
        rejected += judge.rejects
    assert rejected <= 3


@pytest.mark.parametrize(("canary", "most"), [(0.2, 12), (0.05, 25), (1.0, 12)])
def test_a_broken_canary_costs_a_handful_of_requests(canary, most):
    rng = np.random.default_rng(3)
    taken = [run(rng, 2000, stable=0.001, canary=canary) for _ in range(40)]
    assert all(judge.rejects for judge, _ in taken)
    assert np.median([failed for _, failed in taken]) <= most


def test_a_fault_that_begins_late_is_found_soon():
    rng = np.random.default_rng(4)
    judge, failed = ErrorRateJudge(0.01), 0
    for stable, canary in blocks(rng, 1500, stable=0.01, canary=0.01):
        judge.observe(stable, canary)
    assert not judge.rejects
    for stable, canary in blocks(rng, 1500, stable=0.01, canary=0.2):
        judge.observe(stable, canary)
        failed += canary.failures
        if judge.rejects:
            break
    assert judge.rejects
    assert failed < 40


def test_it_goes_on_bit_for_bit_after_a_restart():
    rng = np.random.default_rng(5)
    judge = ErrorRateJudge(0.01, counts(500, 5))
    looks = list(blocks(rng, 60, stable=0.01, canary=0.05))
    for stable, canary in looks[:30]:
        judge.observe(stable, canary)
    restored = ErrorRateJudge.from_dict(json.loads(json.dumps(judge.to_dict())))
    for stable, canary in looks[30:]:
        assert judge.observe(stable, canary) == restored.observe(stable, canary)


@pytest.mark.parametrize(("k", "n", "limit"), [(0, 10, 0.1), (3, 40, 0.05), (20, 30, 0.3), (1, 500, 0.005)])
def test_the_mixture_is_its_integral(k, n, limit):
    integral, _ = integrate.quad(lambda p: p**k * (1 - p) ** (n - k), limit, 1, epsabs=0, epsrel=1e-10)
    expected = integral / ((1 - limit) * limit**k * (1 - limit) ** (n - k))
    assert disagreement_e_value(k, n, limit) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("limit", [0.005, 0.1, 0.5])
def test_the_mixture_has_mean_one_at_the_limit(limit):
    mean = sum(stats.binom.pmf(k, 30, limit) * disagreement_e_value(k, 30, limit) for k in range(31))
    assert mean == pytest.approx(1, abs=1e-6)


def test_the_mixtures_edges():
    assert disagreement_e_value(0, 0, 0.1) == 1
    assert disagreement_e_value(1, 10, 0.0) == math.inf
    assert disagreement_e_value(0, 10, 0.0) == 1
    assert disagreement_e_value(10, 10, 1.0) == 1
    assert disagreement_e_value(0, 100_000, 0.1) < 1e-3
