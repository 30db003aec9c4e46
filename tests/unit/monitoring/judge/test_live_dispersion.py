"""How much the stable version's counts vary since the shift began, where its past is unknown or was calmer."""

from __future__ import annotations

import json

import numpy as np
import pytest
from judging import Traffic, judged, policy

from monitoring.judge import JudgeBatch, SequentialJudge
from monitoring.judge.batch import ROLLBACK
from monitoring.judge.live import LiveDispersion

SIZE, RATE, USUAL = 200, 100, 0.02


def measured(rates: np.ndarray, look: int = 1) -> LiveDispersion:
    """Of SIZE judges, with RATE requests a second; `rates` has one failure rate a second, of each judge or of all."""
    live, rng = LiveDispersion(SIZE, 1), np.random.default_rng(3)
    for second in range(0, len(rates), look):
        trials = np.full((SIZE, 1), float(RATE * look))
        hits = rng.binomial(RATE * look, np.broadcast_to(rates[second], SIZE))[:, None].astype(float)
        live.add(np.full(SIZE, float(look)), hits, trials)
    return live


def stalls(seconds: int) -> np.ndarray:
    """A fifth of the requests fail in one of twenty windows of ten seconds, each judge's own."""
    bad = np.random.default_rng(1).random((seconds // 10, SIZE)) < 0.05
    return np.where(np.repeat(bad, 10, axis=0), 0.2, USUAL)


def test_independent_requests_vary_by_chance_alone():
    assert (measured(np.full(600, USUAL)).phi > 1).mean() < 0.02


@pytest.mark.parametrize("look", [1, 10])
def test_stalls_are_seen_after_minutes_whatever_the_looks(look):
    assert (measured(stalls(50), look).phi == 1).all(), "a minute is the least"
    assert np.median(measured(stalls(600), look).phi) > 3


def test_a_rate_that_both_versions_share_from_minute_to_minute_is_no_dispersion():
    rates = USUAL * (1 + 0.5 * np.sin(np.arange(1800) / 900 * 2 * np.pi))
    assert (measured(rates).phi > 1).mean() < 0.05


def test_what_was_once_is_forgotten_in_an_hour():
    rates = np.concatenate([stalls(600), np.full((3600, SIZE), USUAL)])
    assert np.median(measured(rates).phi) == 1


def released(*, broken: float) -> float:
    """The share of canaries that are taken back, on two of twenty servers of which each stalls now and then.

    The stable version's past is unknown. Nothing stalls in the first minutes, so that there is something to measure.
    """
    rng, seconds = np.random.default_rng(11), 600
    batch = JudgeBatch(policy(shares=(0.1,), min_duration=10**6, max_duration=10**7), SIZE)
    bad = rng.random((SIZE, seconds // 10, 20)) < 0.02
    bad[:, :, :2] &= (np.arange(seconds // 10) >= 18)[:, None]
    rates = np.where(np.repeat(bad, 10, axis=1), 0.3, 0.002)
    rates[:, :, :2] = np.maximum(rates[:, :, :2], broken)
    failures = rng.binomial(10, rates).cumsum(axis=1)
    for second in range(seconds):
        arms = [failures[:, second, part].sum(axis=1) for part in (slice(2, 20), slice(2))]
        total = [np.full(SIZE, 10.0 * servers * (second + 1)) for servers in (18, 2)]
        stable, canary = ({"errors": np.stack([n, x], axis=1)} for n, x in zip(total, arms, strict=True))
        phase = batch.observe(second + 1.0, stable, canary)
    return float((phase == ROLLBACK).mean())


def test_it_spares_good_versions_and_no_broken_one(monkeypatch):
    good = released(broken=0.0)
    assert released(broken=0.2) == 1
    monkeypatch.setattr(LiveDispersion, "add", lambda *_: None)
    assert good < released(broken=0.0) / 2


def observed(judge: SequentialJudge, seconds: range, rates: np.ndarray) -> list:
    """What a judge says of looks in which the stable version stalls; the canary fails from second 317 on."""
    said = []
    for second in seconds:
        stable, canary = (95 * second, 95 * rates[:second, 0].sum()), (5 * second, 5 * max(second - 316, 0))
        said.append(judge.observe(second, {"errors": stable}, {"errors": canary}))
    return said


def test_it_is_said_and_goes_on_bit_for_bit():
    chosen, rates = policy(min_duration=10**6, is_alone=True), stalls(600)
    whole = SequentialJudge(chosen)
    whole.begin({"errors": (0, 0)}, {"errors": (0, 0)})
    observed(whole, range(1, 317), rates)
    again = SequentialJudge.from_dict(chosen, json.loads(json.dumps(whole.to_dict())))
    said = [observed(one, range(317, 340), rates) for one in (whole, again)]
    assert said[0] == said[1]
    assert whole.to_dict() == again.to_dict()
    (message, *_) = [one.message for one in said[0] if one.phase == "rollback"]
    assert "nothing is known of the stable version's past; evidence of errors is divided by " in message
    assert "at least, as counts varied since the shift began)" in message


def test_nothing_is_said_where_counts_do_not_vary():
    _, judgement = judged(SequentialJudge(policy()), Traffic(1), errors=0.5)
    assert "since the shift began" not in judgement.message
