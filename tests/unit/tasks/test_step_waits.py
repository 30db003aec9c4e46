"""A step that waits writes down what for: soon, and then less and less often."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest

from headgate import clock
from registry import Entry, Kind
from tasks.events import names_of
from tasks.notify import message_of
from tasks.waiting import Waiting


def test_a_wait_is_written_after_seconds_and_one_of_hours_every_some_minutes(waitless):
    began, rows = clock.monotonic(), []
    job = SimpleNamespace(write=lambda *row: rows.append((round(clock.monotonic() - began), row)))
    waiting, worded = Waiting(job, "shadow gate"), []
    for second in range(4 * 3600):
        waiting.tell(lambda second=second: worded.append(second) or f"{second} of 90")
        clock.sleep(1)
    assert [at for at, _ in rows[:3]] == [5, 10, 15]
    assert rows[0][1] == (Kind.WAIT, "shadow gate", "5 of 90")
    gaps = [later - earlier for (earlier, _), (later, _) in itertools.pairwise(rows)]
    assert gaps == sorted(gaps)
    assert 240 < gaps[-1] < 300
    assert len(worded) == len(rows) < 300, "words are made only where they are written"


@pytest.mark.parametrize("kind", Kind)
def test_whoever_reads_rows_knows_every_kind(kind):
    entry = Entry(endpoint="wine", release_id="r", kind=kind, what="seen", actor="dana")
    assert isinstance(names_of(entry), list)
    assert message_of(entry) is None


def test_a_wait_is_no_event():
    assert names_of(Entry(endpoint="wine", release_id="r", kind=Kind.WAIT, what="shadow gate", actor="dana")) == []
