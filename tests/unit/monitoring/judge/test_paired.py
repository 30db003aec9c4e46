from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import integrate, stats
from scipy.special import betaln

from monitoring.judge.paired import disagreement_e_value, log_excess, log_shortfall, mcnemar_e_value
from monitoring.judge.sample_ratio import CONCENTRATION, SampleRatio


@pytest.mark.parametrize(("k", "n", "limit"), [(0, 10, 0.1), (3, 20, 0.05), (9, 12, 0.5), (1, 1, 0.01)])
def test_both_mixtures_are_their_integrals(k, n, limit):
    def likelihood(p):
        return p**k * (1 - p) ** (n - k)

    for function, low, high in ((log_excess, limit, 1), (log_shortfall, 0, limit)):
        expected = integrate.quad(likelihood, low, high)[0] / (high - low) / likelihood(limit)
        assert math.exp(function(k, n, limit)) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("limit", [0.005, 0.1, 0.6])
def test_their_mean_at_the_limit_is_one(limit):
    for function in (log_excess, log_shortfall):
        mean = sum(stats.binom.pmf(k, 40, limit) * math.exp(function(k, 40, limit)) for k in range(41))
        assert mean == pytest.approx(1, rel=1e-9)


def test_edges():
    assert disagreement_e_value(0, 0, 0.1) == 1
    assert disagreement_e_value(1, 10, 0.0) > 1e300
    assert disagreement_e_value(0, 10, 0.0) == 1
    assert disagreement_e_value(10, 10, 1.0) == 1
    assert disagreement_e_value(0, 100_000, 0.1) < 1e-3
    assert log_shortfall(0, 5, 1.0) == math.inf
    assert log_shortfall(0, 5, 0.0) == 0


def test_mcnemar_looks_at_the_pairs_of_which_one_is_right():
    assert mcnemar_e_value(30, 5) > 100
    assert mcnemar_e_value(5, 30) < 1
    assert mcnemar_e_value(0, 0) == 1


def test_the_sample_ratio_is_the_posterior_odds_of_one_request_after_the_other():
    """Lindon and Malek's multinomial test, request by request."""
    rng, share = np.random.default_rng(1), 0.05
    to_canary = rng.random(400) < 0.12
    odds, alphas = 1.0, np.array([CONCENTRATION * (1 - share), CONCENTRATION * share])
    ratio = SampleRatio()
    for one in to_canary:
        odds *= alphas[int(one)] / alphas.sum() / (share if one else 1 - share)
        alphas[int(one)] += 1
        ratio.observe(share, float(one), float(not one))
    assert math.exp(ratio.log_value) == pytest.approx(odds, rel=1e-9)
    assert ratio.realised == (to_canary.mean(), share)


def test_a_router_that_splits_wrongly_is_found_and_a_right_one_is_not():
    rng = np.random.default_rng(2)
    right, wrong = SampleRatio(), SampleRatio()
    for look in range(120):
        share = (0.05, 0.25, 0.5)[look // 40]
        for ratio, real in ((right, share), (wrong, share * 1.2)):
            canary = rng.binomial(2000, real)
            ratio.observe(share, canary, 2000 - canary)
    assert right.log_value < math.log(100) < wrong.log_value
    assert SampleRatio.from_dict(wrong.to_dict()).log_value == wrong.log_value
    assert float(betaln(1, 1)) == 0
