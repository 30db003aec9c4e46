from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from support.journals import PROCESSES
from support.stack import wait_for
from unit.headgate.test_domain import revision

from headgate.errors import (
    BadInputError,
    EndpointBusyError,
    JournalChangedError,
    LeaseLostError,
    RegistryUnavailableError,
)
from headgate.gateway_limits import EndpointLimits
from headgate.phases import Phase
from registry import Entry, Journal, Kind, Lease, history
from registry.journal import entries
from registry.lease import holder


def entry(what: str = "x", kind: Kind = Kind.NOTE, release_id: str = "r1", endpoint: str = "wine", **evidence) -> Entry:
    return Entry(endpoint=endpoint, release_id=release_id, kind=kind, what=what, actor="me", evidence=evidence)


def test_rows_come_back_as_they_were_written(journal):
    written = journal.append(entry("first", why="ünïcode", number=1.5))
    journal.append(entry("second", kind=Kind.LOOK))
    journal.append(entry("elsewhere", endpoint="other"))
    assert journal.read("wine") == [written, *journal.read("wine", kinds=(Kind.LOOK,))]
    assert [row.seq for row in journal.read("wine")] == [1, 2]
    assert journal.read("wine", after=1, newest=1)[0].what == "second"
    assert journal.endpoints() == ["other", "wine"]
    assert [row.what for row in journal.find_release("r1")] == ["first", "elsewhere", "second"]


@pytest.mark.parametrize("change", [
    entries.update().where(entries.c.seq == 2).values(reason="nothing happened"),
    entries.update().where(entries.c.seq == 2).values(evidence='{"a": 2}'),
    entries.delete().where(entries.c.seq == 2),
    entries.delete().where(entries.c.seq == 1),
])  # fmt: skip
def test_a_changed_past_shows(journal, change):
    for number in range(4):
        journal.append(entry(str(number)))
    assert journal.verify("wine") == 4
    with journal.engine.begin() as connection:
        connection.execute(change)
    with pytest.raises(JournalChangedError):
        journal.verify("wine")


def _append_many(url: str, count: int) -> None:
    journal = Journal(url)
    for number in range(count):
        journal.append(entry(f"{os.getpid()}-{number}"))
    journal.close()


def test_writers_in_many_processes_make_one_chain(url):
    writers = [PROCESSES.Process(target=_append_many, args=(url, 25)) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * 4
    journal = Journal(url)
    assert journal.verify("wine") == 100
    journal.close()


def test_a_writer_that_others_are_ahead_of_many_times_still_writes(journal, monkeypatch):
    """On a busy machine, one of four was, more than ten times."""
    ahead, writing = iter(range(25)), journal.writing

    @contextmanager
    def contended():
        if next(ahead, None) is not None:
            raise sa.exc.IntegrityError("INSERT INTO entries", {}, Exception("the number is taken"))
        with writing() as connection:
            yield connection

    monkeypatch.setattr(Journal.append.retry, "sleep", lambda _: None)
    monkeypatch.setattr(journal, "writing", contended)
    assert journal.append(entry()).seq == 1
    assert next(ahead, None) is None


def test_one_holder_at_a_time(journal):
    with Lease(journal, "wine", "r1") as first, Lease(journal, "other", "r3"):
        held = holder(journal, "wine")
        assert held is not None
        assert held.release_id == "r1"
        with pytest.raises(EndpointBusyError, match="for release r1"), Lease(journal, "wine", "r2"):
            pytest.fail("two hold the endpoint")
    assert holder(journal, "wine") is None
    with Lease(journal, "wine", "r2") as second:
        assert second.fence > first.fence


def test_a_lease_is_renewed_while_its_holder_lives(journal):
    with Lease(journal, "wine", "r1", seconds=0.6):
        first = holder(journal, "wine").expires
        wait_for(lambda: (now := holder(journal, "wine")) is not None and now.expires > first)


def test_who_lost_the_lease_can_neither_write_nor_go_on(journal, monkeypatch):
    monkeypatch.setattr(Lease, "_renew", lambda _: None)
    with Lease(journal, "wine", "r1", seconds=0.05) as lost:
        wait_for(lambda: holder(journal, "wine") is None)
        with Lease(journal, "wine", "r2") as taken:
            with pytest.raises(LeaseLostError, match=f"fence {taken.fence}, ours was {lost.fence}"):
                lost.check()
            with pytest.raises(LeaseLostError):
                journal.append(entry("late"), fence=lost.fence)
            taken.check()
            journal.append(entry("good"), fence=taken.fence)
        # The first holder's leaving must not end the second's.
    assert [row.what for row in journal.read("wine")] == ["good"]


def test_a_database_that_does_not_answer_is_our_error(tmp_path):
    with pytest.raises(RegistryUnavailableError, match="does not answer"):
        Journal(f"sqlite:///{tmp_path}/no/such/folder/journal.db")


def live(journal: Journal, version: int, at: datetime, what: str = "r") -> None:
    row = entry(
        f"v{version}", Kind.LIVE, f"{what}{version}",
        revision=revision(version, f"sha256:{version}").model_dump(mode="json"),
    )  # fmt: skip
    journal.append(row.model_copy(update={"at": at}))


def reigning(journal: Journal, *versions: int) -> None:
    """Releases of versions; a negative number is a rollback to that version."""
    for number, version in enumerate(versions):
        at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=number)
        live(journal, abs(version), at, "r" if version > 0 else "rollback-")


