"""What a person sees while a release runs."""

from __future__ import annotations

import re

import pytest

from headgate import clock
from headgate.cli import progress
from headgate.cli.progress import Progress
from registry import Entry, Kind


def row(kind, what, reason="", **evidence):
    return Entry(endpoint="wine", release_id="r1", kind=kind, what=what, actor="me", reason=reason, evidence=evidence)


@pytest.fixture
def shown(waitless, capsys):
    """Shows rows and lets seconds pass; gives the lines that were printed since."""
    made = Progress()

    def after(seconds, entry=None):
        for _ in range(seconds):
            clock.sleep(1)
            made.beat()
        if entry is not None:
            made.show(entry)
        return [re.sub(r"^\d\d:\d\d:\d\d", "", line).strip() for line in capsys.readouterr().err.splitlines()]

    return after


def test_no_ten_seconds_pass_without_a_line(shown):
    assert shown(0, row(Kind.PHASE, "started")) == ["phase started"]
    assert shown(9) == []
    lines = shown(26)
    assert lines == [f"wait the image is made, for {seconds} s so far" for seconds in (10, 20, 30)]
    assert shown(4, row(Kind.NOTE, "deploying", "v2")) == ["note deploying: v2"]
    assert shown(10) == ["wait the revision becomes ready, for 10 s so far"]


def test_what_a_gate_waits_for_is_shown_every_some_seconds(shown):
    shown(0, row(Kind.PHASE, "smoked"))
    lines = [line for second in range(30) for line in shown(1, row(Kind.WAIT, "shadow gate", f"{second} of 90"))]
    assert lines == ["wait 9 of 90", "wait 19 of 90", "wait 29 of 90"]


def test_looks_are_shown_every_some_seconds_and_each_that_decides(shown):
    shown(0, row(Kind.PHASE, "shifting"))
    looks = ["running"] * 14 + ["advance"] + ["running"] * 12 + ["rollback"]
    lines = [
        line for second, what in enumerate(looks) for line in shown(1, row(Kind.LOOK, what, str(second), share=500))
    ]
    assert lines == ["look 9", "look 14", "look 24", "look 27"]


def test_a_judges_state_is_not_shown(shown):
    shown(0, row(Kind.PHASE, "shifting"))
    assert shown(9, row(Kind.STATE, "judge", format=1)) == []
    assert shown(1) == ["wait the first requests are counted, for 10 s so far"]


def test_a_terminal_shows_each_second_in_one_line(waitless, monkeypatch):
    monkeypatch.setattr(progress.Console, "is_terminal", property(lambda _: True))
    made, said = Progress(), []
    monkeypatch.setattr(made._status, "update", said.append)
    made.show(row(Kind.PHASE, "started"))
    for _ in range(3):
        clock.sleep(1)
        made.beat()
    made.show(row(Kind.LOOK, "running", "it needs 4 more", share=2500))
    assert said[-1] == "25% it needs 4 more"
    assert said[:-1] == [f"the image is made, for {seconds} s so far" for seconds in (1, 2, 3)]


def test_seconds_are_counted_without_being_asked_and_the_counting_ends(monkeypatch):
    monkeypatch.setattr(progress, "_BEAT_SECONDS", 0.01)
    beats = []
    with Progress() as made:
        monkeypatch.setattr(made, "beat", lambda: beats.append(1) or (len(beats) > 3 and made._ends.set()))
        assert made._ends.wait(10)
    assert not made._counts.is_alive()
