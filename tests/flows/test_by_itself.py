"""What nobody starts: on one endpoint a scheduled check, reconcile, a release by alias, a rollback by event."""

from __future__ import annotations

import json

import mlflow
import numpy as np
import pandas as pd
from conftest import QUICK
from prefect.events import emit_event
from support.runs import by_automation, by_schedule, every_ten_seconds
from support.stack import wait_for

from headgate.events import DRIFT_DETECTED, resource_of
from headgate.phases import Outcome
from registry import Kind


def test_checks_a_release_and_a_rollback_start_by_themselves(world, models, tmp_path):
    reference = tmp_path / "reference.parquet"
    pd.DataFrame({"x": np.tile(np.arange(1.0, 21.0), 25)}).to_parquet(reference)
    text = f"{QUICK}release_when: {{alias: release-me}}\n"
    text += f"monitor: {{schedule: '* * * * *', min_rows: 20, reference: {json.dumps(str(reference))}}}\n"
    file = tmp_path / "release.yaml"
    file.write_text(world.text(models("pyfunc", does="double"), text))
    world.release(models("pyfunc", does="double"), text)
    with world.traffic():
        said = world.stack.headgate("watch", str(file)).stderr
        assert f"{world.endpoint} is watched; the next check is at " in said
        with every_ten_seconds("reconcile/local"):
            version = released_by_alias(world, models)
            rolled_back_by_event(world)
            with every_ten_seconds("monitor/local", world.endpoint):
                (first, *_) = wait_for(lambda: world.journal.read(world.endpoint, kinds=(Kind.CHECK,)), 180)
                checked = wait_for(lambda: [
                    run for run in by_schedule(world, "monitor") if world.endpoint in run["parameters"]["spec"]
                ], 60)  # fmt: skip
            wait_for(lambda: by_schedule(world, "reconcile"), 180)
    assert version != 1
    assert first.actor == "monitor"
    assert all(map(completed, checked))
    # reconcile also sees what other tests have left behind.
    order = by_schedule(world, "reconcile")
    said = [run["state"]["message"] or "" for run in order if not completed(run)]
    assert [one for one in said if "not everything is in order" not in one or world.endpoint in one] == []
    assert [
        one for one in world.stack.json("status", world.endpoint)["upkeep"] if one["subject"] == world.endpoint
    ] == []
    world.stack.headgate("unwatch", world.endpoint)


def completed(run) -> bool:
    return run["state"]["name"] == "Completed"


def released_by_alias(world, models) -> int:
    """MLflow's own delivery, through the receiver, an event and an automation, to a run of the worker."""
    mlflow.set_tracking_uri(world.stack.ports.mlflow_url)
    with mlflow.start_run() as run:
        mlflow.log_artifacts(str(models("pyfunc", does="negative")), "model")
    client = mlflow.MlflowClient()
    version = client.create_model_version(world.endpoint, f"{run.info.artifact_uri}/model", run.info.run_id)
    client.set_registered_model_alias(world.endpoint, "release-me", version.version)
    result = world.ended(2)
    assert (result.outcome, result.version) == (Outcome.PROMOTED, int(version.version))
    started = world.journal.read(world.endpoint, release_id=result.release_id)[0]
    assert started.actor == "automation (headgate.version.wanted)"
    assert started.evidence["spec"]["artifact"] == f"models:/{world.endpoint}/{version.version}"
    return result.version


def rolled_back_by_event(world) -> None:
    payload = {"endpoint": world.endpoint, "reason": "the nightly job found drift"}
    # Without the label that asks for it, nothing follows.
    emit_event(DRIFT_DETECTED, resource=resource_of(world.endpoint), payload={**payload, "reason": "only said"})
    emit_event(DRIFT_DETECTED, resource=resource_of(world.endpoint, action="rollback"), payload=payload)
    (run,) = wait_for(lambda: by_automation(world, "rollback", endpoint=world.endpoint), 180)
    assert run["parameters"]["reason"] == "the nightly job found drift"
    world.assert_only(1)
    last = world.journal.read(world.endpoint, kinds=(Kind.LIVE,))[-1]
    assert (last.actor, last.reason) == (f"automation ({DRIFT_DETECTED})", "the nightly job found drift")
