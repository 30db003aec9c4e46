"""`headgate status` ends with 1 where something that should serve does not."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from headgate.cli.failing import failing
from headgate.cli.read import status
from headgate.home import Home
from headgate.stack import Ports
from headgate.stack.programs import STACK

V1 = {"name": "v1-a", "weight": 10_000, "ready": True, "detail": ""}
WINE = {"endpoint": "wine", "champion": {"version": "wine@v1"}, "problem": "", "revisions": [V1]}


def program(state: str):
    return [{"program": "gateway", "state": state}]


@pytest.mark.parametrize(("state", "good"), [
    ("RUNNING", True), ("STARTING", True), ("YOURS", True),
    ("DOWN", False), ("EXITED", False), ("FATAL", False), ("BACKOFF", False), ("STOPPED", False),
])  # fmt: skip
def test_a_program_that_should_run_does(state, good):
    found = failing(program(state), [], should_run=True)
    assert [one.problem for one in found] == ([] if good else [f"should run and is {state}"])
    assert failing(program(state), [], should_run=False) == []


@pytest.mark.parametrize(("change", "says"), [
    ({}, None),
    ({"champion": None, "revisions": []}, None),
    ({"problem": "it does not answer"}, "cannot be looked at: it does not answer"),
    ({"revisions": []}, "wine@v1 is live, and no revision has traffic"),
    ({"revisions": [V1 | {"weight": 0}]}, "wine@v1 is live, and no revision has traffic"),
    ({"revisions": [V1 | {"ready": False, "detail": "its server is gone"}]}, "100 % of the requests and cannot answer"),
    ({"revisions": [V1, V1 | {"name": "v2-b", "weight": 0, "ready": False}]}, None),
    ({"revisions": [V1 | {"weight": 9_500}, V1 | {"name": "v2-b", "weight": 500, "ready": False}]}, "v2-b gets 5 %"),
])  # fmt: skip
def test_who_has_traffic_can_answer_it(change, says):
    found = [f"{one.subject} {one.problem}" for one in failing([], [WINE | change], should_run=True)]
    assert len(found) == (says is not None)
    assert all(one.startswith("wine ") and says in one for one in found)


def test_the_command_ends_with_1_where_the_stack_was_killed(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADGATE_HOME", str(tmp_path))
    home = Home(tmp_path).ensure()
    Ports.choose(home)
    asked = CliRunner()
    assert asked.invoke(status).exit_code == 0, "nobody started it"
    # As it stays when supervisord is killed.
    (home.supervisor / "supervisord.pid").write_text("1")
    said = asked.invoke(status)
    assert said.exit_code == 1
    assert "error: gateway should run and is DOWN" in said.output
    found = json.loads(asked.invoke(status, ["--json"]).output)["failing"]
    assert [one["subject"] for one in found] == list(STACK)
