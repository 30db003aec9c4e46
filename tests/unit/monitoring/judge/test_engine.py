"""The engine's guarantees, counted out where they can be and simulated where not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from monitoring.judge.dispersion import BURST_SECONDS
from monitoring.judge.engine import OFFSETS, Bets, Block, EProcesses, Hypotheses, log_e_values
from monitoring.judge.projection import project

NULLS = {
    "no worse": (1.0, 0.0, 1),
    "no worse, with tolerance": (1.1, 0.0, 1),
    "no worse, with points": (1.0, 0.01, 1),
    "as bad as the margin": (1.25, 0.001, -1),
    "as bad as a wide margin": (1.25, 0.1, -1),
    "no better": (1.0, 0.0, -1),
    "a share no lower": (1.0, -0.01, -1),
}


def hypotheses(*nulls: tuple[float, float, int], starts: float = 1.0, prior: float = 0.01) -> Hypotheses:
    rho, delta, side = (np.array(part, float) for part in zip(*nulls, strict=True))
    near = (side < 0) & (delta >= 0) & (rho > 1)
    return Hypotheses(rho, delta, side, np.full(len(nulls), prior), np.full(len(nulls), starts), near)


def block(canary_hits, canary, stable_hits, stable) -> Block:
    """Counts of one judge's one test, or of many judges'."""
    parts = np.broadcast_arrays(*map(np.atleast_1d, (canary_hits, canary, stable_hits, stable)))
    return Block(*(part.astype(float)[:, None] for part in parts))


@pytest.mark.parametrize("null", NULLS.values(), ids=NULLS)
@pytest.mark.parametrize("seen", [(0, 0, 0, 0), (2, 40, 3, 100), (30, 40, 60, 100), (0, 1000, 0, 1000)])
@pytest.mark.parametrize("sizes", [(3, 9), (8, 8), (10, 2)])
def test_the_mean_of_every_bet_is_at_most_one_in_the_null_hypothesis(null, seen, sizes):
    """By counting out every outcome of a block, on the line and well inside."""
    rho, delta, side = null
    processes = EProcesses(hypotheses(null))
    processes.learn(block(*seen))
    bets = processes.bets(block(0, sizes[0], 0, sizes[1]))
    x, y = (grid.ravel() for grid in np.meshgrid(np.arange(sizes[0] + 1), np.arange(sizes[1] + 1)))
    e_values = np.exp(log_e_values(bets, block(x, sizes[0], y, sizes[1])))[:, 0]
    for stable in np.linspace(0.0005, 0.95, 60):
        line = rho * stable + delta
        for canary in (line, line * 0.7 if side > 0 else line + (1 - line) * 0.3):
            if 0 <= canary <= 1:
                chance = binom.pmf(x, sizes[0], canary) * binom.pmf(y, sizes[1], stable)
                assert (chance @ e_values).max() <= 1 + 1e-9


def test_without_a_margin_the_projection_is_the_pooled_mean():
    processes = EProcesses(hypotheses((1.0, 0.0, 1)))
    a, b, null_canary, null_stable = processes.bets(block(0, 30, 0, 70))
    assert np.allclose(null_canary, 0.3 * a + 0.7 * b, rtol=1e-12)
    assert np.array_equal(null_canary, null_stable)


@settings(max_examples=500, deadline=None)
@example(a=0.171875, b=0.990234375, omega=0.51953125, rho=1.0, delta=0.0, start=0.78125)
@example(a=0.5, b=0.9989999999999999, omega=0.00390625, rho=1.0, delta=0.001, start=0.5)
@example(a=1e-5, b=1e-5, omega=0.5, rho=1.25, delta=0.001, start=0.0)
@given(
    a=st.floats(1e-5, 0.999), b=st.floats(1e-5, 0.999), omega=st.floats(0.001, 0.999),
    rho=st.floats(1.0, 3.0), delta=st.floats(-0.05, 0.2), start=st.floats(0, 1),
)  # fmt: skip
def test_the_projection_has_the_least_divergence_on_the_line(a, b, omega, rho, delta, start):
    one = np.ones((1, 1, 1))
    cold, root = project(a * one, b * one, omega * one, rho * one, delta * one)
    (s,) = cold.ravel()
    assert 0 <= root.item() <= 1
    warm, _ = project(a * one, b * one, omega * one, rho * one, delta * one, start)
    assert warm.item() == pytest.approx(s, rel=1e-6)
    # The engine never bets where the line leaves (0, 1).
    if not (0 < rho * b + delta < 1 and 0 < rho * s + delta < 1 and 0 < s < 1):
        return

    def divergence(x):
        c = rho * x + delta
        terms = a * np.log(c) + (1 - a) * np.log1p(-c), b * np.log(x) + (1 - b) * np.log1p(-x)
        return -omega * terms[0] - (1 - omega) * terms[1]

    for other in (s * (1 - 1e-4), s * (1 + 1e-4)):
        if 0 < other < 1 and 0 < rho * other + delta < 1:
            assert divergence(s) <= divergence(other) + 1e-12


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 300)), min_size=1, max_size=6), st.sampled_from([*NULLS]))
def test_it_does_not_matter_into_how_many_looks_a_block_is_divided(parts, name):
    """For one bet and one split of traffic: blocks of a quarter canary each."""
    processes = EProcesses(hypotheses(NULLS[name]))
    processes.learn(block(3, 200, 9, 600))
    bets = processes.bets(block(0, 100, 0, 300))
    pieces = [block(min(hits, size), size, min(hits, size), 3 * size) for hits, size in parts]
    apart = sum(log_e_values(bets, piece) for piece in pieces)
    whole = Block(*(sum(piece[place] for piece in pieces) for place in range(4)))
    assert np.allclose(apart, log_e_values(bets, whole), rtol=1e-9, atol=1e-9)


@given(st.lists(st.tuples(*[st.integers(0, 50)] * 4), max_size=12))
def test_evidence_is_never_negative_and_is_one_without_traffic(looks):
    processes = EProcesses(hypotheses(*NULLS.values(), starts=0.5))
    for x, n, y, m in looks:
        before = processes.log_values
        processes.spend(np.array([0.01]), np.ones(len(NULLS)))
        counts = (min(x, n), n, min(y, m), m)
        processes.observe(Block(*(np.full((1, len(NULLS)), float(count)) for count in counts)))
        # Without stable requests, only "below the points that are allowed anyway" can be shown.
        silent = slice(None) if not n else [0, 1, 2, 5, 6] if not m else []
        assert np.allclose(processes.log_values[:, silent], before[:, silent])
    assert np.isfinite(processes.log_values).all()
    if not any(n for _, n, _, _ in looks):
        assert np.allclose(processes.log_values, 0)


@given(st.integers(1, 60), st.integers(1, 500), st.integers(0, 100))
def test_more_failures_of_the_canary_are_more_evidence_of_harm(canary, stable, failures):
    values = []
    for hits in range(canary + 1):
        processes = EProcesses(hypotheses((1.1, 0.0, 1)))
        processes.learn(block(0, 0, 5, 1000))
        processes.observe(block(hits, canary, min(failures, stable), stable))
        values.append(processes.log_values[0, 0])
    assert (np.diff(values) >= -1e-9).all()


def test_mass_for_restarts_is_given_out_at_most_once():
    processes = EProcesses(hypotheses((1.0, 0.0, 1), starts=0.5))
    nothing = block(0, 0, 0, 0)
    for _ in range(50):
        processes.restart(np.array([[0.2]]))
        processes.spend(np.array([0.3]), np.ones(1))
        processes.observe(nothing)
        assert processes.log_values[0, 0] == pytest.approx(0, abs=1e-12)
    assert (processes._reserve >= 0).all()


def test_tempering_divides_the_log():
    values = []
    for phi in (1.0, 4.0):
        processes = EProcesses(hypotheses((1.0, 0.0, 1)))
        processes.temper(np.array([phi]), np.array([phi]))
        processes.multiply(np.full((1, 1, len(OFFSETS) + 1), 8.0))
        values.append(processes.log_values[0, 0])
    assert values == pytest.approx([8.0, 2.0])


@pytest.mark.parametrize(("side", "own"), [(1, 1 - 7 / 8 / 25), (-1, 1 / 8)])
def test_where_requests_fail_together_the_canarys_own_rate_gets_most_of_what_is_bet_on_harm(side, own):
    processes = EProcesses(hypotheses((1.1, 0.01, side)))
    processes.temper(np.array([25.0]), np.array([25.0]))
    log_e = np.full((1, 1, len(OFFSETS) + 1), -np.inf)
    log_e[..., -1] = 25 * 3.0
    processes.multiply(log_e)
    betting = processes.log_values[0, 0] - np.log(own) - 3.0
    assert betting == pytest.approx(np.log(processes.tests.starts[0]), abs=0.05)


def test_the_spread_counts_for_harm_alone_and_as_far_as_the_canary_is_busy():
    values = {}
    for side, per_second in ((1, np.inf), (1, 100.0), (-1, 100.0)):
        processes = EProcesses(hypotheses((1.1, 0.01, side)))
        processes.temper(np.array([2.0]), np.array([21.0]), per_second)
        processes.pass_time(np.ones(1), np.array([20.0]))
        processes.multiply(np.full((1, 1, len(OFFSETS) + 1), 30.0))
        values[side, per_second] = processes.log_values[0, 0] - np.log(processes.tests.starts[0])
    assert values == {
        (1, np.inf): pytest.approx(30 / 21), (1, 100.0): pytest.approx(30 / 5), (-1, 100.0): pytest.approx(30 / 2)
    }  # fmt: skip


def test_a_limited_product_never_grows_by_what_is_needed_in_one_burst():
    processes, grown = EProcesses(hypotheses((1.1, 0.0, 1), starts=1.0)), []
    processes.limit(np.array([5.0]))
    for _ in range(BURST_SECONDS + 5):
        processes.pass_time(np.ones(1), np.ones(1))
        processes.multiply(np.full((1, 1, len(OFFSETS) + 1), 40.0))
        grown.append(processes.log_values[0, 0])
        assert processes.could_have_grown(0, grown[-1])
    assert grown[BURST_SECONDS - 1] < 5.0 < grown[-1]
    assert not processes.could_have_grown(0, grown[-1] + 1.0)


def test_a_limit_takes_nothing_from_what_speaks_for_the_canary():
    values = []
    for needed in (np.inf, 5.0):
        processes = EProcesses(hypotheses((1.1, 0.0, 1)))
        processes.limit(np.array([needed]))
        processes.multiply(np.full((1, 1, len(OFFSETS) + 1), -3.0))
        values.append(processes.log_values[0, 0])
    assert values[0] == values[1]


def test_a_line_out_of_reach_is_no_bet():
    """A share that may be five points lower cannot be lower than that where it is two in a hundred."""
    processes = EProcesses(hypotheses((1.0, -0.05, -1), prior=0.02))
    bets = processes.bets(block(0, 50, 0, 50))
    assert np.allclose(log_e_values(bets, block(0, 50, 40, 50)), 0)
    assert isinstance(bets, Bets)


# Simulations: rejections among replications are binomial with at most the level, so a bound that a right judge
# exceeds once in 10,000 runs is a quantile of that binomial.

REPLICATIONS = 1500


def allowed(level: float) -> int:
    return int(binom.ppf(1 - 1e-4, REPLICATIONS, level))


def simulate(null, *, canary, stable, looks=240, per_look=100, starts=0.5, seed=0):
    """Shares that change on the way; gives how many replications ever reached twenty."""
    rng = np.random.default_rng(seed)
    processes = EProcesses(hypotheses(null, starts=starts), REPLICATIONS)
    ever = np.zeros(REPLICATIONS, bool)
    for look in range(looks):
        # The base rate moves with the step, which ruins whoever pools.
        step = look * 3 // looks
        share, base = (0.05, 0.25, 0.5)[step], stable * (1, 4, 2)[step]
        if look * 3 % looks < 3:
            processes.restart(np.full((REPLICATIONS, 1), 0.1 if starts < 1 else 0.0))
        sizes = rng.binomial(per_look, share, REPLICATIONS)
        hits = rng.binomial(sizes, canary(base))
        processes.observe(block(hits, sizes, rng.binomial(per_look - sizes, base), per_look - sizes))
        ever |= processes.log_values[:, 0] >= np.log(20)
    return int(ever.sum())


@pytest.mark.parametrize("stable", [0.002, 0.05])
def test_false_rollbacks_stay_within_their_budget_while_weights_and_rates_move(stable):
    assert simulate((1.0, 0.0, 1), canary=lambda base: base, stable=stable) <= allowed(0.05)


@pytest.mark.parametrize("stable", [0.002, 0.05])
def test_false_promotions_stay_within_theirs_at_the_very_margin(stable):
    rejected = simulate(
        (1.25, 0.02, -1), canary=lambda base: 1.25 * base + 0.02, stable=stable, starts=1.0, looks=120
    )  # fmt: skip
    assert rejected <= allowed(0.05)


def test_a_bad_canary_is_found_by_nearly_all():
    assert simulate((1.1, 0.0, 1), canary=lambda base: base * 3 + 0.05, stable=0.01, looks=90) >= 0.99 * REPLICATIONS
