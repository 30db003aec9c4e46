"""Rules on recorded and on simulated traffic."""

from __future__ import annotations

import math

import numpy as np
import pytest

from headgate.counts import Counts, latencies
from headgate.errors import MonitorError
from headgate.verdicts import Look
from monitoring.judge import ErrorRate, Policy
from monitoring.judge.batch import PROMOTE, ROLLBACK
from monitoring.replay import OTHERS, Headgate, Trace, World, case, read_counts, replay, simulate, trial
from monitoring.replay.rules import ArgoRollouts, CloudWatchAlarm, Flagger, Kayenta
from monitoring.replay.traffic import Traffic

OURS = Headgate.default(latency=False)
BROKEN = World(canary=0.2)


def test_ours_finds_a_broken_canary_after_a_handful_of_requests_and_the_others_later():
    outcomes = {rule.name: simulate(rule, BROKEN, replications=60, seed=1) for rule in (OURS, *OTHERS)}
    assert all(outcome.rolled_back == 1 for outcome in outcomes.values())
    costs = {name: outcome.median("bad", ROLLBACK) for name, outcome in outcomes.items()}
    assert costs.pop("headgate") <= 10
    assert min(costs.values()) > 100


def test_what_a_rule_learns_beforehand_is_drawn_anew_for_each_part_of_the_replications():
    learned = []

    class Noted(Headgate):
        def start(self, size, history=None):
            learned.append((size, history["errors"]))
            return super().start(size, history)

    simulate(Noted.default(latency=False), BROKEN, replications=20, seed=1, is_dispersed=True)
    assert [size for size, _ in learned] == [3, 3, 3, 3, 2, 2, 2, 2]
    assert len({errors.tobytes() for _, errors in learned}) == 8
    learned.clear()
    simulate(Noted.default(latency=False), BROKEN, replications=20, seed=1)
    assert [(size, errors.shape) for size, errors in learned] == [(20, (2,))], "one sum"


@pytest.mark.parametrize(
    ("rule", "seconds"), [(Flagger(), 300), (ArgoRollouts(), 1200), (CloudWatchAlarm(), 1200), (Kayenta(), 300)]
)
def test_the_others_act_when_their_documentation_says(rule, seconds):
    """Five checks a minute apart, four measurements five minutes apart, two periods of ten, one interval of five."""
    outcome = simulate(rule, BROKEN, replications=20, seed=2)
    assert set(outcome.seconds) == {seconds}


def test_a_good_canary_is_promoted_by_all_and_by_ours_on_evidence():
    both = trial(OURS, BROKEN, replications=40, seed=3)
    assert both.faulty.rolled_back == 1
    assert both.good.promoted >= 0.95
    assert both.good.median("seconds", PROMOTE) <= 300
    flagger = simulate(Flagger(), World(), replications=20, seed=3)
    assert set(flagger.seconds[flagger.phase == PROMOTE]) == {3600}


def test_the_same_seed_is_the_same_traffic():
    once, again, other = (simulate(OURS, World(canary=0.01), replications=20, seed=seed) for seed in (5, 5, 6))
    assert np.array_equal(once.bad, again.bad)
    assert not np.array_equal(once.bad, other.bad)


def test_few_answers_of_5xx_are_found_under_many_of_4xx():
    few = case("client-errors")
    outcome = simulate(OURS, few.broken, replications=100, seed=few.seed)
    assert outcome.rolled_back == 1
    assert outcome.median("bad", ROLLBACK) <= 10
    assert simulate(OURS, few.good, replications=100, seed=few.seed).rolled_back <= 0.02
    together = Headgate(Policy([ErrorRate("failures")]))
    assert simulate(together, few.broken, replications=20, seed=few.seed).rolled_back == 0, "counted together: not one"


def test_a_fault_may_begin_late():
    outcome = simulate(OURS, World(canary=0.3, after=60), replications=20, seed=1)
    assert outcome.seconds.min() > 60
    assert outcome.rolled_back == 1


WORLDS = {
    "alike": (World(), 0.001),
    "bursts": (World(bursts=0.02), 0.98 * 0.001 + 0.02 * 0.3),
    "sticky": (World(sticky=4), 0.001),
}


@pytest.mark.parametrize("name", WORLDS)
def test_traffic_has_the_rates_that_it_says(name):
    world, rate = WORLDS[name]
    traffic = Traffic(world, np.random.default_rng(0), 200, latency=False)
    totals = np.zeros((2, 2))
    for second in range(1, 400):
        totals += [arm["errors"].sum(axis=0) for arm in traffic.look(second, 1.0, np.full(200, 0.25))]
    stable, canary = totals
    assert canary[0] / totals[:, 0].sum() == pytest.approx(0.25, rel=0.02)
    assert stable[0] + canary[0] == pytest.approx(200 * 200 * 399, rel=0.02)
    # There are few bursts, so their share of the time is known less well.
    tolerance = 0.15 if world.bursts else 0.05
    assert totals[:, 1].sum() / totals[:, 0].sum() == pytest.approx(rate, rel=tolerance)


