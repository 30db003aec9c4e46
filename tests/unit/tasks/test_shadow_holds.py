"""What becomes of a version of which the shadow gate could show nothing in time."""

from __future__ import annotations

import pytest
from support.simulated import Simulation, recover
from support.simulated_platform import ENDPOINT

import tasks.gates
from headgate.phases import Phase
from headgate.verdicts import ShadowReport
from registry import Kind, history

REASON = "it needs about 700 more compared requests if they go on to differ as often; 3 of 900 answers differ"


@pytest.fixture
def world(tmp_path, monkeypatch):
    simulation = Simulation(tmp_path, monkeypatch)
    simulation.act("release")
    simulation.gates = "{smoke: off}"
    simulation.reports = [report(undecided=True)]
    monkeypatch.setattr(tasks.gates, "_compare", lambda *_: simulation.reports.pop(0))
    yield simulation
    simulation.journal.close()


def report(*, passed: bool = False, undecided: bool = False) -> ShadowReport:
    return ShadowReport(
        pairs=900, unmatched=0, disagreements=3, errors=0, rate=3 / 900, limit=0.005, e_value=0.6, e_within=4.1,
        needed=100, needed_to_pass=20, latency_ratio=None, passed=passed, undecided=undecided, reason=REASON,
    )  # fmt: skip


def results(world) -> list[tuple[str, str]]:
    rows = [row.evidence["result"] for row in world.journal.read(ENDPOINT) if row.what == history.OUTCOME]
    return [(row["outcome"], row["reason"]) for row in rows]


def phases(world) -> list[str]:
    flight = history.in_flight(world.journal, ENDPOINT)
    rows = world.journal.read(ENDPOINT, kinds=(Kind.PHASE,), release_id=flight.release_id if flight else "release-1")
    return [row.what for row in rows]


def test_it_is_held_without_traffic_and_the_message_says_what_is_missing(world):
    world.act("release")
    outcome, reason = results(world)[-1]
    assert outcome == "held"
    assert reason == (
        f"shadow: undecided m@v2 at 0% after 10m: {REASON}; it gets no live requests until a person decides"
    ).replace("m@v2", str(candidate(world)))
    assert history.in_flight(world.journal, ENDPOINT).phase is Phase.HELD
    assert world.target.traffic.holder == history.champion(world.journal, ENDPOINT).revision.name
    assert world.target.traffic.mirror is None
    recover(world)
    assert history.in_flight(world.journal, ENDPOINT).phase is Phase.HELD, "it waits for a person by right"
    assert world.problems() == []


def candidate(world):
    rows = world.journal.read(ENDPOINT, kinds=(Kind.PHASE,), release_id="release-1")
    (deployed,) = [row for row in rows if row.what == Phase.DEPLOYED]
    version = deployed.evidence["revision"]["version"]
    return f"{version['name']}@v{version['version']}"


def test_a_person_may_promote_it_or_remove_it(world):
    world.act("release")
    world.act("promote")
    assert results(world)[-1] == ("promoted", "dana: it is fine")
    assert world.disorder() == []
    world.reports = [report(undecided=True)]
    world.act("release")
    world.act("rollback")
    assert results(world)[-1][0] == "rolled back"
    assert world.disorder() == []


@pytest.mark.parametrize(("again", "outcome"), [
    (report(passed=True), "promoted"), (report(undecided=True), "held"), (report(), "rejected"),
])  # fmt: skip
def test_the_same_release_is_compared_again(world, again, outcome):
    world.act("release")
    world.reports = [again]
    world.act("the same again")
    assert world.reports == [], "it was compared"
    assert results(world)[-1][0] == outcome
    held = phases(world).index("held")
    assert phases(world)[held : held + 2] == ["held", "smoked"]
    recover(world)
    assert world.problems() == []


def test_a_held_shift_is_not_compared_again(world):
    from headgate.verdicts import Verdict

    world.reports, world.verdicts = [report(passed=True)], [Verdict.INCONCLUSIVE]
    world.act("release")
    assert results(world)[-1][0] == "held"
    world.act("the same again")
    assert results(world)[-1][0] == "promoted"
    assert phases(world).count("shadowed") == 1


def test_it_is_rejected_where_the_file_does_not_hold(world, monkeypatch):
    spec = world._spec()
    strategy = spec.strategy.model_copy(update={"on_inconclusive": "rollback"})
    monkeypatch.setattr(world, "_spec", lambda: spec.model_copy(update={"strategy": strategy}))
    world.act("release")
    outcome, reason = results(world)[-1]
    assert outcome == "rejected"
    assert reason.startswith("shadow: undecided ")
    assert world.disorder() == []
