from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from headgate.phases import Phase
from registry import Entry, Kind
from tasks.notify import Notices, message_of


class Inbox:
    """A service that takes Apprise's JSON notifications."""

    def __init__(self, status: int = 200) -> None:
        self.taken: list[dict[str, str]] = []
        inbox = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                inbox.taken.append(json.loads(body))
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"json://user:hunter2@127.0.0.1:{self.server.server_port}/"


@pytest.fixture(params=[200])
def inbox(request):
    opened = Inbox(request.param)
    yield opened
    opened.server.shutdown()
    opened.server.server_close()


def row(what: str, kind: Kind = Kind.PHASE, reason: str = "") -> Entry:
    return Entry(endpoint="wine", release_id="r1", kind=kind, what=what, actor="ann", reason=reason)


def test_people_are_told_of_what_matters_and_of_nothing_else(inbox, monkeypatch):
    monkeypatch.setenv("OPS", inbox.url)
    notices = Notices(["env:OPS"])
    for entry in (
        row(Phase.STARTED), row(Phase.PACKAGED), row("scan", Kind.NOTE), row("running", Kind.LOOK),
        row("advance", Kind.LOOK, "advance wine@v2 at 5% to 25%"),
        row("approval requested", Kind.NOTE, "before shift: http://prefect/run"),
        row("judge", Kind.DECISION, "roll back wine@v2"), row(Phase.UNDOING, reason="worse"),
    ):  # fmt: skip
        notices.tell(entry)
    assert notices.problems() == []
    assert [(one["title"], one["message"]) for one in inbox.taken] == [
        ("headgate: wine", text) for text in (
            "release r1 started by ann", "advance wine@v2 at 5% to 25%",
            "release r1 waits for approval: before shift: http://prefect/run",
            "judge: roll back wine@v2 (release r1)", "release r1 is taken back: worse",
        )
    ]  # fmt: skip


@pytest.mark.parametrize("inbox", [500], indirect=True)
def test_a_service_that_refuses_is_named_by_its_reference_only(inbox, monkeypatch, caplog):
    monkeypatch.setenv("OPS", inbox.url)
    monkeypatch.setenv("NONSENSE", "not a url with hunter2")
    notices = Notices(["env:OPS", "env:NOBODY", "env:NONSENSE"])
    notices.tell(row(Phase.STARTED))
    notices.tell(row(Phase.UNDOING))
    problems = notices.problems()
    assert sorted(problems) == [
        "env:NOBODY: the environment variable NOBODY is not set where the release runs",
        "env:NONSENSE: NONSENSE holds no URL that Apprise knows",
        "env:OPS: the service did not take the message",
    ]
    assert "hunter2" not in caplog.text
    assert notices.problems() == [], "each once"


def test_without_references_nothing_is_said_of_anything():
    assert message_of(row(Phase.PACKAGED)) is None
    notices = Notices([])
    notices.tell(row(Phase.STARTED))
    assert notices.problems() == []
