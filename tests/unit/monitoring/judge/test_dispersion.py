"""Replicas whose requests fail together, and what a verdict is worth where that was not measured."""

from __future__ import annotations

import numpy as np
import pytest
from judging import Traffic, judged, policy
from scipy.stats import binom

from monitoring.judge import ErrorRate, JudgeBatch, PredictionShift, SequentialJudge
from monitoring.judge.batch import ROLLBACK
from monitoring.judge.dispersion import measure


def bursts(rng, size: int, replicas: int, seconds: int) -> np.ndarray:
    """Failure rates of replicas, of shape (size, seconds, replicas): bad spells of ten seconds, each its own."""
    spells = rng.random((size, -(-seconds // 10), replicas)) < 0.02
    return np.where(np.repeat(spells, 10, axis=1)[:, :seconds], 0.3, 0.001)


def released(*, tempered: bool) -> float:
    """The share of false rollbacks among 200 good canaries on two of twenty such replicas."""
    rng, size, seconds = np.random.default_rng(11), 200, 600
    batch = JudgeBatch(policy(shares=(0.1,), min_duration=10**6), size)
    if tempered:
        rates = bursts(rng, 1, 18, 1800)[0]
        requests = np.full(rates.shape, 10)
        batch.warm_up({"errors": np.stack([requests, rng.binomial(10, rates)], axis=-1)})
    rates = bursts(rng, size, 20, seconds)
    failures = rng.binomial(10, rates).cumsum(axis=1)
    for second in range(seconds):
        arms = [failures[:, second, part].sum(axis=1) for part in (slice(2, 20), slice(2))]
        total = [np.full(size, 10.0 * replicas * (second + 1)) for replicas in (18, 2)]
        stable, canary = ({"errors": np.stack([n, x], axis=1)} for n, x in zip(total, arms, strict=True))
        phase = batch.observe(second + 1.0, stable, canary)
    return float((phase == ROLLBACK).mean())


def test_replicas_that_fail_in_bursts_are_no_false_alarm_once_their_dispersion_is_known():
    assert released(tempered=True) <= binom.ppf(1 - 1e-4, 200, 0.01) / 200
    assert released(tempered=False) > 0.5, "without it they are: the test would show nothing"


def test_dispersion_of_independent_requests_is_one_and_of_bursts_is_more():
    rng = np.random.default_rng(0)
    trials = np.full((600, 20, 1), 50.0)
    steady = rng.binomial(50, 0.02, (600, 20, 1)).astype(float)
    assert measure(steady, trials).phi[0] < 1.3
    wild = rng.binomial(50, bursts(rng, 1, 20, 600)[0][..., None]).astype(float)
    assert measure(wild, trials).phi[0] > 5


def test_dispersion_is_measured_metric_by_metric():
    rates = bursts(np.random.default_rng(3), 1, 18, 900)[0]
    failures = np.random.default_rng(4).binomial(10, rates)
    batch = JudgeBatch(policy(ErrorRate(), PredictionShift(3)))
    batch.warm_up({"errors": np.stack([np.full(rates.shape, 10), failures], axis=-1)})
    batch.observe(1.0, {"errors": (100, 1), "predictions": (50, 30, 20)}, {"errors": (5, 0), "predictions": (2, 2, 1)})
    assert batch.dispersion_of("errors") > 2
    assert batch.dispersion_of("predictions") == 1
    assert batch.undispersed() == ["there is no history of the stable version's replicas"]


@pytest.mark.parametrize(
    ("history", "says"),
    [
        ({}, "no history"),
        ({"errors": np.ones((50, 1, 2))}, "one replica"),
        ({"errors": np.ones((1, 9, 2))}, "too little history"),
    ],
)
def test_without_dispersion_the_verdict_says_what_it_is_worth(history, says):
    judge = SequentialJudge(policy())
    judge.warm_up(history)
    _, judgement = judged(judge, Traffic(1), errors=0.5)
    assert says in judgement.message
    assert "1% holds if requests fail independently" in judgement.message
