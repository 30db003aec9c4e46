"""Between what `reconcile` sees and what it does about it, others act."""

from __future__ import annotations

import asyncio

import pytest
from support.simulated import Simulation, recover
from support.simulated_platform import ENDPOINT, Fault

import flows.reconcile
from headgate.records import Traffic
from registry import history


@pytest.fixture
def world(tmp_path, monkeypatch):
    simulation = Simulation(tmp_path, monkeypatch)
    yield simulation
    simulation.journal.close()


def test_a_release_that_came_and_went_since_the_look_is_not_taken_back(world, monkeypatch):
    world.act("release")
    see, first = world.target.observe, next(iter(world.target.revisions))
    world.target.traffic = None

    def seen_too_early(endpoint):
        monkeypatch.setattr(world.target, "observe", see)
        seen = see(endpoint)
        world.act("release")
        return seen

    monkeypatch.setattr(world.target, "observe", seen_too_early)
    world.act("reconcile")
    live = history.champion(world.journal, ENDPOINT).revision.name
    assert live != first
    assert world.target.traffic == Traffic.all_to(live)
    assert world.disorder() == []


def test_aliases_that_a_release_moved_since_the_look_stay(world, monkeypatch):
    world.act("release")
    look = world.mlflow.aliases
    world.mlflow.known = {"champion": 7}

    def seen_too_early():
        monkeypatch.setattr(world.mlflow, "aliases", look)
        seen = look()
        world.act("release")
        return seen

    monkeypatch.setattr(world.mlflow, "aliases", seen_too_early)
    world.act("reconcile")
    assert world.mlflow.known == {"champion": 2}
    assert world.disorder() == []


@pytest.mark.parametrize("changes", range(2, 9))
def test_a_release_that_began_and_died_since_the_look_is_left_to_the_next_one(world, monkeypatch, changes):
    world.act("release")
    make = flows.reconcile._job

    def made_too_early(*arguments):
        job = make(*arguments)
        monkeypatch.setattr(flows.reconcile, "_job", make)
        world.act("release", [None] * changes + [Fault("die")])
        assert history.in_flight(world.journal, ENDPOINT) is not None
        return job

    monkeypatch.setattr(flows.reconcile, "_job", made_too_early)
    asyncio.run(flows.reconcile.reconcile.fn(ENDPOINT))
    recover(world)
    assert world.disorder() == []
