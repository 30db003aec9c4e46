"""Releases that wait for a person: asked in the Prefect UI, answered there or from a terminal."""

from __future__ import annotations

import re
import shutil

import psutil
import pytest
from conftest import QUICK
from support.approving import ASKS, answer_in_browser, waiting
from support.browser import keep_page
from support.stack import wait_for
from support.watched_logs import PREFECT_AWAY

from headgate.cli.environment import prefect_is_up
from headgate.errors import BadInputError, EndpointBusyError
from headgate.phases import Outcome
from headgate.sign_in import PREFECT_SIGN_IN
from headgate.stack import Supervisor
from registry import Kind, history


def answers(world):
    return [row for row in world.journal.read(world.endpoint, kinds=(Kind.DECISION,)) if row.what == "approval"]


def processes_of(run: str) -> list[int]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("PREFECT__FLOW_RUN_ID") == run:
                found.append(process.pid)
        except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


@pytest.fixture
def asked(world, models):
    """v1 is live, and v2 waits for someone to let clients see it."""
    world.release(models("pyfunc", does="double"))
    with world.traffic():
        world.submit(models("pyfunc", does="negative"), QUICK + ASKS, actor="dana")
        yield waiting(world)


def test_it_is_approved_in_the_browser(world, asked):
    wait_for(lambda: processes_of(asked["flow_run"]) == [])
    assert world.state.traffic.holder.startswith("v1-")
    shown = answer_in_browser(world, asked, "approve", "ann", "looks good")
    assert asked["digest"] in shown
    assert asked["spec_hash"] in shown
    for evidence in (
        r"asked for by dana",
        r"champion: \S+@v1",
        r"shadow: \d+ pairs, 0 differ",
        r"report with plots: in",
    ):
        assert re.search(evidence, shown), evidence
    assert world.ended(2).outcome is Outcome.PROMOTED
    world.assert_only(2)
    (answer,) = answers(world)
    assert (answer.actor, answer.reason) == ("ann", "approved it before shift: looks good")
    assert (answer.evidence["decision"], answer.evidence["reason"]) == ("approve", "looks good")
    assert (answer.evidence["digest"], answer.evidence["spec_hash"]) == (asked["digest"], asked["spec_hash"])
    shadows = [
        row for row in world.journal.read(world.endpoint, release_id=asked["release_id"]) if row.what == "shadow"
    ]
    assert len(shadows) == 1, "what was done before the question is not done again"


def test_it_is_rejected_in_the_browser(world, asked):
    answer_in_browser(world, asked, "reject", "ann", "not on a Friday")
    result = world.ended(2)
    assert result.outcome is Outcome.REJECTED
    assert result.reason == "ann rejected it before shift: not on a Friday"
    world.assert_only(1)
    assert world.processes() == {"v1"}
    keep_page(asked["url"], "approval-rejected", world.stack.env[PREFECT_SIGN_IN])


def test_nobody_answers_in_time_and_everything_is_put_back(world, models):
    run = world.submit(models("pyfunc", does="double"), ASKS.replace("10m", "4s"))
    # The expired run has no process: the guard, or the flow that the automation starts, puts it back.
    result = world.ended()
    assert (result.outcome, result.reason) == (Outcome.REJECTED, "nobody approved it before shift in time")
    assert world.state is None
    assert world.aliases == {}
    assert world.processes() == set()
    base = world.stack.env["PREFECT_API_URL"].removesuffix("/api")
    keep_page(f"{base}/runs/flow-run/{run}", "approval-expired", world.stack.env[PREFECT_SIGN_IN])


@pytest.mark.expects_errors(PREFECT_AWAY)
def test_it_outlives_restarts_and_is_approved_from_a_terminal(world, models):
    world.submit(models("pyfunc", does="double"), ASKS)
    asked = waiting(world)
    supervisor = Supervisor(world.stack.home)
    for name in ("worker", "prefect-server"):
        psutil.Process(supervisor.states()[name].pid).kill()
    wait_for(prefect_is_up, 180)
    (listed,) = [one for one in world.stack.json("approvals") if one["endpoint"] == world.endpoint]
    assert listed["release_id"] == asked["release_id"]
    assert "it waits for approval before shift" in world.stack.headgate("status", world.endpoint).stdout
    world.stack.headgate("approve", "another", "--reason", "x", "--actor", "bob", expect=2)
    world.stack.headgate("approve", asked["release_id"], "--reason", "tested", "--actor", "bob")
    assert world.ended(1, 300).outcome is Outcome.PROMOTED
    assert answers(world)[0].actor == "bob"


def test_an_answer_to_other_content_is_no_answer(world, models, tmp_path):
    folder = shutil.copytree(models("pyfunc", does="negative"), tmp_path / "model")
    world.submit(folder, ASKS)
    request = waiting(world)
    (folder / "note.txt").write_text("retrained")
    world.stack.headgate("approve", request["release_id"], "--reason", "fine", "--actor", "bob")
    result = world.ended()
    assert result.outcome is Outcome.FAILED
    assert "has changed since" in result.reason
    assert answers(world) == []
    assert world.live is None
    assert world.processes() == set()


def test_a_release_that_waits_can_be_aborted(world, asked):
    with pytest.raises(EndpointBusyError, match=f"{world.endpoint} is held by flow run {asked['flow_run']}"):
        world.release("/nowhere")
    result = world.stack.json("abort", world.endpoint, "--reason", "changed our minds")
    assert result["outcome"] == "rolled back"
    world.assert_only(1)
    assert world.run_state(asked["flow_run"]) == "Cancelled"
    assert history.open_approvals(world.journal, world.endpoint) == []
    assert world.endpoint not in {one["endpoint"] for one in world.stack.json("approvals")}
    world.stack.headgate("approve", asked["release_id"], "--reason", "late", expect=2)


def test_a_run_that_is_cancelled_while_it_waits_is_put_back(world, models):
    world.submit(models("pyfunc", does="double"), ASKS.replace("shift", "deploy"))
    asked = waiting(world)
    assert world.stack.json("reconcile", world.endpoint) == [], "it waits by right"
    cancelled = {"state": {"type": "CANCELLED", "name": "Cancelled"}, "force": True}
    world.stack.prefect.post(f"/flow_runs/{asked['flow_run']}/set_state", json=cancelled).raise_for_status()
    result = world.ended()
    assert result.outcome is Outcome.ROLLED_BACK
    assert result.reason == "its run was ended while it waited for approval before deploy"
    assert world.live is None


def test_without_a_worker_nothing_can_wait(world, models):
    with pytest.raises(BadInputError, match="no process can wait for it"):
        world.release(models("pyfunc", does="double"), QUICK + ASKS)
    assert world.live is None
