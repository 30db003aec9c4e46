"""What should run by itself and does not: checks that are missed, and what a Prefect server's answers mean."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from support.small_server import answering

from headgate.home import Home
from headgate.release_file import parse_release
from registry import Entry, Kind
from registry.watches import unwatch, watch
from tasks.metrics import render
from tasks.upkeep import MISSED, PrefectState, Scheduled, ask_prefect, checks, findings, look, of_prefect

FILE = "model: wine\nartifact: runs:/1/model\ntarget: {kind: local}\n"
QUARTERLY = FILE + "monitor: {schedule: '*/15 * * * *'}\n"


def watched(journal, text=QUARTERLY, **options):
    spec = parse_release(text)
    watch(journal, spec, "ann", **options)
    return datetime.now(UTC)


def checked(journal, endpoint="wine"):
    journal.append(Entry(endpoint=endpoint, release_id="c", kind=Kind.CHECK, what="drift", actor="monitor"))


def missed(journal, now):
    return {one.endpoint: one.missed for one in checks(journal, now)}


def next_quarter(now):
    return now.replace(second=0, microsecond=0) + timedelta(minutes=15 - now.minute % 15)


def test_due_times_without_a_check_are_missed_from_the_first_on(journal):
    due = next_quarter(watched(journal))
    assert missed(journal, due - timedelta(seconds=1)) == {"wine": 0}
    assert missed(journal, due) == {"wine": 1}
    assert missed(journal, due + timedelta(minutes=15)) == {"wine": MISSED}
    checked(journal)
    assert missed(journal, due - timedelta(seconds=1)) == {"wine": 0}
    assert missed(journal, due + timedelta(days=3)) == {"wine": 100}


def test_a_schedule_is_read_in_its_time_zone(journal):
    began = watched(journal, FILE + "monitor: {schedule: '0 9 * * *', timezone: Pacific/Auckland}\n")
    (one,) = checks(journal, began + timedelta(days=2))
    assert one.missed == 2
    assert not one.ever


def test_what_has_no_schedule_of_its_own_is_expected_once_an_hour(journal):
    began = watched(journal, scheduled=False)
    hour = began.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
    assert missed(journal, hour) == {"wine": 1}
    assert missed(journal, hour + timedelta(minutes=59)) == {"wine": 1}


def test_what_is_not_watched_and_what_has_no_monitor_misses_nothing(journal):
    watched(journal)
    watched(journal, FILE.replace("wine", "beer") + "release_when: {alias: ship}\n")
    unwatch(journal, "wine", "ann")
    assert missed(journal, datetime.now(UTC) + timedelta(days=1)) == {}
    watched(journal)
    assert missed(journal, datetime.now(UTC) + timedelta(days=1)) == {"wine": 96}


def test_a_check_from_before_it_was_unwatched_is_no_check_of_the_watch_that_follows(journal):
    watched(journal)
    checked(journal)
    unwatch(journal, "wine", "ann")
    began = watched(journal)
    (one,) = checks(journal, next_quarter(began))
    assert (one.ever, one.missed) == (False, 1)
    assert one.since > began - timedelta(seconds=5)
    checked(journal)
    (one,) = checks(journal, next_quarter(began) - timedelta(seconds=1))
    assert (one.ever, one.missed) == (True, 0)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    return Home(tmp_path / "home").ensure()


def test_missed_checks_are_an_error_and_a_metric(journal, home, monkeypatch):
    watched(journal)
    assert [(one.severity, one.subject) for one in findings(home, journal)] == [("ok", "checks")]
    later = datetime.now(UTC) + timedelta(hours=2)

    class Later(datetime):
        @classmethod
        def now(cls, _zone=None):
            return later

    monkeypatch.setattr("tasks.upkeep.datetime", Later)
    (found,) = findings(home, journal)
    assert (found.severity, found.subject) == ("error", "wine")
    assert found.problem.startswith("is not checked: no check since it was watched, 2 h 0 min ago; 8 checks are missed")
    assert b'headgate_checks_missed{endpoint="wine"} 8.0' in render(journal, look(home))


def test_errors_in_a_programs_log_are_a_warning_and_a_metric(journal, home):
    stamp = datetime.now().astimezone()
    lines = [f"{stamp - timedelta(minutes=ago):%F %T}.000 | ERROR   | docket - it fails\n" for ago in (16, 2, 1)]
    (home.logs / "prefect-server.log").write_text("".join(lines))
    (home.logs / "wine--v1-ab.log").write_text(lines[-1])
    (found,) = findings(home, journal)
    assert (found.severity, found.subject) == ("warning", "prefect-server")
    assert "logged 2 errors in the last 15 minutes; the newest:" in found.problem
    assert b'headgate_logged_errors{program="prefect-server"} 2.0' in render(journal, look(home))


def state(**of_schedule):
    known = {"name": "monitor/local", "next_run": datetime.now(UTC), "late": timedelta(0), "late_state": ""}
    return PrefectState(
        "http://prefect/api", deployed=True, schedules=[Scheduled(**known | of_schedule)], workers={"headgate": 1}
    )


@pytest.mark.parametrize(
    ("prefect", "subject", "problem"),
    [
        (state(next_run=None), "schedule of monitor/local", "makes no runs for it: its scheduler fails"),
        (state(late=timedelta(minutes=3), late_state="Late"), "schedule of monitor/local",
         "its oldest run is 3 min late (Late)"),
        (state(late=timedelta(minutes=3), late_state="Scheduled"), "schedule of monitor/local",
         "did not mark it: its background services fail"),
        (PrefectState("http://prefect/api", deployed=True, workers={"gpus": 0}), "work pool gpus",
         "workers online: 0"),
        (PrefectState("http://prefect/api"), "prefect", "does not have Headgate's flows"),
        (PrefectState("http://prefect/api", problem="does not answer: refused"), "prefect",
         "http://prefect/api does not answer: refused"),
    ],
)  # fmt: skip
def test_what_a_server_answers_is_an_error_with_a_fix(prefect, subject, problem):
    (found,) = [one for one in of_prefect(prefect) if one.severity == "error"]
    assert found.subject == subject
    assert problem in found.problem
    assert found.fix


def test_a_server_that_does_all_is_in_order():
    assert {one.severity for one in of_prefect(state(late=timedelta(minutes=1), late_state="Late"))} == {"ok"}


def test_a_server_that_is_away_or_answers_nonsense_is_a_problem():
    assert "does not answer" in ask_prefect("http://127.0.0.1:9/api").problem
    with answering(lambda _path: (200, b"<html>")) as url:
        assert "does not answer" in ask_prefect(url).problem
    with answering(lambda _path: (401, b"{}")) as url:
        (refused,) = of_prefect(ask_prefect(url))
    assert refused.problem.endswith("does not accept the sign-in")
    assert 'eval "$(headgate env)"' in refused.fix
    assert "PREFECT_API_AUTH_STRING" in refused.fix
    with answering(lambda _path: (500, b"{}")) as url:
        assert ask_prefect(url).problem == "answers 500 to /deployments/filter"
    with answering(lambda _path: (200, b'[{"id": 1}]')) as url:
        assert ask_prefect(url).problem == "answers in another form than Prefect's: KeyError('schedules')"
    with answering(lambda _path: (200, json.dumps([]).encode())) as url:
        assert ask_prefect(url) == PrefectState(url)
