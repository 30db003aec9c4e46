"""The whole way of a release, on a real Prefect server, MLflow server and Envoy; see also test_life.py."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import shutil
import signal
import threading
from pathlib import Path

import pandas as pd
import pytest
from client import Client
from conftest import QUICK, WIDE, in_background
from support.stack import http, wait_for

from headgate.errors import (
    ArtifactError,
    EndpointBusyError,
    RejectedError,
    RequirementsError,
    RevisionFailedError,
    RolledBackError,
    TimedOutError,
    UnsupportedError,
)
from headgate.phases import Outcome, Phase
from headgate.records import Traffic
from headgate.release_file import parse_release
from headgate.stack import Supervisor
from registry import Kind, Lease, history
from registry.lease import holder


def test_a_first_version_goes_live_and_the_next_takes_its_place(world, models):
    first = world.release(models("pyfunc", does="double"), actor="ann")
    assert (first.outcome, first.version, first.champion) == (Outcome.PROMOTED, 1, 1)
    world.assert_only(1)
    with world.traffic() as client:
        second = world.release(models("pyfunc", does="negative"), actor="ben")
    assert (second.outcome, second.version) == (Outcome.PROMOTED, 2)
    world.assert_only(2)
    assert world.processes() == {"v1", "v2"}, "the version before stays warm"
    assert sum(counter["failed"] for counter in client.by_revision.values()) == 0
    assert [(reign.actor, reign.until is None) for reign in history.reigns(world.journal, world.endpoint)] == [
        ("ann", False), ("ben", True),
    ]  # fmt: skip
    phases = [row.what for row in world.journal.read(world.endpoint, kinds=(Kind.PHASE,), release_id=second.release_id)]
    assert phases == [
        "started", "packaged", "registered", "deployed", "smoked", "shadowed", "shifting", "promoted",
    ]  # fmt: skip
    assert "<svg" in Path(second.report).read_text()


def test_the_same_model_is_released_again_for_its_limits_and_no_server_is_started(world, models):
    world.release(models("pyfunc", does="double"))
    before = world.target._supervisor.states()
    assert world.ask().status_code == 200
    again = world.release(models("pyfunc", does="double"), f"{QUICK}\ngateway: {{limits: {{body: 1Ki}}}}\n")
    assert (again.outcome, again.version) == (Outcome.PROMOTED, 1)
    url = world.state.url
    assert http.post(url, content=b"x" * 1025).status_code == 413
    assert world.ask().status_code == 200
    after = world.target._supervisor.states()
    assert {name: one.pid for name, one in after.items()} == {name: one.pid for name, one in before.items()}
    assert history.champion(world.journal, world.endpoint).revision.limits.body == 1024
    assert len(history.reigns(world.journal, world.endpoint)) == 1


def test_the_release_is_a_run_in_mlflow_and_leaves_artifacts_in_prefect(world, models):
    import mlflow

    world.release(models("pyfunc", does="double"))
    with world.traffic():
        result = world.release(models("pyfunc", does="negative"))
    client = mlflow.MlflowClient(world.stack.ports.mlflow_url)
    experiment = client.get_experiment_by_name(f"releases/{world.endpoint}")
    run = client.search_runs([experiment.experiment_id], f"tags.`headgate.release` = '{result.release_id}'")[0]
    assert run.data.params["strategy.kind"] == "canary"
    assert run.info.status == "FINISHED"
    shares = client.get_metric_history(run.info.run_id, "canary share")
    assert {point.value for point in shares} == {0.2, 0.5}
    kept = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert kept == {f"{result.release_id}.html", f"{result.release_id}.png"}
    wanted = {"artifacts": {"key": {"like_": f"{world.endpoint}-%"}}}
    found = world.stack.prefect.post("/artifacts/latest/filter", json=wanted).json()
    assert {item["key"].removeprefix(f"{world.endpoint}-") for item in found} == {"plan", "shadow", "traffic", "report"}


def test_a_version_that_is_slower_is_rolled_back_by_the_judge(world, models):
    world.release(models("pyfunc", does="double"))
    more = QUICK.replace(WIDE, "").replace("60, min", "6000, min")
    with world.traffic(), pytest.raises(RolledBackError, match="p50 ≤"):
        world.release(models("pyfunc", does="slow", after=0.05), more)
    look = world.journal.read(world.endpoint, kinds=(Kind.LOOK,))[-1].evidence
    assert look["culprits"] == ["latency"]
    assert sum(look["canary"]["latency"]) > 5
    world.assert_only(1)


def test_blue_green_switches_at_once_and_compares_with_copies(world, models):
    more = f"gates: {{shadow: off}}\nstrategy: {{kind: blue-green, min_requests: 100, min_duration: 2s}}\n{WIDE}"
    world.release(models("pyfunc", does="double"), more)
    with world.traffic():
        world.release(models("pyfunc", does="slow"), more)
    looks = [row.evidence for row in world.journal.read(world.endpoint, kinds=(Kind.LOOK,))]
    assert {look["share"] for look in looks} == {10_000}
    assert looks[-1]["stable"]["requests"] > 50, "the old version answered copies"
    world.assert_only(2)
    # It is taken back long before it could be promoted.
    more = more.replace("min_requests: 100", "min_requests: 6000")
    with world.traffic(low=-2), pytest.raises(RolledBackError):
        world.release(models("pyfunc", does="negative"), more)
    world.assert_only(2)


def test_a_version_whose_memory_grows_with_its_requests_is_taken_back(world, models):
    world.release(models("pyfunc", does="double"))
    # A twentieth of 400 requests are 20; the light server has some 15 MiB at first.
    more = QUICK.replace("min_requests: 60, min_duration: 2s, max_duration: 30s", "min_requests: 400, max_duration: 4m")
    with world.traffic() as client, pytest.raises(RolledBackError, match="its memory grew from"):
        world.release(models("pyfunc", does="leaky", after=0.5), more)
    assert not any(counter["failed"] for counter in client.by_revision.values())
    world.assert_only(1)
    look = world.journal.read(world.endpoint, kinds=(Kind.LOOK,), newest=1)[-1].evidence
    assert look["culprits"] == ["memory"]
    assert look["usage"]["canary"]["memory"] > 1.5 * look["usage"]["stable"]["memory"]


def test_a_gate_without_requests_writes_what_it_waits_for_and_goes_on_when_they_come(world, models):
    world.release(models("pyfunc", does="double"))
    with in_background(world.release, models("pyfunc", does="periodic")) as going_on:
        rows = wait_for(lambda: world.journal.read(world.endpoint, kinds=(Kind.WAIT,)), 120)
        assert rows[0].reason.startswith("0 of 40 requests compared in ")
        assert "no request was logged since then; at most" in rows[0].reason
        with world.traffic():
            assert going_on.result().outcome is Outcome.PROMOTED
    world.assert_only(2)


def test_a_version_of_which_the_shadow_gate_shows_nothing_is_held_without_traffic_and_compared_again(world, models):
    world.release(models("pyfunc", does="double"))
    with pytest.raises(TimedOutError, match="at 0% after 20s: it needs about 40 more compared requests") as raised:
        world.release(models("pyfunc", does="periodic"))
    held = history.in_flight(world.journal, world.endpoint)
    assert held.phase is Phase.HELD
    assert f"headgate release --release-id {held.release_id} compares again" in raised.value.fix
    assert (world.state.traffic.holder[:3], world.state.traffic.mirror) == ("v1-", None)
    assert world.processes() == {"v1", "v2"}
    with world.traffic():
        again = world.release(models("pyfunc", does="periodic"), release_id=held.release_id)
    assert again.outcome is Outcome.PROMOTED
    world.assert_only(2)


def test_the_same_content_again_changes_nothing(world, models):
    world.release(models("pyfunc", does="double"))
    again = world.release(models("pyfunc", does="double"))
    assert (again.outcome, again.version, again.reason) == (
        Outcome.PROMOTED,
        1,
        "v1 is champion".replace("v1", f"{world.endpoint}@v1"),
    )
    assert len(history.reigns(world.journal, world.endpoint)) == 1
    world.assert_only(1)


def test_keep_warm_of_nothing_retires_the_version_before(world, models):
    more = QUICK + "rollback: {keep_warm: 0s}\n"
    world.release(models("pyfunc", does="double"), more)
    with world.traffic():
        world.release(models("pyfunc", does="negative"), more)
    assert world.processes() == {"v2"}
    result = world.rollback()
    assert (result.outcome, result.champion) == (Outcome.ROLLED_BACK, 1)
    world.assert_only(1)
    assert world.ask().json() == {"predictions": [{"x": 2.0}]}


@pytest.mark.parametrize(("make", "error", "says"), [
    (lambda models, _: models("pyfunc", does="broken"), RevisionFailedError, "this model cannot be loaded"),
    (lambda _, folder: folder / "nothing", ArtifactError, "no folder"),
    (lambda models, folder: needing(models("wine"), folder, "no-such-thing-anywhere"), RequirementsError, "no-such"),
    (lambda models, _: models("pyfunc", does="always", after=1.0), RejectedError, "was answered 500"),
])  # fmt: skip
def test_what_cannot_be_released_leaves_the_champion_alone(world, models, tmp_path, make, error, says):
    world.release(models("pyfunc", does="double"))
    with world.traffic(), pytest.raises(error, match=says):
        world.release(make(models, tmp_path))
    world.assert_only(1)
    assert world.processes() == {"v1"}


def needing(model, folder, package):

    copy = shutil.copytree(model, folder / "copy")
    (copy / "requirements.txt").write_text(f"mlflow\n{package}\n")
    return copy


def test_a_version_that_never_becomes_ready_is_given_up(world, models):
    with pytest.raises(RevisionFailedError, match="not ready after 5 s"):
        world.release(models("pyfunc", does="hang"), "runtime: {ready_timeout: 5s}\n")
    assert world.state is None
    assert world.processes() == set()
    assert world.aliases == {}


def test_what_the_target_cannot_do_is_refused_before_any_work(world, models):
    with pytest.raises(UnsupportedError, match=r"runtime\.cpu.*share this machine's cores"):
        world.release(models("pyfunc", does="double"), "runtime: {cpu: 2}\n")
    rows = world.journal.read(world.endpoint, kinds=(Kind.PHASE,))
    assert [row.what for row in rows] == ["started", "undoing", "undone"]


def test_an_endpoint_that_is_held_is_not_touched(world, models):
    world.release(models("pyfunc", does="double"))
    with Lease(world.journal, world.endpoint, "another"), pytest.raises(EndpointBusyError, match="for release another"):
        world.release(models("pyfunc", does="negative"))
    world.assert_only(1)


def test_undecided_rolls_back_where_the_file_says_so(world, models):
    more = "gates: {shadow: off}\nstrategy: {min_duration: 1s, max_duration: 2s, on_inconclusive: rollback}\n"
    world.release(models("pyfunc", does="double"), more)
    with pytest.raises(RolledBackError, match="undecided"):
        world.release(models("pyfunc", does="negative"), more)
    world.assert_only(1)


def test_a_held_release_can_be_rolled_back(world, models):
    more = "gates: {shadow: off}\nstrategy: {min_duration: 1s, max_duration: 2s}\n"
    world.release(models("pyfunc", does="double"), more)
    with pytest.raises(TimedOutError):
        world.release(models("pyfunc", does="negative"), more)
    assert world.rollback("no").outcome is Outcome.ROLLED_BACK
    world.assert_only(1)


def test_someone_takes_a_running_release_back(world, models):
    world.release(models("pyfunc", does="double"))
    more = QUICK.replace("60, min", "100000, min")
    raised = []

    def other() -> None:
        try:
            world.release(models("pyfunc", does="negative"), more)
        except RolledBackError as error:
            raised.append(error)

    with world.traffic():
        thread = threading.Thread(target=other)
        thread.start()
        flying = lambda: (f := history.in_flight(world.journal, world.endpoint)) and f.phase is Phase.SHIFTING  # noqa: E731
        wait_for(flying, 60)
        result = world.rollback("it feels wrong", actor="on call")
        thread.join()
    assert (result.outcome, "on call took it back: it feels wrong" in result.reason) == (Outcome.ROLLED_BACK, True)
    assert len(raised) == 1
    world.assert_only(1)


@pytest.mark.real_server
def test_a_canary_that_dies_is_taken_back(world, models):
    """The server itself takes seconds to start again, in which the canary is not ready; a restart is an alarm."""
    world.release(models("pyfunc", does="double"))
    more = QUICK.replace("60, min", "100000, min")

    def kill() -> None:
        flying = lambda: (f := history.in_flight(world.journal, world.endpoint)) and f.phase is Phase.SHIFTING  # noqa: E731
        wait_for(flying, 60)
        states = Supervisor(world.stack.home).states()
        name = next(name for name in states if name.startswith(f"{world.endpoint}--v2"))
        os.kill(states[name].pid, signal.SIGKILL)

    with world.traffic():
        thread = threading.Thread(target=kill)
        thread.start()
        with pytest.raises(RolledBackError):
            world.release(models("pyfunc", does="negative"), more)
        thread.join()
    world.assert_only(1)


@pytest.mark.usefixtures("unguarded", "workerless")
def test_what_was_being_deployed_when_the_process_died_is_removed(world, models, monkeypatch):
    """Killed while the model was loading: the target does not know the revision yet, but its process runs."""
    world.release(models("pyfunc", does="double"))

    def die(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    context = multiprocessing.get_context("fork")
    text = world.text(models("pyfunc", does="hang"))

    def release_and_die() -> None:
        monkeypatch.setattr("deploy_targets.local.target.LocalTarget._wait_until_ready", die)
        asyncio.run(release.fn(parse_release(text)))

    from flows.release import release

    killed = context.Process(target=release_and_die)
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    assert world.processes() == {"v1", "v2"}
    assert holder(world.journal, world.endpoint) is None
    assert world.rollback("clean up").outcome is Outcome.ROLLED_BACK
    assert world.processes() == {"v1"}
    world.assert_only(1)


def test_a_gateway_that_is_killed_is_not_blamed_on_the_canary(world, models):
    world.release(models("pyfunc", does="double"))
    supervisor = Supervisor(world.stack.home)

    def kill() -> None:
        flying = lambda: (f := history.in_flight(world.journal, world.endpoint)) and f.phase is Phase.SHIFTING  # noqa: E731
        wait_for(flying, 60)
        os.kill(supervisor.states()["gateway"].pid, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    client = Client(world.state.url, pd.DataFrame({"x": [1.0]}), pd.Series([{"x": 2.0}]), 100)
    with client:
        thread.start()
        # Clients of a gateway that is away get nothing; that is not the canary's fault.
        result = world.release(models("pyfunc", does="negative"), QUICK.replace("min_duration: 2s", "min_duration: 8s"))
        thread.join()
    assert result.outcome is Outcome.PROMOTED
    world.assert_only(2)


def test_traffic_that_was_changed_by_hand_is_put_back_and_noted(world, models):
    more = QUICK.replace("20s", "1s").replace("strategy: {", "strategy: {on_inconclusive: rollback, ")
    world.release(models("pyfunc", does="double"), more)
    world.target._gateway.set_traffic(world.endpoint, None)
    with pytest.raises(RejectedError, match="needs about 40 more compared requests if none differs; 0 of 0 answers"):
        world.release(models("pyfunc", does="negative"), more)
    notes = [row.what for row in world.journal.read(world.endpoint, kinds=(Kind.NOTE,))]
    assert "traffic restored" in notes
    assert world.state.traffic == Traffic.all_to(world.state.traffic.holder)
    world.assert_only(1)
