"""Whether going back would help: what each version answers, beside what it used to answer."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pytest

from headgate.monitor import Drift
from monitoring.attribution import Answers, attribute

dice = np.random.default_rng(5)
USUAL = dice.normal(10, 2, 3000)


@pytest.fixture(autouse=True)
def _thrown_alike(monkeypatch):
    """Every test has the same numbers, in whatever order they run."""
    monkeypatch.setitem(globals(), "dice", np.random.default_rng(7))


def answers(name: str, now, usual=USUAL, *, failed: int = 0) -> Answers:
    status = [500] * failed + [200] * (len(now) - failed)
    known = {} if usual is None else {"prediction": pa.chunked_array([pa.array(usual)])}
    return Answers(name, pa.table({"status": status, "row": [0] * len(now), "output.prediction": pa.array(now)}), known)


def same() -> np.ndarray:
    return dice.normal(10, 2, 400)


def other() -> np.ndarray:
    return dice.normal(12, 2, 400)


@pytest.mark.parametrize(("now", "before", "cause", "says"), [
    (other(), same(), "version", "v2's answers moved by 0.9.* those of v1 are what they used to be"),
    (other(), other(), "inputs", "v2's answers moved .* those of v1 moved"),
    (same(), same(), "inputs", "v2's answers are what they used to be, whatever became of its inputs"),
    (same(), other(), "inputs", "v2's answers are what they used to be"),
])  # fmt: skip
def test_going_back_helps_where_only_our_answers_moved(now, before, cause, says):
    told = attribute(answers("v2", now), answers("v1", before), Drift())
    assert (told.cause, told.asked) == (cause, 400)
    assert re.match(says, told.reason), told.reason


def test_classes_move_as_numbers_do():
    usual = dice.choice(["a", "b"], 3000, p=[0.7, 0.3])
    now, before = dice.choice(["a", "b"], 400, p=[0.1, 0.9]), dice.choice(["a", "b"], 400, p=[0.7, 0.3])
    assert attribute(answers("v2", now, usual), answers("v1", before, usual), Drift()).cause == "version"
    assert attribute(answers("v2", now, usual), answers("v1", now, usual), Drift()).cause == "inputs"


def test_who_fails_more_of_the_same_requests_is_the_worse_one():
    told = attribute(answers("v2", other()), answers("v1", same(), failed=30), Drift())
    assert (told.cause, told.reason) == ("inputs", "of the same 400 requests v2 fails 0, v1 30")
    # Its few answers are what they used to be; that it fails the others is what counts.
    assert attribute(answers("v2", same(), failed=30), answers("v1", same()), Drift()).cause == "version"
    assert attribute(answers("v2", [None] * 400, failed=400), answers("v1", other()), Drift()).cause == "version"


def test_a_request_or_two_that_fail_by_chance_decide_nothing():
    assert attribute(answers("v2", other()), answers("v1", same(), failed=2), Drift()).cause == "version"
    assert attribute(answers("v2", same(), failed=2), answers("v1", same()), Drift()).cause == "inputs"
    assert attribute(answers("v2", other(), failed=90), answers("v1", other(), failed=90), Drift()).cause == "inputs"


def test_each_is_held_against_its_own_past_and_one_serves_for_both():
    twice = USUAL * 2
    assert attribute(answers("v2", other()), answers("v1", same() * 2, twice), Drift()).cause == "version"
    assert attribute(answers("v2", other()), answers("v1", same(), None), Drift()).cause == "version"
    assert attribute(answers("v2", other(), None), answers("v1", same()), Drift()).cause == "version"
    told = attribute(answers("v2", other(), None), answers("v1", same(), None), Drift())
    assert (told.cause, told.reason) == ("unknown", "nothing is known of what either used to answer")


def test_answers_that_cannot_be_compared_are_no_reason_to_go_back():
    nothing = pa.array([None] * 400, pa.float64())
    told = attribute(answers("v2", other()), answers("v1", nothing), Drift())
    assert (told.cause, told.reason) == ("unknown", "there are no answers to compare")
    without = Answers(
        "v1", pa.table({"status": [200] * 400, "row": [0] * 400}), {"prediction": pa.chunked_array([pa.array(USUAL)])}
    )
    assert attribute(answers("v2", other()), without, Drift()).cause == "unknown"


def test_chance_and_the_threshold_both_count():
    few = attribute(answers("v2", dice.normal(10, 2, 20)), answers("v1", dice.normal(10, 2, 20)), Drift())
    assert few.cause == "inputs"
    wide = Drift(thresholds={"prediction": 3.0})
    assert attribute(answers("v2", other()), answers("v1", same()), wide).cause == "inputs"


@pytest.mark.parametrize(("shift", "cause"), [(0.46, "version"), (0.6, "inputs")])
def test_the_version_before_moved_only_where_chance_hardly_ever_reaches(shift, cause):
    """What would pass for a move of ours, at a rate of 1 %, does not for one of the version before."""
    usual, now = np.arange(3000) % 100 / 10, np.arange(400) % 100 / 10
    assert attribute(answers("v2", now + shift, usual), answers("v1", now, usual), Drift()).cause == "version"
    assert attribute(answers("v2", now + 5, usual), answers("v1", now + shift, usual), Drift()).cause == cause
