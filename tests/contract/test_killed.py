"""A process that dies between any two of its calls leaves nothing that the same calls do not finish."""

from __future__ import annotations

import multiprocessing

import pytest
from harness import part
from support.chaos import die
from support.stack import wait_for

from headgate.records import Traffic


def calls(target, endpoint, old, new):
    """What a release asks of a target, from the first to the last; each may be made again."""
    return [
        lambda: target.deploy(endpoint, new),
        lambda: target.route(endpoint, part(target, old.name, new.name, 2000)),
        lambda: target.route(endpoint, Traffic.all_to(new.name)),
        lambda: target.retire(endpoint, old.name),
    ]


@pytest.fixture(scope="module")
def two(harness, models):
    return [harness.revision(models("pyfunc", does=does), number)
            for number, does in enumerate(("double", "negative"), start=1)]  # fmt: skip


@pytest.fixture(scope="module")
def living(harness, two):
    """One endpoint for all deaths; who serves it changes with each."""
    endpoint = "often-killed"
    harness.target.deploy(endpoint, two[0])
    harness.target.route(endpoint, Traffic.all_to(two[0].name))
    yield endpoint
    harness.target.delete(endpoint)
    assert harness.traces(endpoint) == []


def test_one_call_of_each_kind_is_finished_after_a_process_died_there(harness, living, two):
    finished(harness, living, two, {kill.point: kill for kill in harness.kills()}.values())


@pytest.mark.timeout(1800)  # each death is a release; on a cluster of two cores they take ten minutes
def test_the_same_calls_finish_what_a_dead_process_began(harness, living, two):
    finished(harness, living, two, harness.kills())


def finished(harness, living, two, kills):
    """Have a process die at each of these calls, and make the same calls again."""
    for kill in kills:
        serving = harness.target.observe(living).traffic.holder
        old, new = two if two[0].name == serving else reversed(two)
        done = killed(harness, kill, living, old, new)
        # A platform that shifts by itself goes on.
        traffic = wait_for(lambda: harness.target.observe(living).traffic)
        assert {old.name, new.name} >= set(traffic.weights), f"clients are with one, or both, {kill}"
        for call in calls(harness.target, living, old, new)[done:]:
            call()
        state = harness.target.observe(living)
        assert state.traffic == Traffic.all_to(new.name), kill
        assert {name: seen.ready for name, seen in state.revisions.items()} == {new.name: True}, kill
        assert not [trace for trace in harness.traces(living) if old.name in trace], kill


def killed(harness, kill, *what) -> int:
    """Carry the calls out in a process that dies at one of them; how many it has finished."""
    progress = multiprocessing.get_context("fork").Value("i", 0)

    def carry_out(target):
        for call in calls(target, *what):
            call()
            progress.value += 1

    die(harness, kill, carry_out)
    return progress.value
