"""Releases whose process died, and that go on by their id."""

from __future__ import annotations

import shutil

import pytest
from conftest import QUICK

from headgate.errors import (
    BadInputError,
    RejectedError,
)
from headgate.phases import Outcome, Phase
from registry import Kind, history

pytestmark = pytest.mark.usefixtures("unguarded", "workerless")


def test_the_evidence_of_a_shift_outlives_its_process(world, models, monkeypatch):
    from tasks import shift

    world.release(models("pyfunc", does="double"))
    take, taken = shift._one_look, []

    def until_power_fails(*arguments):
        if len(taken) == 4:
            raise SystemExit("power cut")
        taken.append(take(*arguments))
        return taken[-1]

    def die(*_: object) -> None:
        raise SystemExit("power cut")

    # Too many requests to be promoted before the power fails.
    more = QUICK.replace("60, min", "400, min")
    with world.traffic():
        with monkeypatch.context() as patch:
            patch.setattr("tasks.shift._one_look", until_power_fails)
            patch.setattr("tasks.ending.undo", type("Undo", (), {"fn": die, "__call__": die})())
            with pytest.raises(SystemExit):
                world.release(models("pyfunc", does="negative"), more, release_id="cut-short")
        assert (
            world.release(models("pyfunc", does="negative"), more, release_id="cut-short").outcome is Outcome.PROMOTED
        )
    rows = world.journal.read(world.endpoint, release_id="cut-short", kinds=(Kind.LOOK,))
    looks = [row.evidence for row in rows]
    assert [look["seconds"] for look in looks] == sorted(look["seconds"] for look in looks)
    counted = [look["canary"]["requests"] for look in looks]
    assert counted == sorted(counted)
    assert counted[4] > counted[3] > 0, "the fifth look goes on from the fourth"
    world.assert_only(2)


def test_a_release_resumes_by_its_id(world, models, monkeypatch):
    """Its process dies after the shadow comparison; the same id goes on, and does not repeat it."""
    world.release(models("pyfunc", does="double"))

    def die(*_: object) -> None:
        raise SystemExit("power cut")

    with world.traffic():
        with monkeypatch.context() as patch:
            patch.setattr("tasks.shift._look_until_decided", die)
            # A process that is killed undoes nothing.
            patch.setattr("tasks.ending.undo", type("Undo", (), {"fn": die, "__call__": die})())
            with pytest.raises(SystemExit):
                world.release(models("pyfunc", does="negative"), release_id="resumed")
        assert history.in_flight(world.journal, world.endpoint).phase is Phase.SHIFTING
        with pytest.raises(BadInputError, match="another release file"):
            world.release(models("pyfunc", does="triple"), release_id="resumed")
        assert world.release(models("pyfunc", does="negative"), release_id="resumed").outcome is Outcome.PROMOTED
    with pytest.raises(BadInputError, match="has ended: it is promoted"):
        world.release(models("pyfunc", does="negative"), release_id="resumed")
    shadows = [row for row in world.journal.read(world.endpoint, release_id="resumed") if row.what == "shadow"]
    assert len(shadows) == 1
    world.assert_only(2)


def test_a_resumed_release_does_not_pass_other_content_through_old_gates(world, models, tmp_path):
    folder = shutil.copytree(models("pyfunc", does="double"), tmp_path / "model")
    world.release(models("pyfunc", does="slow"))
    with pytest.raises(RejectedError):
        world.release(folder, QUICK.replace("20s", "1s"))

    def die(*_: object) -> None:
        raise SystemExit("power cut")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flows.release.register", type("Register", (), {"fn": die, "__call__": die})())
        patch.setattr("tasks.ending.undo", type("Undo", (), {"fn": die, "__call__": die})())
        with pytest.raises(SystemExit):
            world.release(folder, release_id="changed")
    (folder / "note.txt").write_text("retrained")
    with pytest.raises(BadInputError, match="has changed since changed began"):
        world.release(folder, release_id="changed")
    world.assert_only(1)
