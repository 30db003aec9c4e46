from __future__ import annotations

import asyncio
import json
import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from conftest import QUICK
from sqlalchemy import create_engine
from support.stack import wait_for

from headgate.errors import BadInputError, MonitorError, NothingToRollBackError
from headgate.phases import Outcome
from headgate.records import Window
from headgate.release_file import parse_release
from registry import Kind


def two_versions(world, models, more: str = QUICK, first: str = "double") -> None:
    world.release(models("pyfunc", does=first), more)
    with world.traffic():
        world.release(models("pyfunc", does="negative"), more)


def test_rollback_goes_to_the_version_before_and_says_who_and_why(world, models):
    two_versions(world, models)
    result = world.rollback("customers complain", actor="ann")
    assert (result.outcome, result.version, result.champion) == (Outcome.ROLLED_BACK, 2, 1)
    world.assert_only(1)
    last = world.journal.read(world.endpoint, kinds=(Kind.LIVE,))[-1]
    assert (last.actor, last.reason) == ("ann", "customers complain")
    assert world.processes() == {"v1"}
    with pytest.raises(NothingToRollBackError, match="no earlier version"):
        world.rollback()
    world.rollback(version=2)
    world.assert_only(2)
    with pytest.raises(NothingToRollBackError, match=r"version 9 .* was never live; these were: \[1, 2\]"):
        world.rollback(version=9)


def test_nothing_was_ever_released(world):
    with pytest.raises(BadInputError, match="there is no endpoint"):
        world.rollback()


