from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate import errors
from headgate.findings import Finding
from headgate.home import Home, write_atomically
from headgate.phases import EXIT_CODES, NEXT, Outcome, Phase, is_behind, may_enter
from headgate.plan import make_plan
from headgate.records import Image, ModelVersion, Revision, Traffic
from headgate.release_file import parse_release


def revision(version: int = 1, digest: str = "sha256:aa", **changes) -> Revision:
    image = Image(digest=digest, lock_digest="sha256:l", path="/b", interpreter="/e/bin/python", size=1)
    settings = {"env": {}, "workers": 1, "ready_timeout": 60.0, **changes}
    return Revision.of(ModelVersion(name="wine", version=version, digest=digest), image, **settings)


def test_a_revision_is_named_after_what_it_is():
    assert revision().name == revision().name
    assert revision().name.startswith("v1-")
    others = {
        revision().name,
        revision(digest="sha256:bb").name,
        revision(env={"A": "1"}).name,
        revision(workers=2).name,
    }
    assert len(others) == 4


def test_weights_sum_to_all_traffic():
    assert Traffic.split("a", "b", 500).weights == {"a": 9500, "b": 500}
    assert Traffic.all_to("a").holder == "a"
    assert Traffic.split("a", "b", 1).holder is None
    for weights in ({"a": 9999}, {"a": 10_001}, {"a": 10_500, "b": -500}, {}):
        with pytest.raises(ValueError, match="weights"):
            Traffic(weights=weights)


@given(st.integers(0, 10_000))
def test_every_split_sums_to_all_traffic(share):
    assert sum(Traffic.split("a", "b", share).weights.values()) == 10_000


def test_every_phase_can_be_undone_until_the_release_has_ended():
    for phase in Phase:
        ended = phase in {Phase.PROMOTED, Phase.UNDONE}
        assert (Phase.UNDOING in NEXT[phase] or phase is Phase.UNDOING) is not ended
        assert bool(NEXT[phase]) is not ended


def test_phases_are_entered_in_order():
    assert may_enter(None, Phase.STARTED)
    assert not may_enter(None, Phase.PROMOTED)
    assert may_enter(Phase.SHIFTING, Phase.HELD)
    assert may_enter(Phase.SMOKED, Phase.HELD)
    assert not may_enter(Phase.DEPLOYED, Phase.HELD)
    assert may_enter(Phase.SMOKED, Phase.PROMOTED)
    assert not may_enter(Phase.PACKAGED, Phase.PROMOTED)
    assert not may_enter(Phase.UNDONE, Phase.STARTED)
    assert is_behind(Phase.DEPLOYED, Phase.SMOKED)
    assert not is_behind(Phase.SHADOWED, Phase.SMOKED)


def test_exit_codes_are_those_of_the_errors():
    assert EXIT_CODES[Outcome.REJECTED] == errors.RejectedError.exit_code == 3
    assert EXIT_CODES[Outcome.ROLLED_BACK] == errors.RolledBackError.exit_code == 4
    assert EXIT_CODES[Outcome.HELD] == errors.TimedOutError.exit_code == 5
    assert EXIT_CODES[Outcome.FAILED] == errors.HeadgateError.exit_code == 1
    assert errors.SpecError.exit_code == errors.HomeError.exit_code == 2


def test_errors_keep_their_fix_between_processes():
    carried = pickle.loads(pickle.dumps(errors.RevisionFailedError("it died", fix="read the log")))
    assert (type(carried), carried.message, carried.fix) == (errors.RevisionFailedError, "it died", "read the log")


def test_the_drawn_tree_names_every_error():
    def below(kind):
        return {kind.__name__} | {name for child in kind.__subclasses__() for name in below(child)}

    for name in below(errors.HeadgateError):
        assert f"{name} " in errors.__doc__


def test_a_home_that_cannot_be_written_says_what_to_do(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.HomeError, match="cannot be written to") as raised:
        Home(tmp_path / "file" / "home").ensure()
    assert "HEADGATE_HOME" in raised.value.fix


def test_an_interrupted_write_leaves_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, "old")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, "new")
    assert path.read_text() == "old"


def plan_of(text: str, champion=None, problems=(), **platform):
    spec = parse_release("model: wine\nartifact: runs:/1/model\ntarget: {kind: local}\n" + text)
    return make_plan(spec, champion, None, problems, **platform)


def test_a_first_release_is_planned_without_comparison():
    plan = plan_of("")
    assert [step.name for step in plan.steps] == ["package", "register", "deploy", "smoke", "promote"]
    assert "first release" in plan.notes[0]


def test_a_plan_tells_traffic_and_gates():
    steps = {step.name: step for step in plan_of("strategy: {steps: [1%, 10%]}", revision()).steps}
    assert steps["shift"].does == "live traffic to 1% ► 10%"
    assert steps["shadow"].gate == (
        "shown that fewer than 0.5% of answers differ (false pass 5%): after 1000 pairs where none does; within 10m, "
        "else hold"
    )
    assert "stays warm for 1h" in steps["promote"].does
    assert "shadow" not in {step.name for step in plan_of("gates: {shadow: off}", revision()).steps}


@pytest.mark.parametrize(("replicas", "hourly"), [("{min: 3, max: 3}", "6 an hour"), ("{min: 0, max: 3}", "2 an hour")])
def test_a_plan_tells_what_both_versions_cost_also_where_one_may_sleep(replicas, hourly):
    plan = plan_of(f"runtime: {{price_per_hour: 2, replicas: {replicas}}}", revision())
    assert any(hourly in note for note in plan.notes)


@pytest.mark.parametrize(("copied_at_most", "says"), [(10_000, "receives copies"), (0, "is asked again")])
def test_a_plan_of_blue_green_tells_how_the_old_version_is_compared(copied_at_most, says):
    plan = plan_of("strategy: {kind: blue-green}", revision(), mirrors=copied_at_most)
    does = {step.name: step.does for step in plan.steps}["shift"]
    assert "switch to 100%" in does
    assert says in does


@pytest.mark.parametrize(("asked", "copied_at_most", "says"), [
    ("100%", 10_000, "mirror 100% of"), ("100%", 5000, "mirror 50% of"), ("20%", 5000, "mirror 20% of"),
    ("20%", 0, "ask again 20% of"),
])  # fmt: skip
def test_a_plan_copies_no_more_than_the_platform_does(asked, copied_at_most, says):
    text = f"gates: {{shadow: {{percent: {asked}}}}}"
    steps = {step.name: step for step in plan_of(text, revision(), mirrors=copied_at_most).steps}
    assert steps["shadow"].does.startswith(says)


def test_a_plan_with_an_error_is_not_possible():
    warning, error = (Finding(severity=s, subject="x", problem="p") for s in ("warning", "error"))
    assert plan_of("", problems=[warning]).is_possible
    assert not plan_of("", problems=[warning, error]).is_possible
