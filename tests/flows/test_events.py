"""Events in and out: MLflow's webhooks, Alertmanager, what Headgate emits, and what all of it leads to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from datetime import timedelta

import httpx
import mlflow
import psutil
import pytest
from conftest import QUICK
from prefect.events import emit_event
from prefect.states import Pending, Running
from support.signing import signed
from support.stack import http, wait_for

from flows.monitor import monitor
from headgate.phases import Outcome
from headgate.stack.ports import HOST, free_port, is_free
from headgate.stack.secrets import Secrets
from registry import Kind
from registry.webhooks import REPLAY_SECONDS
from tasks import automations
from tasks.deployments import open_client


@pytest.fixture
def receiver(world):
    with httpx.Client(base_url=world.stack.ports.receiver_url, timeout=10) as client:
        yield client


@pytest.fixture
def secrets(world):
    return Secrets.of(world.stack.home)


def alias_set(model: str, version: int, alias: str = "release-me") -> bytes:
    data = {"name": model, "version": str(version), "alias": alias}
    return json.dumps({"entity": "model_version_alias", "action": "created", "data": data}).encode()


def events_of(world, wanted: set[str]):
    """The events about the endpoint on the Prefect server, the oldest first, once all that are wanted are there."""
    about = {"resource": {"id": [f"headgate.endpoint.{world.endpoint}"]}, "occurred": {"since": "2020-01-01T00:00Z"}}
    ask = {"filter": about, "limit": 50}

    def events():
        reply = world.stack.prefect.post("/events/filter", json=ask).json()
        return sorted(reply["events"], key=lambda event: event["occurred"])

    wait_for(lambda: wanted <= {event["event"] for event in events()})
    return events()


def watched(world, tmp_path, artifact, more: str):
    file = tmp_path / "release.yaml"
    file.write_text(world.text(artifact, more))
    world.stack.headgate("watch", str(file))
    return file


@contextmanager
def another_receiver(world, **settings: str):
    """A receiver with other settings than the stack's, with the same secrets."""
    secrets, port = Secrets.of(world.stack.home), free_port(for_what="receiver")
    known = {"HEADGATE_WEBHOOK_SECRET": secrets.webhook, "HEADGATE_ALERT_TOKEN": secrets.alerts,
             "HEADGATE_RECEIVER_PORT": str(port), "HEADGATE_HOME": str(world.stack.root)}  # fmt: skip
    process = subprocess.Popen([sys.executable, "-m", "tasks.receiver"], env={**os.environ, **known, **settings})
    try:
        wait_for(lambda: not is_free(port))
        yield f"http://{HOST}:{port}"
    finally:
        process.terminate()
        process.wait()


def test_an_alias_in_mlflow_releases_the_version(world, models, tmp_path):
    """MLflow's own delivery, through the receiver, an event and an automation, to a run of the worker."""
    world.release(models("pyfunc", does="double"))
    watched(world, tmp_path, models("pyfunc", does="double"), QUICK + "release_when: {alias: release-me}\n")
    mlflow.set_tracking_uri(world.stack.ports.mlflow_url)
    with mlflow.start_run() as run:
        mlflow.log_artifacts(str(models("pyfunc", does="negative")), "model")
    client = mlflow.MlflowClient()
    version = client.create_model_version(world.endpoint, f"{run.info.artifact_uri}/model", run.info.run_id)
    with world.traffic():
        client.set_registered_model_alias(world.endpoint, "release-me", version.version)
        result = world.ended(2)
    assert (result.outcome, result.version) == (Outcome.PROMOTED, int(version.version))
    assert world.live == int(version.version)
    started = world.journal.read(world.endpoint, release_id=result.release_id)[0]
    assert started.actor == "automation (headgate.version.wanted)"
    assert started.evidence["spec"]["artifact"] == f"models:/{world.endpoint}/{version.version}"


def runs_of(world, flow: str):
    """The states of a flow's runs for the endpoint."""
    ask = {"flows": {"name": {"any_": [flow]}}, "limit": 100}
    found = world.stack.prefect.post("/flow_runs/filter", json=ask).json()
    return [run["state"]["name"] for run in found if run["parameters"].get("endpoint") == world.endpoint]