@pytest.mark.parametrize("wander", [0.0, 0.15])
def test_latencies_are_those_of_the_world(wander):
    from monitoring.replay.traffic import BOUNDS

    traffic = Traffic(World(slower=2.0, wander=wander), np.random.default_rng(0), 20, latency=True)
    totals = np.zeros((2, len(BOUNDS) + 1))
    for second in range(1, 60):
        totals += [arm["latency"].sum(axis=0) for arm in traffic.look(second, 1.0, np.full(20, 0.5))]
    medians = [BOUNDS[int(np.searchsorted(arm.cumsum() / arm.sum(), 0.5))] for arm in totals]
    assert medians == pytest.approx([0.060, 0.120], rel=0.08)


def trace(rows) -> Trace:
    table = np.array(rows, float)
    stable, canary = ({"errors": cells, "failures": cells} for cells in (table[:, 1:3], table[:, 3:]))
    return Trace(table[:, 0], stable, canary)


def test_recorded_counts_are_judged_as_they_were():
    rows = [(second, 190 * second, 0, 10 * second, second) for second in range(1, 400)]
    ours, flagger = (replay(rule, trace(rows)) for rule in (OURS, Flagger()))
    assert (ours.phase, ours.bad) == ("rollback", ours.seconds)
    assert 1 < ours.seconds < 20
    assert (flagger.phase, flagger.seconds) == ("rollback", 300)
    quiet = replay(OURS, trace(rows[:1]))
    assert (quiet.phase, quiet.seconds, quiet.bad) == ("running", math.inf, 1)


def test_looks_of_a_release_become_a_trace():
    looks = [
        Look(
            seconds=float(second), share=500, e_value=1, needed=100, verdict="running", reason="",
            stable=Counts(requests=90 * second, failures=0, histograms=latencies((second, 0))),
            canary=Counts(requests=10 * second, failures=second, histograms=latencies((0, second))),
        )
        for second in (1, 2)
    ]  # fmt: skip
    recorded = Trace.of_looks(looks, Counts(requests=1000, failures=2))
    assert recorded.canary["errors"].tolist() == recorded.canary["failures"].tolist() == [[10, 1], [20, 2]]
    assert recorded.canary["client_errors"].tolist() == [[10, 0], [20, 0]]
    assert recorded.stable["latency"].tolist() == [[1, 0], [2, 0]]
    assert recorded.history["errors"].tolist() == [[[1000, 2]]]
    with pytest.raises(MonitorError, match="no looks"):
        Trace.of_looks([], Counts(requests=0, failures=0))


HEADER = "seconds,stable_requests,stable_failures,canary_requests,canary_failures\n"


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_files_of_counts(tmp_path, kind):
    import pandas as pd

    path = tmp_path / f"counts.{kind}"
    path.write_text(HEADER + "1,100,0,5,0\n2,200,1,10,3\n")
    if kind == "parquet":
        pd.read_csv(path).to_parquet(path)
    recorded = read_counts(path)
    assert recorded.seconds.tolist() == [1, 2]
    assert recorded.canary["errors"].tolist() == [[5, 0], [10, 3]]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("seconds,stable_requests\n1,2\n", "has no column stable_failures, canary_requests, canary_failures"),
        (HEADER, "has no rows"),
        (HEADER + "1,100,0,many,0\n", "canary_requests in row 1 is 'many', which is no number"),
        (HEADER + "2,100,0,5,0\n1,100,0,5,0\n", "seconds is below zero or falls"),
        (HEADER + "1,-100,0,5,0\n", "stable_requests is below zero"),
    ],
)
def test_a_bad_file_says_what_is_wrong(tmp_path, text, says):
    path = tmp_path / "counts.csv"
    path.write_text(text)
    with pytest.raises(MonitorError, match=says):
        read_counts(path)


def test_pictures_are_drawn(tmp_path):
    from monitoring.replay.picture import trace_picture, trial_picture

    trials = [trial(rule, BROKEN, replications=10, minutes=30, seed=0) for rule in (OURS, Flagger())]
    trial_picture(trials, tmp_path / "trials.svg")
    recorded = trace([(second, 100 * second, 1, 10 * second, second) for second in range(1, 50)])
    trace_picture(recorded, [replay(OURS, recorded)], tmp_path / "trace.svg")
    for name in ("trials.svg", "trace.svg"):
        assert "<path" in (tmp_path / name).read_text()
