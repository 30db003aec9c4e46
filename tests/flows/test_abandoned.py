"""Endpoints that nobody is at work on: the guard, reconcile, and changes that were made by hand."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from conftest import LONG, QUICK
from support.chaos import problems_of
from support.stack import wait_for
from support.watched_logs import PREFECT_AWAY

from deploy_targets.server_address import ServerAddress
from flows.reconcile import reconcile
from headgate.errors import HeadgateError, TargetUnavailableError
from headgate.phases import Outcome, Phase
from headgate.records import Traffic
from headgate.stack import Supervisor
from registry import Entry, Journal, Kind, history
from registry.lease import holder
from tasks.guard import Guard

_OLD = 30 * 86400.0


def notes(world):
    return [row.what for row in world.journal.read(world.endpoint, kinds=(Kind.NOTE,))]


def phases(world, release_id):
    rows = world.journal.read(world.endpoint, kinds=(Kind.PHASE,), release_id=release_id)
    return [row.what for row in rows]


def settled(world, dry_run=False):
    return asyncio.run(reconcile.fn(world.endpoint, dry_run=dry_run))


@pytest.fixture
def released(world, models):
    """An endpoint with a version that is live and one that is warm."""
    more = "gates: {shadow: off}\n" + QUICK.partition("\n")[2]
    world.release(models("pyfunc", does="double"), more)
    with world.traffic():
        world.release(models("pyfunc", does="negative"), more)
    return world


@pytest.mark.expects_errors(PREFECT_AWAY)
def test_the_guard_puts_clients_back_at_once_without_prefect_and_mlflow(world, shifting):
    supervisor = Supervisor(world.stack.home)
    try:
        for program in ("prefect-server", "mlflow-server"):
            supervisor._call("stopProcess", program)
        shifting.kill()
        # Far less than the lease, which would have to run out where the death could not be seen.
        wait_for(lambda: world.share(2) == 0, 10)
        result = world.ended(2)
    finally:
        for program in ("prefect-server", "mlflow-server"):
            supervisor._call("startProcess", program)
    assert (result.outcome, result.reason) == (Outcome.ROLLED_BACK, "its process ended while it was shifting")
    assert {"lease taken over", "taken back", "aliases late", "report late"} <= set(notes(world))
    wait_for(lambda: mlflow_answers(world), 120)
    assert any("aliases in MLflow" in one.problem for one in settled(world))
    assert problems_of(world) == []


def mlflow_answers(world) -> bool:
    try:
        return bool(world.aliases)
    except HeadgateError:
        return False


@pytest.mark.usefixtures("unguarded", "workerless")
def test_two_guards_never_fight(world, shifting):
    shifting.kill()
    shifting.wait()
    journals = [Journal(world.stack.home.journal_url) for _ in range(4)]
    guards = [Guard(world.stack.home, journal, f"guard {number}") for number, journal in enumerate(journals)]
    with ThreadPoolExecutor(4) as pool:
        begun = list(pool.map(lambda guard: guard.look(), guards))
        list(pool.map(lambda guard: guard.finish(), guards))
    assert [endpoint for endpoints in begun for endpoint in endpoints].count(world.endpoint) >= 1
    rows = world.journal.read(world.endpoint)
    for what in (Phase.UNDOING, Phase.UNDONE, "lease taken over"):
        assert len([row for row in rows if row.what == what]) == 1, what
    assert len([row for row in rows if row.what == "outcome"]) == 2
    for guard, journal in zip(guards, journals, strict=True):
        guard.close()
        journal.close()
    assert problems_of(world) == []


def test_a_release_is_handed_to_a_worker_where_its_file_says_so(world, models, background):
    world.release(models("pyfunc", does="double"))
    more = "when_abandoned: resume\n" + QUICK.replace("min_duration: 2s", "min_duration: 12s")
    with world.traffic():
        process = background(models("pyfunc", does="negative"), more)
        wait_for(lambda: world.share(2) > 0, 180)
        process.kill()
        # Nobody judges until the worker does.
        wait_for(lambda: world.share(2) == 0, 10)
        result = world.ended(2)
    assert result.outcome is Outcome.PROMOTED
    assert phases(world, result.release_id).count(Phase.SHADOWED) == 1
    assert notes(world).count("handed over") == 1
    world.assert_only(2)


def test_a_release_that_stood_still_is_ended_and_changes_nothing_when_it_goes_on(world, models, background):
    world.release(models("pyfunc", does="double"))
    with world.traffic():
        process = background(models("pyfunc", does="negative"), LONG, HEADGATE_LEASE_SECONDS="3", HEADGATE_ENGINE="off")
        wait_for(lambda: world.share(2) > 0, 180)
        with world.target._gateway._locked():
            os.kill(process.pid, signal.SIGSTOP)
        assert holder(world.journal, world.endpoint) is not None
        wait_for(lambda: world.share(2) == 0, 15)
        assert world.ended(2).outcome is Outcome.ROLLED_BACK
        before = world.journal.read(world.endpoint)
        os.kill(process.pid, signal.SIGCONT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "must not go on" in said
    assert world.journal.read(world.endpoint) == before
    world.assert_only(1)


@pytest.mark.usefixtures("unguarded", "workerless")
def test_a_promotion_that_a_person_decided_is_finished(world, models, monkeypatch):
    from flows.promote import promote

    more = "gates: {shadow: off}\nstrategy: {steps: [20%], min_duration: 1s, max_duration: 3s}\n"
    world.release(models("pyfunc", does="double"), more)
    with pytest.raises(HeadgateError):
        world.release(models("pyfunc", does="negative"), more)
    assert settled(world) == [], "it waits for a person"
    with monkeypatch.context() as patch:
        patch.setattr("tasks.shift.Traffic.all_to", lambda _: (_ for _ in ()).throw(SystemExit("power cut")))
        with pytest.raises(SystemExit):
            asyncio.run(promote.fn(world.endpoint, "it is fine", "dana"))
    found = settled(world)
    assert [one.result.outcome for one in found if one.result] == [Outcome.PROMOTED]
    world.assert_only(2)


def test_traffic_that_was_changed_by_hand_is_noted_and_put_back(released):
    second, first = released.state.traffic.holder, history.predecessor(released.journal, released.endpoint)
    released.target.route(released.endpoint, Traffic.split(second, first.revision.name, 3000))
    rows = len(released.journal.read(released.endpoint))
    planned = settled(released, dry_run=True)
    assert [one.problem for one in planned] == [
        f"traffic is 70% on {second}, 30% on {first.revision.name}, and the champion is {second}"
    ]
    assert (len(released.journal.read(released.endpoint)), released.share(1)) == (rows, 3000)
    assert settled(released) == planned
    assert released.share(1) == 0
    noted = [row for row in released.journal.read(released.endpoint) if row.what == "found changed"]
    assert [row.reason for row in noted] == [planned[0].problem]
    assert settled(released) == []
    released.assert_only(2)


def test_a_champion_that_was_deleted_by_hand_is_brought_up_again(released):
    released.target.delete(released.endpoint)
    everywhere = [one for one in asyncio.run(reconcile.fn()) if one.endpoint == released.endpoint]
    assert [one.remedy for one in everywhere] == [""], "whoever removed all of it may have meant to"
    assert released.state is None
    assert "is gone" in settled(released)[0].problem
    assert released.ask().json() == {"predictions": [{"x": 2.0}]}
    assert problems_of(released) == []


def test_aliases_that_were_moved_by_hand_are_set_again(released):
    versions = released.versions
    versions.set_champion(1)
    versions.set_challenger(2)
    found = settled(released)
    assert found[0].problem == (
        "aliases in MLflow: challenger is v2, champion is v1; v2 is live and nothing is being released"
    )
    released.assert_only(2)


def test_what_nothing_needs_is_removed_and_strangers_are_only_reported(released):
    home, strange = released.stack.home, released.state.revisions[released.state.traffic.holder]
    released.target._gateway.add("stranger", strange.name, ServerAddress.of(strange.address), strange.version)
    unused, half, fresh = home.bundles / "0ld", home.bundles / ".1ld.building", home.bundles / "n3w"
    written = home.gateway / ".routes.1"
    unread = home.root / "references" / "profiles-0ld"
    for folder in (unused, half, fresh, unread):
        folder.mkdir(parents=True)
    written.write_text("{")
    for path in (unused, half, written, unread):
        os.utime(path, (time.time() - _OLD, time.time() - _OLD))
    live = history.champion(released.journal, released.endpoint).revision.image.path
    os.utime(live, (time.time() - _OLD, time.time() - _OLD))
    try:
        found = [one for one in asyncio.run(reconcile.fn()) if one.endpoint == "stranger"]
        # On a gateway that targets share, it is on each that the history knows.
        assert [(one.problem, one.remedy) for one in found] in [
            [(f"is served on {kinds}, and the history does not know it", "")] for kinds in ("local", "docker and local")
        ]
        assert "stranger" in released.target.endpoints()
        assert not any(path.exists() for path in (unused, half, written, unread))
        assert fresh.exists()
        assert live.exists()
    finally:
        released.target._gateway.remove("stranger", strange.name)
        fresh.rmdir()


@pytest.mark.usefixtures("unguarded", "workerless")
def test_a_run_that_died_before_it_began_is_ended_and_others_are_not(released, monkeypatch):
    from prefect.client.orchestration import get_client
    from prefect.states import Running

    from flows.release import release

    monkeypatch.setattr("tasks.runs._BEGINS", timedelta(0))
    spec = {"endpoint": released.endpoint}
    with get_client(sync_client=True) as client:
        dead, begun, others = (
            str(client.create_flow_run(release, parameters={"spec": one}, state=Running()).id)
            for one in (spec, spec, {"endpoint": "another"})
        )
    row = Entry(
        endpoint=released.endpoint,
        release_id="r",
        kind=Kind.NOTE,
        what="resumed",
        actor="test",
        evidence={"flow_run": begun},
    )
    released.journal.append(row)
    assert any("1 run(s) for running" in found.problem for found in settled(released, dry_run=True))
    assert any("1 run(s) for running" in found.problem for found in settled(released))
    assert [released.run_state(run) for run in (dead, begun, others)] == ["Crashed", "Running", "Running"]
    assert settled(released) == []


@pytest.mark.usefixtures("unguarded")
def test_what_cannot_be_mended_is_said_once_to_people_and_tried_again(world, shifting, monkeypatch, ahead):
    shifting.kill()
    shifting.wait()
    guard = Guard(world.stack.home, world.journal)

    def away(*_: object) -> None:
        raise TargetUnavailableError("the platform is on fire")

    with monkeypatch.context() as patch:
        patch.setattr("tasks.ending.undo", type("Undo", (), {"fn": away, "__call__": away})())
        for _ in range(4):
            assert world.endpoint in guard.look()
            guard.finish()
            ahead.skip(3600)
    assert notes(world).count("needs a person") == 1
    guard.look()
    guard.finish()
    guard.close()
    assert problems_of(world) == []