def test_alerts_take_the_version_back_and_not_the_one_before_it(world, models, receiver, secrets):
    world.release(models("pyfunc", does="double"))
    with world.traffic():
        for does in ("negative", "quadruple"):
            world.release(models("pyfunc", does=does))
    errors = {
        "status": "firing", "labels": {"alertname": "HighErrors", "endpoint": world.endpoint},
        "annotations": {"summary": "5xx above 2 %"}, "startsAt": "2026-01-01T00:00:00Z", "fingerprint": "f00",
    }  # fmt: skip
    latency = {**errors, "labels": {"alertname": "Slow", "endpoint": world.endpoint}, "fingerprint": "f01"}
    resolved = {**errors, "status": "resolved", "labels": {"endpoint": "another"}}
    nobodys = {**errors, "labels": {"alertname": "DiskFull"}}
    body = {"version": "4", "alerts": [errors, latency, resolved, nobodys]}
    assert receiver.post("/alertmanager", json=body).status_code == 401
    bearer = {"authorization": f"Bearer {secrets.alerts}"}
    for refused in ([{"status": "firing"}], [nobodys]):
        assert receiver.post("/alertmanager", json={"alerts": refused}, headers=bearer).status_code == 400
    taken = receiver.post("/alertmanager", json=body, headers=bearer)
    assert (taken.status_code, taken.json()["events"]) == (202, ["headgate.alert.firing"] * 2)
    # Alertmanager repeats what goes on firing.
    assert receiver.post("/alertmanager", json=body, headers=bearer).json()["events"] == []
    wait_for(lambda: runs_of(world, "rollback") == ["Completed"] * 2, 180)
    assert world.live == 2, "the second alert was about the version that the first one took back"
    last = world.journal.read(world.endpoint, kinds=(Kind.LIVE,))[-1]
    assert last.actor == "automation (headgate.alert.firing)"
    assert last.reason in {"alert HighErrors: 5xx above 2 %", "alert Slow: 5xx above 2 %"}


def test_deliveries_that_are_not_mlflows_are_refused(world, receiver, secrets):
    body = alias_set(world.endpoint, 1)
    good = signed(body, secrets.webhook)
    assert receiver.post("/mlflow", content=body, headers=good).status_code == 202
    again = receiver.post("/mlflow", content=body, headers=good)
    assert (again.status_code, again.json()["note"]) == (200, "this delivery was taken before")
    assert receiver.post("/mlflow", content=body).status_code == 401
    assert receiver.post("/mlflow", content=body, headers=signed(body, "another")).status_code == 401
    assert receiver.post("/mlflow", content=body + b" ", headers=good).status_code == 401
    for age in (REPLAY_SECONDS + 60, -REPLAY_SECONDS - 60):
        old = receiver.post("/mlflow", content=body, headers=signed(body, secrets.webhook, at=time.time() - age))
        assert old.status_code == 401
        assert "s old" in old.json()["error"]
    nonsense = b'{"entity": 1}'
    assert receiver.post("/mlflow", content=nonsense, headers=signed(nonsense, secrets.webhook)).status_code == 400
    large = b"x" * 10_000_000
    try:
        status = receiver.post("/mlflow", content=large, headers=signed(large, secrets.webhook)).status_code
    except httpx.TransportError:
        # It answers and closes without having read the rest.
        status = 413
    assert status == 413
    assert receiver.get("/health").status_code == 200


def test_a_delivery_comes_again_when_the_event_could_not_be_passed_on(world, secrets, tmp_path, models):
    watched(world, tmp_path, models("pyfunc", does="double"), QUICK + "release_when: {tag: ship}\n")
    data = {"name": world.endpoint, "version": "7", "key": "ship", "value": ""}
    body = json.dumps({"entity": "model_version_tag", "action": "set", "data": data}).encode()
    headers = signed(body, secrets.webhook)
    with another_receiver(world, PREFECT_API_URL="http://127.0.0.1:9/api") as url:
        reply = http.post(f"{url}/mlflow", content=body, headers=headers)
    assert (reply.status_code, reply.json()["error"]) == (
        503,
        "the Prefect server does not take the event: ConnectError",
    )
    taken = http.post(f"{world.stack.ports.receiver_url}/mlflow", content=body, headers=headers)
    assert taken.json()["events"] == ["headgate.version.wanted"]
    (event,) = [
        one for one in events_of(world, {"headgate.version.wanted"}) if one["event"] == "headgate.version.wanted"
    ]
    assert event["payload"]["artifact"] == f"models:/{world.endpoint}/7"
    assert event["resource"]["headgate.action"] == "release"
    # Version 7 does not exist, so the release that this starts fails, and leaves nothing.
    result = world.ended(1)
    assert result.outcome is Outcome.FAILED
    assert world.live is None


def test_a_release_tells_what_happens_as_events(world, models):
    world.release(models("pyfunc", does="double"))
    with world.traffic():
        result = world.release(models("pyfunc", does="negative"), actor="ann")
    world.rollback("customers complain", actor="bob")
    wanted = {
        "headgate.release.started", "headgate.release.phase", "headgate.release.compared", "headgate.release.step",
        "headgate.release.verdict", "headgate.version.live", "headgate.release.promoted", "headgate.rollback.started",
        "headgate.rollback.completed",
    }  # fmt: skip
    events = events_of(world, wanted)
    assert {event["event"] for event in events} == wanted
    (promoted,) = [
        event for event in events
        if event["event"] == "headgate.release.promoted" and event["payload"]["release_id"] == result.release_id
    ]  # fmt: skip
    assert {"prefect.resource.id": f"headgate.release.{result.release_id}", "prefect.resource.role": "release",
            "prefect.resource.name": result.release_id} in promoted["related"]  # fmt: skip
    assert any(one["prefect.resource.role"] == "flow-run" for one in promoted["related"])
    expected = {"schema": 1, "endpoint": world.endpoint, "release_id": result.release_id, "what": "outcome",
                "actor": "ann", "version": 2, "outcome": "promoted"}  # fmt: skip
    assert expected.items() <= promoted["payload"].items()
    (back,) = [event for event in events if event["event"] == "headgate.rollback.completed"]
    assert {"actor": "bob", "version": 1, "reason": "customers complain"}.items() <= back["payload"].items()


