"""Errors in logs, as the stack's programs write them: each sample is of a real log."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from headgate.stack.logs import find_errors, recent_errors

SCHEDULER = """\
Check out the dashboard at http://127.0.0.1:29176


2026-11-29 01:17:37.277 | ERROR   | docket.dependencies - ↩ [    86ms] schedule_recent_deployments(){…}
Traceback (most recent call last):
  File "prefect/server/models/deployments.py", line 1009, in _insert_scheduled_flow_runs
    await session.execute(
sqlalchemy.exc.InvalidRequestError: Can't evaluate bulk DML statement; please supply a bulk_dml decorated function
2026-11-29 01:17:42.306 | INFO    | prefect.server - fine
"""
UVICORN = """\
INFO:     127.0.0.1:49708 - "GET /health HTTP/1.1" 200 OK
ERROR:    Exception in ASGI application
Traceback (most recent call last):
  File "app.py", line 1, in call
ValueError: no
INFO:     127.0.0.1:49708 - "GET /health HTTP/1.1" 200 OK
"""
MLFLOW = """\
2026/11/29 01:20:02 INFO mlflow.store.db.utils: Updating database tables
mlflow/server/fastapi_app.py:23: StarletteDeprecationWarning: starlette.middleware.wsgi is deprecated.
  from starlette.middleware.wsgi import WSGIResponder, build_environ
2026/11/29 01:20:05 ERROR mlflow.server.handlers: the database is away
"""
ENVOY = """\
[2026-11-29 01:19:23.389][13586][warning][main] [source/server/server.cc:1059] There is no configured limit
[2026-11-29 01:19:24.100][13586][critical][main] [source/server/server.cc:131] error initializing configuration
"""
PRINTED = """\
2026-11-29 01:19:45,231 guard (root@vm) watches sqlite:////home/journal.db
Traceback (most recent call last):
  File "guard.py", line 3, in run
KeyError: 'x'
"""
QUIET = """\
Worker 'ProcessWorker 1f2231f9' started!
2026-11-29 01:20:47.319 | INFO    | prefect.workers - an ERROR in a message is no level
2026-11-29 01:20:48.319 | WARNING | prefect.events.clients - Unable to connect
2026/11/29 01:20:02 INFO mlflow.server: GET /ERROR/x
"""


@pytest.mark.parametrize(
    ("text", "summary"),
    [
        (SCHEDULER, "schedule_recent_deployments(){…} … sqlalchemy.exc.InvalidRequestError: Can't evaluate bulk DML"),
        (UVICORN, "ERROR:    Exception in ASGI application … ValueError: no"),
        (MLFLOW, "2026/11/29 01:20:05 ERROR mlflow.server.handlers: the database is away"),
        (ENVOY, "error initializing configuration"),
        (PRINTED, "… KeyError: 'x'"),
    ],
)
def test_an_error_is_found_once_with_its_exception(text, summary):
    (found,) = find_errors(text)
    assert summary in found.summary


def test_other_lines_are_no_errors():
    assert find_errors(QUIET) == []
    assert find_errors("") == []


def test_two_errors_that_follow_each_other_are_two():
    assert len(find_errors(SCHEDULER + SCHEDULER.replace("17:37", "17:52"))) == 2


def test_a_line_without_a_date_has_that_of_the_line_before(tmp_path):
    log = tmp_path / "prefect-server.log"
    log.write_text(SCHEDULER + UVICORN)
    at = datetime(2026, 11, 29, 1, 17, 42).astimezone()
    assert [error.at for error in find_errors(log.read_text())] == [at - timedelta(seconds=5), at]
    assert len(recent_errors(log, at)) == 1
    assert recent_errors(log, at + timedelta(seconds=1)) == []
    assert recent_errors(tmp_path / "none.log", datetime.now(UTC)) == []


def test_failed_runs_and_what_passes_by_itself_are_no_errors_of_a_program(tmp_path):
    log = tmp_path / "worker.log"
    stamp = "2026-11-29 01:17:37.277 | ERROR   | "
    twice = "dropping 3 events\nTraceback (most recent call last):\nNOT NULL constraint failed: events.occurred"
    removed = (
        "prefect.flow_runs.worker - Failed to update state of flow run '01a22de9'\nTraceback (most recent call last):\n"
        "PrefectHTTPStatusError: Client error '404 Not Found' for url 'http://127.0.0.1:25536/api/flow_runs/01a22de9/"
        "set_state' - Response: {'exception_message': 'Flow run with id 01a22de9 not found'}\nObjectNotFound: None"
    )
    lines = [
        "Flow run 'release' - Finished in state Failed('rejected')",
        f"prefect.server.messaging - {twice}",
        removed,
        "worker - it fails",
    ]
    log.write_text("\n".join(stamp + line for line in lines) + "\n")
    assert len(find_errors(log.read_text())) == 4
    (found,) = recent_errors(log, datetime(2026, 1, 1, tzinfo=UTC))
    assert found.summary.endswith("worker - it fails")
    # A database that is locked costs events, and does not pass by itself.
    log.write_text(f"{stamp}prefect.server.messaging - (sqlite3.OperationalError) database is locked\n")
    assert len(recent_errors(log, datetime(2026, 1, 1, tzinfo=UTC))) == 1


def test_only_the_end_of_a_large_log_is_read(tmp_path):
    log = tmp_path / "worker.log"
    log.write_text(SCHEDULER + QUIET * 4000 + SCHEDULER.replace("Check", "é"))
    assert len(recent_errors(log, datetime(2026, 1, 1, tzinfo=UTC))) == 1
