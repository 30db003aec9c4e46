"""A process dies once at each change of a release that is promoted, and of one that is rolled back; what it may do."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from support.simulated import Simulation, recover
from support.simulated_platform import ENDPOINT, Fault

import tasks.gates
from headgate.errors import LeaseLostError
from headgate.records import Payload
from headgate.verdicts import Verdict
from registry import Entry, Kind, Lease, history
from tasks.inspect import _earlier
from tasks.job import Job


@pytest.fixture
def world(tmp_path, monkeypatch):
    simulation = Simulation(tmp_path, monkeypatch)
    yield simulation
    simulation.journal.close()


@pytest.mark.parametrize("last", [Verdict.PROMOTE, Verdict.ROLLBACK])
@pytest.mark.parametrize("changes", range(24))
def test_wherever_it_dies_one_version_is_left_and_history_says_so(world, changes, last):
    world.act("release")
    world.verdicts = [Verdict.ADVANCE, last]
    world.act("release", [*[None] * changes, Fault("die", after=True)])
    recover(world)
    assert world.disorder() == []


@pytest.mark.parametrize("who", ["reconcile", "guard"])
def test_who_ends_a_promotion_also_retires_what_is_no_longer_kept_warm(world, monkeypatch, who):
    spec = world._spec()
    spec = spec.model_copy(update={"rollback": spec.rollback.model_copy(update={"keep_warm": 0.0})})
    monkeypatch.setattr(world, "_spec", lambda: spec)
    world.act("release")
    alive = world.journal.append

    def die_once_it_is_live(entry, **more):
        row = alive(entry, **more)
        if entry.kind is Kind.LIVE:
            monkeypatch.setattr(world.journal, "append", alive)
            world.current.plan[:] = [Fault("die")]
        return row

    monkeypatch.setattr(world.journal, "append", die_once_it_is_live)
    world.act("release")
    assert len(world.target.revisions) == 2
    world.act(who)
    assert set(world.target.revisions) == {history.champion(world.journal, ENDPOINT).revision.name}


def test_a_challenger_that_nobody_releases_is_no_challenger(world):
    world.act("release")
    world.mlflow.known["challenger"] = 7
    world.act("reconcile")
    assert world.mlflow.known == {"champion": 1}


@pytest.mark.parametrize(("status", "seconds", "outcome"), [
    (200, 0.1, "promoted"), (302, 0.1, "rejected"), (404, 0.1, "rejected"), (500, 0.1, "rejected"),
    (200, 90.0, "rejected"),
])  # fmt: skip
def test_an_example_that_is_not_answered_well_keeps_the_version_from_clients(
    world, monkeypatch, status, seconds, outcome
):  # fmt: skip
    world.gates = "{shadow: off}"
    monkeypatch.setattr(tasks.gates, "_examples", lambda *_: ([Payload(body=b"{}")], "example"))
    answer = SimpleNamespace(status=status, seconds=seconds, body=b"")
    monkeypatch.setattr(world.target, "invoke", lambda *_: answer, raising=False)
    world.act("release")
    (ended,) = [row for row in world.journal.read(ENDPOINT) if row.what == history.OUTCOME]
    assert ended.evidence["result"]["outcome"] == outcome
    assert (history.champion(world.journal, ENDPOINT) is not None) == (outcome == "promoted")


def test_a_hold_says_what_the_canary_keeps_and_a_promotion_by_a_person_has_that_persons_reason(world):
    world.act("release")
    world.verdicts = [Verdict.INCONCLUSIVE]
    world.act("release")
    held = results(world)[-1]
    assert held["outcome"] == "held"
    assert held["reason"].endswith("it keeps 20% of the requests until a person decides")
    world.act("promote")
    promoted = results(world)[-1]
    assert (promoted["outcome"], promoted["reason"]) == ("promoted", "dana: it is fine")


def results(world):
    return [row.evidence["result"] for row in world.journal.read(ENDPOINT) if row.what == history.OUTCOME]


def test_a_first_version_that_nothing_could_ask_is_released_only_where_the_file_says_so(world, monkeypatch):
    monkeypatch.setattr(tasks.gates, "_examples", lambda *_: ([], "example"))
    world.gates = "{shadow: off}"
    world.act("release")
    (ended,) = [row for row in world.journal.read(ENDPOINT) if row.what == history.OUTCOME]
    result = ended.evidence["result"]
    assert result["outcome"] == "rejected"
    assert "neither an input example nor a signature" in result["reason"]
    assert history.champion(world.journal, ENDPOINT) is None
    world.gates = "{smoke: off, shadow: off}"
    world.act("release")
    assert history.champion(world.journal, ENDPOINT) is not None


def test_a_step_of_a_process_that_lost_the_endpoint_writes_nothing(world):
    job = Job(SimpleNamespace(root="/nowhere"), world.journal, world.target, ENDPOINT, "one", "ann")

    def write_too_late() -> None:
        with job.hold():
            world._let_leases_run_out()
            with Lease(world.journal, ENDPOINT, "two"):
                job.write(Kind.NOTE, "a note", "it is too late")

    with pytest.raises(LeaseLostError):
        write_too_late()
    assert [row.what for row in world.journal.read(ENDPOINT) if row.release_id == "one"] == []


def test_only_checks_of_the_version_that_is_live_count(world):
    for revision, violation in (("v1", True), ("v2", True), ("v2", False)):
        evidence = {"violation": violation, "revision": revision}
        entry = Entry(endpoint=ENDPOINT, release_id="check", kind=Kind.CHECK, what="drift", actor="monitor", reason="",
                      evidence=evidence)  # fmt: skip
        world.journal.append(entry)
    job = SimpleNamespace(journal=world.journal, endpoint=ENDPOINT)
    monitor = SimpleNamespace(trigger=SimpleNamespace(of=5))
    assert sorted(_earlier(job, SimpleNamespace(name="v2"), monitor)) == [False, True]
    assert _earlier(job, SimpleNamespace(name="v1"), monitor) == [True]
