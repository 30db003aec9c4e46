"""Many endpoints in one flow run, on each kind of task runner."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from support.many_endpoints import add_endpoint, reference

from registry.journal import open_journal
from registry.watches import unwatch

COLUMNS = 3


@pytest.fixture(scope="module")
def endpoints(stack, tmp_path_factory):
    """Twenty: one has moved, one has too few requests to tell, one was not live when it was asked."""
    file = reference(tmp_path_factory.mktemp("reference") / "reference.parquet", COLUMNS)
    names = [f"many-{number:02}" for number in range(20)]
    with open_journal(stack.home.journal_url) as journal:
        for name in names:
            rows, moved = (10 if name == "many-07" else 200), (3.0 if name == "many-03" else 0.0)
            live_for = timedelta(0) if name == "many-08" else timedelta(hours=1)
            add_endpoint(
                stack.home, journal, name, file, rows=rows, columns=COLUMNS, moved=moved, live_for=live_for
            )  # fmt: skip
        yield names
        for name in names:
            unwatch(journal, name, "test")


def task_runs(stack, name: str) -> int:
    """Of the last flow run of that flow."""
    asked = {"flows": {"name": {"any_": [name]}}, "sort": "START_TIME_DESC", "limit": 1}
    (run,) = stack.prefect.post("/flow_runs/filter", json=asked).raise_for_status().json()
    assert run["state"]["type"] == "COMPLETED"
    of_it = {"flow_runs": {"id": {"any_": [run["id"]]}}}
    return len(stack.prefect.post("/task_runs/filter", json=of_it).raise_for_status().json())


@pytest.mark.parametrize("runner", ["threads", "processes", "dask"])
def test_all_that_are_watched_are_checked_by_one_flow(stack, endpoints, runner):
    done = stack.headgate("monitor", "--all", "--json", env={"HEADGATE_TASK_RUNNER": runner})
    made = {one["endpoint"]: one for one in json.loads(done.stdout.splitlines()[-1])}
    assert set(endpoints) <= set(made)
    states = {name: made[name]["state"] for name in endpoints}
    assert states.pop("many-03") in {"violation", "alarm"}, made["many-03"]
    assert states.pop("many-07") == "not enough data"
    assert states.pop("many-08") == "not enough data", "what it answered was no client's"
    assert set(states.values()) == {"in order"}
    assert "min_rows is 50" in made["many-07"]["reason"]
    assert "3 of 3 columns drifted" in made["many-03"]["reason"]
    reports = stack.home.root / "reports"
    assert list((reports / "many-03").glob("*-drift.html"))
    assert not list((reports / "many-04").glob("*-drift.html")), "nothing was found, so nobody reads a page"
    assert task_runs(stack, "monitor-all") <= 1 + len(made) // 16 + 1


def test_a_task_runner_that_is_none_is_named(stack):
    done = stack.headgate("monitor", "--all", env={"HEADGATE_TASK_RUNNER": "spark"}, expect=2)
    assert "HEADGATE_TASK_RUNNER is spark, and has to be threads, processes, dask or ray" in done.stderr
    done = stack.headgate("monitor", "--all", env={"HEADGATE_TASK_RUNNER": "ray"}, expect=2)
    assert "pip install 'prefect-ray>=0.6'" in done.stderr