def test_rollback_works_while_prefect_and_mlflow_are_down(world, models):
    two_versions(world, models)
    nowhere = {"PREFECT_API_URL": "http://127.0.0.1:9/api", "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    with world.traffic():
        done = world.stack.headgate("rollback", world.endpoint, "--reason", "night", "--json", env=nowhere)
    assert json.loads(done.stdout)["champion"] == 1
    assert "rolling back without it" in done.stderr
    assert world.live == 1
    assert world.state.traffic.holder.startswith("v1-")
    notes = [row.what for row in world.journal.read(world.endpoint, kinds=(Kind.NOTE,))]
    assert "aliases late" in notes


def drifting(world, models, tmp_path, more: str, *, cause="drift", first="periodic", warm="1h") -> str:
    """Two versions live one after the other, and a reference that live traffic can leave."""
    reference = tmp_path / "reference.parquet"
    # What the clients ask.
    pd.DataFrame({"x": np.tile(np.arange(1.0, 21.0), 25)}).to_parquet(reference)
    text = QUICK + f"monitor: {{reference: {json.dumps(str(reference))}, window: 10m, {more}}}\n"
    text += f"rollback: {{on: [errors, {cause}], keep_warm: {warm}}}\n"
    two_versions(world, models, text, first)
    return text


def monitor(world, text: str):
    from flows.monitor import monitor as flow

    return asyncio.run(flow(parse_release(world.text("unused", text))))


def test_monitor_rolls_back_when_enough_windows_are_bad(world, models, tmp_path):
    text = drifting(world, models, tmp_path, "min_rows: 50, trigger: {violations: 2, of: 3}", cause="data_quality")
    with world.traffic(low=500) as client:
        wait_for(lambda: client.total > 150)
        first = monitor(world, text)
        assert (first.violation, first.triggered, first.drifted_columns) == (True, False, ("x",))
        assert [(problem.column, problem.kind) for problem in first.problems] == [("x", "out of range")]
        world.assert_only(2)
        second = monitor(world, text)
    assert (second.violation, second.triggered) == (True, True)
    world.assert_only(1)
    last = world.journal.read(world.endpoint, kinds=(Kind.LIVE,))[-1]
    assert last.actor.startswith("monitor")
    assert last.reason.startswith("drift and data_quality: 1 of 1 columns drifted")
    assert second.attribution.cause == "version"
    assert re.search("v2-.*'s answers moved by .*; asked the same .* are what they used to be", last.reason)
    assert len(list((world.stack.home.root / "reports" / world.endpoint).glob("*-drift.html"))) == 2


def test_monitor_does_not_go_back_to_a_version_that_would_do_no_better(world, models, tmp_path):
    """The version before is no longer warm: it is brought up, asked, and ended again."""
    more = "min_rows: 50, trigger: {violations: 1, of: 1}"
    text = drifting(world, models, tmp_path, more, first="double", warm="0s")
    assert world.processes() == {"v2"}
    with world.traffic(low=500) as client:
        wait_for(lambda: client.total > 150)
        report = monitor(world, text)
    assert (report.triggered, report.attribution.cause) == (True, "inputs")
    assert re.match("v2-.*'s answers moved .* those of v1-.* moved", report.attribution.reason)
    world.assert_only(2)
    assert world.processes() == {"v2"}
    told = world.journal.read(world.endpoint, kinds=(Kind.NOTE,))[-1]
    assert (told.what, told.evidence) == ("not rolled back", {"cause": "inputs"})
    assert "but the version before would do no better" in told.reason


def test_labels_take_back_a_version_that_nothing_else_could_tell_from_a_good_one(
    world, models, tmp_path, monkeypatch
):  # fmt: skip
    """Its answers are quick and plausible, and wrong: three times the number, not twice."""
    text = "gates: {shadow: off}\n" + QUICK[QUICK.index("strategy:") :]
    text += "monitor: {quality: {labels: {database_env: TRUTH, query: 'select request_id, label from truth'}}}\n"
    text += "rollback: {on: [errors, quality]}\n"
    world.release(models("pyfunc", does="double"), text)
    with world.traffic():
        world.release(models("pyfunc", does="triple"), text)
    assert world.live == 2
    window = Window(start=datetime.now(UTC) - timedelta(hours=1), end=datetime.now(UTC))
    log = pa.Table.from_batches(world.target.captured(world.endpoint, window)).to_pylist()
    truth = [
        {"request_id": row["request_id"], "label": 2 * json.loads(row["request"])["dataframe_split"]["data"][0][0]}
        for row in log if b"dataframe_split" in row["request"]
    ]  # fmt: skip
    pd.DataFrame(truth[::2]).to_csv(tmp_path / "truth.csv", index=False)
    told = world.stack.headgate("labels", world.endpoint, str(tmp_path / "truth.csv"))
    assert f"{len(truth[::2])} labels of {world.endpoint} are kept" in told.stderr
    with pytest.raises(MonitorError, match=r"no reference\.parquet is known"):
        monitor(world, text)
    refused = world.journal.read(world.endpoint, kinds=(Kind.NOTE,), what="labels not used", newest=1)
    assert "database_env is TRUTH, which is not set" in refused[0].reason
    monkeypatch.setenv("TRUTH", url := f"sqlite:///{tmp_path / 'truth.db'}")
    pd.DataFrame(truth[1::2]).to_sql("truth", create_engine(url), index=False)
    report = monitor(world, text)
    by = [row["request_id"] for row in log if row["revision"].startswith("v2-") and row["status"] == 200]
    assert report.quality.champion.labels == len({one["request_id"] for one in truth} & set(by))
    assert (report.causes, report.quality.verdict, report.quality.champion.rate) == (("quality",), "worse", 1.0)
    assert report.quality.before.rate == 0.0
    world.assert_only(1)
    last = world.journal.read(world.endpoint, kinds=(Kind.LIVE,))[-1]
    assert re.match("quality: v2-.* is wrong on .* is wrong more often", last.reason)
    # What v1 answers now has a label too; there is none before it to compare with.
    with pytest.raises(MonitorError, match=r"no reference\.parquet is known"):
        monitor(world, text)
    world.assert_only(1)


def test_monitor_leaves_a_good_version_alone(world, models, tmp_path):
    text = drifting(world, models, tmp_path, "min_rows: 50, trigger: {violations: 1, of: 1}")
    with world.traffic() as client:
        wait_for(lambda: client.total > 400)
        report = monitor(world, text)
    assert (report.violation, report.rows > 50) == (False, True)
    world.assert_only(2)


def test_too_few_requests_are_not_drift(world, models, tmp_path):
    text = drifting(world, models, tmp_path, "min_rows: 100000, trigger: {violations: 1, of: 1}")
    report = monitor(world, text)
    assert (report.state, report.triggered, report.quiet) == ("not enough data", False, 1)
    assert report.reason.startswith("not enough data: the window has ")
    world.assert_only(2)


def test_the_training_reference_is_the_one_that_the_run_logged(world, models, tmp_path, monkeypatch):
    """A model from a run, as `runs:/…`, with reference.parquet beside it."""
    features = pd.DataFrame({"x": np.linspace(1, 21, 300)})
    mlflow.set_tracking_uri(world.stack.ports.mlflow_url)
    sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
    import behaviour

    with mlflow.start_run() as run:
        mlflow.pyfunc.log_model(
            name="model", python_model=behaviour.Behaviour("double"), code_paths=[behaviour.__file__],
            input_example=features.head(1), pip_requirements=["mlflow", "pandas<3.1"],
        )  # fmt: skip
        features.to_parquet(tmp_path / "reference.parquet")
        mlflow.log_artifact(str(tmp_path / "reference.parquet"))
    text = "monitor: {window: 10s, min_rows: 50, trigger: {violations: 1, of: 1}}\n"
    world.release(f"runs:/{run.info.run_id}/model", text)
    with world.traffic() as client:
        wait_for(lambda: client.total > 100)
        assert monitor(world, text).violation is False
