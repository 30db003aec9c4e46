"""Whole releases on Docker: what is stored of an image, and what is refused before there is one."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
from conftest import LONG, QUICK, in_background
from support import light
from support.stack import wait_for

from headgate.errors import HeadgateError, RejectedError, RolledBackError, UnsafeArtifactError
from headgate.records import Payload
from registry import Kind

LIMITS = "runtime: {cpu: 1, memory: 1Gi}\nimage: {remove_retired: true}\n"


class Harmful:
    def __reduce__(self):
        return os.system, ("true",)


@pytest.fixture
def released(docker_world, models):
    """A world with a first version that is live, which the server itself serves."""
    with light.real_server():
        result = docker_world.release(models("pyfunc", does="double"), LIMITS)
    assert result.outcome == "promoted"
    return docker_world


def versions(world):
    from mlflow import MlflowClient

    client = MlflowClient(world.stack.ports.mlflow_url)
    return client, sorted(client.search_model_versions(f"name = '{world.endpoint}'"), key=lambda one: int(one.version))


def test_a_release_is_promoted_and_a_bad_one_taken_back(released, models):
    world = released
    assert world.ask(2.0).json() == {"predictions": [{"x": 4.0}]}
    with world.traffic():
        good = world.release(models("pyfunc", does="quadruple"), QUICK + LIMITS)
        assert good.outcome == "promoted"
        with pytest.raises(RejectedError):
            world.release(models("pyfunc", does="always"), QUICK + LIMITS)
    world.assert_only(2)
    assert {name.partition("-")[0] for name in world.state.revisions} == {"v1", "v2"}, "the third left nothing"

    client, (first, second, _) = versions(world)
    assert first.tags["headgate.digest"] != second.tags["headgate.digest"]
    container = world.target._find(world.endpoint, world.state.traffic.holder)
    assert container.attrs["Image"] == second.tags["headgate.digest"], "it runs by digest"
    run_id, _, path = second.tags["headgate.sbom"].removeprefix("runs:/").partition("/")
    bom = json.loads(Path(client.download_artifacts(run_id, path)).read_text())
    assert any(part["name"] == "mlflow" for part in bom["components"])


def test_a_model_that_does_harm_is_never_built_nor_run(released, models, tmp_path):
    world = released
    model = shutil.copytree(models("pyfunc", does="double"), tmp_path / "model")
    (model / "python_model.pkl").write_bytes(pickle.dumps(Harmful()))
    before = {image.id for image in world.target._client.images.list()}
    with pytest.raises(UnsafeArtifactError, match=r"python_model\.pkl runs \w+\.system"):
        world.release(model, LIMITS)
    world.assert_only(1)
    assert {image.id for image in world.target._client.images.list()} == before
    assert not [row for row in world.journal.read(world.endpoint, kinds=(Kind.PHASE,)) if row.what == "packaged"][1:]


def test_a_canary_that_runs_out_of_memory_is_taken_back(released, models):
    world = released
    deadly = Payload(body=b'{"dataframe_records": [{"x": 666}]}')
    limits = LIMITS.replace("1Gi", "600Mi")
    with world.traffic(), in_background(world.release, models("pyfunc", does="greedy"), LONG + limits) as release:
        wait_for(lambda: world.share(2) == 5000, 240)
        canary = next(name for name in world.state.revisions if name.startswith("v2"))
        with contextlib.suppress(HeadgateError):
            world.target.invoke(world.endpoint, deadly, canary)
        assert isinstance(release.exception(90), RolledBackError)
    world.assert_only(1)
