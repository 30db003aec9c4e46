"""A release that is killed with SIGKILL at each of its steps, on the real stack and under live requests."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from conftest import QUICK, open_world
from support.chaos import Children, Kill, head_of, problems_of, release_in_child, rollback_in_child, settle, trail_of

from flows.reconcile import reconcile
from registry import history

BRISK = QUICK.replace("min_requests: 60, min_duration: 2s", "min_requests: 40, min_duration: 1s")
_numbers = itertools.count(1)

STEPS = [
    Kill("take lease"), Kill("row started", 1, "before"), Kill("row started"), Kill("row packaged"),
    Kill("register", 1, "before"), Kill("register"), Kill("set challenger"), Kill("row registered"),
    Kill("row deploying"), Kill("start process"), Kill("tell gateway"), Kill("row deployed"), Kill("row smoked"),
    Kill("write gateway file", 2, "before"), Kill("route"), Kill("row shadow"), Kill("row shadowed"),
    Kill("row shift began"), Kill("row shifting"), Kill("row look", 1, "before"), Kill("row look"), Kill("row judge"),
    Kill("row live", 1, "before"), Kill("row live"), Kill("set champion"), Kill("clear challenger"),
    Kill("row promoted"), Kill("row outcome"), Kill("store report"), Kill("let go of lease", 1, "before"),
]  # fmt: skip


@pytest.fixture(scope="module")
def children():
    return Children()


@pytest.fixture(scope="module")
def living(stack, models):
    """One endpoint for all of them, as its history shall survive them all."""
    with pytest.MonkeyPatch.context() as patch, open_world(stack, patch) as world:
        world.release(models("pyfunc", does="double"), BRISK)
        yield world


@pytest.fixture(autouse=True)
def _settings(stack, monkeypatch):
    for name, value in stack.env.items():
        monkeypatch.setenv(name, value)


def other(world, models):
    """What is not live."""
    return models("pyfunc", does="negative" if world.live % 2 else "double")


def kill_release(world, models, children, kill, tmp_path) -> str:
    """Release what is not live in a child that dies on the way; the release's id."""
    release_id, trail = f"chaos-{next(_numbers)}", tmp_path / "trail"
    text = world.text(other(world, models), BRISK)
    child = children.start(release_in_child, world.stack.env, text, release_id, kill, trail)
    child.join(120)
    assert child.exitcode == -9, f"it was to die {kill}, and passed only {[str(point) for point in trail_of(trail)]}"
    return release_id


@pytest.mark.parametrize("kill", STEPS[0::3], ids=str)
def test_the_guard_puts_in_order_what_a_killed_release_left(living, models, children, kill, tmp_path):
    known = {"rows_before": (rows := len(living.journal.read(living.endpoint))), "head_before": head_of(living, rows)}
    with living.traffic() as client:
        kill_release(living, models, children, kill, tmp_path)
        _, problems = settle(living, 60, **known)
    assert problems == []
    assert_served(client)


@pytest.mark.usefixtures("unguarded", "workerless")
@pytest.mark.parametrize("kill", STEPS[1::3], ids=str)
def test_reconcile_puts_in_order_what_a_killed_release_left(living, models, children, kill, tmp_path):
    with living.traffic() as client:
        kill_release(living, models, children, kill, tmp_path)
        rows = len(living.journal.read(living.endpoint))
        planned = asyncio.run(reconcile.fn(living.endpoint, dry_run=True))
        assert len(living.journal.read(living.endpoint)) == rows, "to look changes nothing"
        found = asyncio.run(reconcile.fn(living.endpoint))
        assert [one.problem for one in planned] == [one.problem for one in found]
    assert problems_of(living) == []
    assert_served(client)


@pytest.mark.usefixtures("unguarded", "workerless")
@pytest.mark.parametrize("kill", STEPS[2::3], ids=str)
def test_the_same_release_goes_on_where_it_was_killed(living, models, children, kill, tmp_path):
    with living.traffic() as client:
        wanted = living.text(other(living, models), BRISK)
        release_id = kill_release(living, models, children, kill, tmp_path)
        if history.in_flight(living.journal, living.endpoint) is not None:
            child = children.start(release_in_child, living.stack.env, wanted, release_id, None, tmp_path / "again")
            child.join(120)
            assert child.exitcode == 0
    asyncio.run(reconcile.fn(living.endpoint))
    assert problems_of(living) == []
    assert history.champion(living.journal, living.endpoint).release_id == release_id
    assert_served(client)


@pytest.mark.parametrize("kill", [Kill("row rollback"), Kill("route"), Kill("row live")], ids=str)
def test_a_killed_rollback_is_carried_out(living, models, children, kill, tmp_path):
    with living.traffic():
        living.release(other(living, models), BRISK)
    meant = history.predecessor(living.journal, living.endpoint).revision.name
    child = children.start(rollback_in_child, living.stack.env, living.endpoint, kill, tmp_path / "trail")
    child.join(60)
    assert child.exitcode == -9
    _, problems = settle(living, 60)
    assert problems == []
    assert history.champion(living.journal, living.endpoint).revision.name == meant


def assert_served(client):
    """Every request was answered, and answered rightly, by whichever version."""
    counted = {name: counter for name, counter in client.by_revision.items() if counter["failed"] or counter["wrong"]}
    assert counted == {}
    assert client.total > 0
