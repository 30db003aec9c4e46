"""The shift of a release that was cut short, read from the last state of its judge on."""

from __future__ import annotations

import pytest

from headgate.release_file import parse_release
from headgate.verdicts import Look, Verdict
from registry import Entry, Journal, Kind, history
from registry.history import narrative, shift_of

RELEASE = "model: wine\nartifact: nowhere\ntarget: {kind: local}\n"
COUNTS = {"requests": 10, "failures": 0}


@pytest.fixture
def journal(tmp_path):
    made = Journal(f"sqlite:///{tmp_path}/journal.db")
    write(made, Kind.PHASE, "started", {"spec": parse_release(RELEASE).model_dump(mode="json")})
    yield made
    made.close()


def write(journal: Journal, kind: Kind, what: str, evidence: dict, release: str = "r1") -> None:
    journal.append(Entry(endpoint="wine", release_id=release, kind=kind, what=what, actor="a", evidence=evidence))


def look(journal: Journal, seconds: int, release: str = "r1") -> None:
    made = Look(
        seconds=seconds, share=500, stable=COUNTS, canary=COUNTS, e_value=1.0, needed=100.0, verdict=Verdict.RUNNING,
        reason="",
    )  # fmt: skip
    write(journal, Kind.LOOK, made.verdict, made.model_dump(mode="json"), release)


def test_it_begins_at_the_last_state_of_this_release_and_format(journal):
    assert shift_of(journal, "r1", "wine", state_format=1) is None
    write(journal, Kind.NOTE, history.SHIFT_BEGAN, {"stable": COUNTS, "bounds": [0.1], "dispersions": {}})
    for seconds in range(1, 7):
        look(journal, seconds)
        if seconds in {2, 4}:
            write(journal, Kind.STATE, "judge", {"format": 1, "seconds": seconds})
    look(journal, 1, "r2")
    write(journal, Kind.STATE, "judge", {"format": 1, "seconds": 99}, "r2")
    cut_short = shift_of(journal, "r1", "wine", state_format=1)
    assert [look.seconds for look in cut_short.looks] == [5, 6]
    assert cut_short.state == {"format": 1, "seconds": 4}
    assert (cut_short.spec["model"], cut_short.bounds, cut_short.before.requests) == ("wine", (0.1,), 10)
    for how in ({}, {"state_format": 2}):
        whole = shift_of(journal, "r1", "wine", **how)
        assert [look.seconds for look in whole.looks] == [1, 2, 3, 4, 5, 6]
        assert whole.state is None
    assert {entry.kind for entry in narrative(journal.read("wine"))} == {Kind.PHASE, Kind.NOTE}