def process_of(run):
    """The one that a worker started for a flow run."""
    (found,) = [
        process for process in psutil.process_iter(["cmdline"])
        if "headgate.flow_run" in (process.info["cmdline"] or [])
        and process.environ()["PREFECT__FLOW_RUN_ID"] == run
    ]  # fmt: skip
    return found


@pytest.mark.usefixtures("unguarded")
def test_a_run_that_is_killed_is_put_back_by_the_automation(world, models):
    world.release(models("pyfunc", does="double"))
    long = QUICK.replace("min_duration: 2s, max_duration: 30s", "min_duration: 50s, max_duration: 60s")
    with world.traffic():
        run = world.submit(models("pyfunc", does="negative"), long)
        wait_for(lambda: any(name.startswith("v2-") for name in world.state.traffic.weights), 180)
        process_of(run).kill()
        result = world.ended(2, 300)
    assert result.outcome is Outcome.ROLLED_BACK
    assert "its process ended" in result.reason
    world.assert_only(1)


def switch(automation, *, on):
    """By Prefect's client, which asks again where its server's database is busy."""
    with open_client() as client:
        (client.resume_automation if on else client.pause_automation)(automation)


def test_automations_are_made_once_and_stay_off_when_switched_off(world):
    applied = world.stack.json("automations", "apply")
    assert [one["state"] for one in applied] == ["unchanged"] * 5
    known = {one["name"]: one["id"] for one in world.stack.prefect.post("/automations/filter", json={}).json()}
    changed = known["headgate: drift or alert → rollback"]
    switch(changed, on=False)
    assert [one["state"] for one in world.stack.json("automations", "apply")] == ["unchanged"] * 5
    listed = {one["name"]: one["state"] for one in world.stack.json("automations")}
    assert listed["headgate: drift or alert → rollback"] == "off"
    switch(changed, on=True)
    assert "no block" in world.stack.headgate("automations", "apply", "--notify", "slack-webhook/none", expect=2).stderr


@pytest.mark.parametrize(("last", "named"), [("heartbeat", "_SILENT"), ("Submitting", "_NOT_BEGUN")])
def test_a_run_that_died_with_its_worker_is_ended(world, monkeypatch, last, named):
    """Of two that were last heard of alike, one says more; the other is crashed by the server's own automation."""
    monkeypatch.setattr(automations, named, timedelta(seconds=10))
    try:
        automations.apply_automations()
        with open_client() as client:
            state = Running() if last == "heartbeat" else Pending(name="Submitting")
            silent, alive = (
                client.create_flow_run(monitor, parameters={"spec": "x"}, state=state).id for _ in range(2)
            )
        flow = {"prefect.resource.id": "prefect.flow.1", "prefect.resource.role": "flow"}

        def beat(run):
            """As Prefect tells of a process that lives."""
            about = {"prefect.resource.id": f"prefect.flow-run.{run}"}
            emit_event(
                "prefect.flow-run.heartbeat", resource=about, related=[{**flow, "prefect.resource.name": "monitor"}]
            )

        def state_of(run):
            with open_client() as client:
                return client.read_flow_run(run).state

        def is_over():
            beat(alive)
            return state_of(silent).is_crashed()

        if last == "heartbeat":
            beat(silent)
        wait_for(is_over, 60)
        assert not state_of(alive).is_final()
    finally:
        monkeypatch.undo()
        automations.apply_automations()


def schedules(world):
    deployment = world.stack.prefect.get("/deployments/name/monitor/local").json()
    return [one for one in deployment["schedules"] if one["slug"] == world.endpoint]


def test_a_watched_endpoint_has_one_schedule(world, models, tmp_path):
    monitored = QUICK + "monitor: {schedule: '7 3 * * *', timezone: Europe/Berlin}\n"
    file = watched(world, tmp_path, models("pyfunc", does="double"), monitored)
    (one,) = schedules(world)
    assert (one["schedule"]["cron"], one["schedule"]["timezone"], one["active"]) == ("7 3 * * *", "Europe/Berlin", True)
    assert one["parameters"] == {"spec": f"watched:{world.endpoint}"}
    file.write_text(world.text("elsewhere", monitored.replace("7 3", "9 4")))
    world.stack.headgate("watch", str(file))
    (one,) = schedules(world)
    assert one["schedule"]["cron"] == "9 4 * * *"
    # Deploying the flows anew leaves what people have scheduled.
    (world.stack.home.prefect / "deployed.sha256").unlink()
    assert "deploying the flows" in world.stack.headgate("up").stderr
    assert len(schedules(world)) == 1
    world.stack.headgate("unwatch", world.endpoint)
    assert schedules(world) == []
    assert "is not watched" in world.stack.headgate("unwatch", world.endpoint, expect=2).stderr