def test_history_tells_what_was_live_from_when_to_when(journal):
    reigning(journal, 1, 2)
    first, second = history.reigns(journal, "wine")
    assert (first.revision.version.version, first.until) == (1, second.since)
    assert second.until is None
    assert history.champion(journal, "wine") == second


@pytest.mark.parametrize(("lived", "back_to"), [
    ([1], None), ([1, 2], 1), ([1, 2, 3], 2), ([1, 2, 3, -2], 1), ([1, 2, 3, -2, -1], None), ([1, 2, -1, 4], 1),
    ([1, 2, 1], 2), ([1, 2, 1, -2], 1), ([1, 2, 1, 2, -1], 2), ([1, 2, -1, 2], 1),
    ([1, 2, 2], 1), ([1, 1], None),
])  # fmt: skip
def test_rolling_back_twice_goes_back_two_versions_and_releasing_again_is_no_rollback(journal, lived, back_to):
    reigning(journal, *lived)
    found = history.predecessor(journal, "wine")
    assert (found.revision.version.version if found else None) == back_to


def test_a_version_that_is_released_again_with_other_limits_goes_on_with_them(journal):
    reigning(journal, 1, 2)
    before = history.champion(journal, "wine")
    again = before.revision.model_copy(update={"limits": EndpointLimits(body=1)})
    journal.append(entry("v2", Kind.LIVE, "again", revision=again.model_dump(mode="json")))
    now = history.champion(journal, "wine")
    assert (now.revision, now.since, now.until) == (again, before.since, None)
    assert len(history.reigns(journal, "wine")) == 2


def test_a_release_is_in_flight_until_it_has_ended(journal):
    assert history.in_flight(journal, "wine") is None
    for phase in (Phase.STARTED, Phase.PACKAGED):
        journal.append(entry(phase, Kind.PHASE, spec={"model": "wine"}))
    flight = history.in_flight(journal, "wine")
    assert flight is not None
    assert (flight.release_id, flight.phase) == ("r1", Phase.PACKAGED)
    assert history.spec_of(journal, "wine") == {"model": "wine"}
    journal.append(entry(Phase.UNDONE, Kind.PHASE))
    assert history.in_flight(journal, "wine") is None


def test_the_run_of_a_process_that_died_before_it_wrote_anything_is_known_by_its_lease(journal):
    died = Lease(journal, "wine", "r1", in_run="3fdfb9f2", seconds=60)
    died.fence = died._take()
    held = holder(journal, "wine")
    assert held is not None
    assert (held.in_run, "3fdfb9f2" in held.name, held.flow_run) == ("3fdfb9f2", False, "")
    died._extend(1.0)
    with Lease(journal, "wine", "r2") as lease:
        assert lease.taken_from is not None
        assert lease.taken_from.in_run == "3fdfb9f2"
        assert holder(journal, "wine").in_run == ""
    note = Entry(endpoint="wine", release_id="r2", kind=Kind.NOTE, what=history.TAKEN_OVER, actor="guard")
    journal.append(note.model_copy(update={"evidence": {"for": "r1", "run": "3fdfb9f2"}}))
    assert history.runs_to_close(journal, "wine") == {"r1": ["3fdfb9f2"]}
    closed = note.model_copy(update={"what": history.RUN_CLOSED, "evidence": {"of": "r1"}})
    journal.append(closed)
    assert history.runs_to_close(journal, "wine") == {}


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql+psycopg://ann:hunter2@db/x", "needs psycopg, which is not installed"),
        ("mysql://ann:hunter2@db/x", "needs MySQLdb, which is not installed"),
        ("ann:hunter2@db", "is not a database URL"),
        ("nosuch://ann:hunter2@db/x", "is not a database URL"),
    ],
)
def test_a_journal_that_cannot_be_opened_is_bad_input_with_its_fix(monkeypatch, url, said):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(BadInputError) as refused:
        Journal(url)
    assert said in refused.value.message
    assert "postgresql+psycopg://" in refused.value.fix
    assert "hunter2" not in str(refused.value)
