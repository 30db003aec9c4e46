"""What a plan says of a decision is what the judge does with such counts."""

from __future__ import annotations

import pytest

from headgate.counts import Counts
from headgate.margins import misfit
from headgate.release_file import parse_release
from headgate.verdicts import Verdict
from monitoring.foresight import Clients, foresee, rate_needed
from monitoring.rollout import RolloutJudge

NONE = Counts(requests=0, failures=0)


def spec(more: str = ""):
    return parse_release(f"model: m\nartifact: a\ntarget: {{kind: local}}\n{more}\n")


def judged(of, per_second: float, failing: float, canary_failing: float = 0.0) -> tuple[Verdict, float]:
    """What the judge of a release makes of counts that are all as they are to be expected, and after which seconds."""
    judge, stable, canary = RolloutJudge(of, "m@v2", NONE, NONE), 0.0, 0.0
    for second in range(10, int(of.strategy.max_duration) + 20, 10):
        share = judge.share / 10_000
        stable, canary = stable + 10 * per_second * (1 - share), canary + 10 * per_second * share
        counts = [
            Counts(requests=round(requests), failures=round(requests * rate))
            for requests, rate in ((stable, failing), (canary, canary_failing))
        ]
        look = judge.look(second, *counts)
        if look.verdict in {Verdict.PROMOTE, Verdict.ROLLBACK, Verdict.INCONCLUSIVE}:
            return look.verdict, second
    raise AssertionError(look.reason)


@pytest.mark.parametrize("per_second", [20.0, 100.0])
def test_a_promotion_comes_when_the_judge_of_a_release_would_promote(per_second):
    verdict, seconds = judged(spec(), per_second, 0.001, 0.001)
    found = foresee(spec(), Clients(per_second, 0.001), 1.0)
    assert verdict is Verdict.PROMOTE
    assert found.promoted > 0.9
    assert found.promoted_after == pytest.approx(seconds, rel=0.5)


def test_a_broken_version_is_found_when_the_judge_of_a_release_would_find_it():
    verdict, seconds = judged(spec(), 5.0, 0.001, 0.2)
    found = foresee(spec(), Clients(5.0, 0.001), 1.0)
    assert verdict is Verdict.ROLLBACK
    assert found.found == 1
    assert seconds / 2 < found.found_after < seconds * 2
    assert 1 < found.bad < 10


def test_little_traffic_promotes_few_and_says_when_it_would():
    found = foresee(spec(), Clients(5.0, 0.001), 1.0)
    assert 0.05 < found.promoted < 0.5
    assert 3600 < found.promoted_after < 4 * 3600
    longer = spec(f"strategy: {{max_duration: {round(found.promoted_after)}s}}")
    assert foresee(longer, Clients(5.0), 1.0).promoted > 0.4
    never = foresee(spec("strategy: {max_duration: 10s, min_duration: 1s}"), Clients(0.01), 1.0)
    assert (never.promoted, never.promoted_after, never.bad) == (0, None, None)


def test_the_same_plan_is_the_same_twice():
    assert foresee(spec(), Clients(5.0), 1.0) == foresee(spec(), Clients(5.0), 1.0)


@pytest.mark.parametrize("more", ["", "strategy: {kind: blue-green}", "judge: {error_rate: {margin_points: 1%}}"])
def test_the_rate_that_is_needed_is_that_at_which_it_is_promoted(more):
    needed = rate_needed(spec(more), Clients(0.0), 1.0)
    assert foresee(spec(more), Clients(needed * 1.5), 1.0).promoted > 0.5
    assert foresee(spec(more), Clients(needed / 3), 1.0).promoted < 0.5


def test_no_rate_is_enough_for_a_second():
    assert rate_needed(spec("strategy: {max_duration: 1s, min_duration: 1s}"), Clients(0.0), 1.0) is None


@pytest.mark.parametrize(("points", "first"), [("0%", Verdict.ROLLBACK), ("10.1%", Verdict.PROMOTE)])
def test_of_a_version_halfway_to_a_wide_margin_the_judge_does_what_validate_says(points, first):
    text = f"judge: {{error_rate: {{margin_points: 20%, tolerance_points: {points}}}}}\nstrategy: {{steps: [50%]}}"
    of = spec(text)
    found = misfit(of, of.judge.error_rate, 0.001)
    assert (found is not None) == (first is Verdict.ROLLBACK)
    assert judged(of, 2.0, 0.001, 0.101)[0] is first
