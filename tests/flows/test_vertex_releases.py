"""Whole releases on Vertex AI: a double that runs real containers, and a real registry of images."""

from __future__ import annotations

import pytest
from conftest import QUICK, open_world
from support.faults import Fault
from support.oci_registry import REGISTRY
from support.stack import wait_for
from support.vertex import DATASET, LOCATION, PROJECT
from support.vertex_server import vertex

from deploy_targets.vertex.names import deployed_id
from deploy_targets.vertex.target import VertexTarget
from headgate.errors import RejectedError
from headgate.phases import Outcome
from registry import Kind

CHANGES = (
    "models.upload", "models.delete", "endpoints.create", "endpoints.deployModel", "endpoints.patch",
    "endpoints.undeployModel", "endpoints.delete",
)  # fmt: skip

if REGISTRY is None:
    pytest.skip("no docker-registry on this machine", allow_module_level=True)


@pytest.fixture(scope="module")
def running(docker_base, tmp_path_factory):
    with vertex("flows", tmp_path_factory.mktemp("google")) as started:
        yield started


@pytest.fixture
def double(running):
    return running[0]


@pytest.fixture
def cloud(stack, monkeypatch, running, images, docker_base, layers_cache, tmp_path):
    """A world on Vertex AI, whose minutes are seconds; in a journal of its own, as the double goes with this file."""
    double, environment = running
    monkeypatch.setenv("HEADGATE_JOURNAL_URL", f"sqlite:///{tmp_path}/journal.db")
    if not stack.home.layers.is_symlink():
        layers_cache(stack.home)
    monkeypatch.setattr(VertexTarget, "LOOK_SECONDS", 1.0)
    monkeypatch.setattr(VertexTarget, "LOG_DELAY", 5.0)
    # Google's own client waits for seconds between its tries.
    monkeypatch.setattr("deploy_targets.vertex.google._RETRIES", 0)
    for name, value in {**environment, "HEADGATE_BASE_IMAGE": docker_base}.items():
        monkeypatch.setenv(name, value)
    settings = {"captures": f"bq://{PROJECT}.{DATASET}.live", "location": LOCATION}
    with open_world(stack, monkeypatch, "vertex", **settings) as world:
        world.client_options = {
            "headers": {"authorization": f"Bearer {world.target._google.token()}"},
            "revision": "x-vertex-ai-deployed-model-id",
        }  # fmt: skip
        world.more = QUICK + f"image: {{repository: {images}/{world.endpoint}}}\n"
        yield world
        double.faults.clear()
    ids = [name.rpartition("/")[2] for name in (*double.models, *double.sites)]
    assert not [name for name in ids if name.startswith(world.endpoint)]


def test_good_versions_are_promoted_and_others_are_not_and_a_rollback_goes_back(cloud, models):
    assert cloud.release(models("pyfunc", does="double"), cloud.more).outcome is Outcome.PROMOTED
    with cloud.traffic(rate=40) as client:
        wait_for(lambda: client.total > 20)
        assert cloud.release(models("pyfunc", does="negative"), cloud.more).outcome is Outcome.PROMOTED
        compared = cloud.journal.read(cloud.endpoint, kinds=(Kind.DECISION,), what="shadow", newest=1)[-1].evidence
        assert compared["report"]["disagreements"] == 0
        assert compared["report"]["pairs"] >= 40
        cloud.assert_only(2)
        with pytest.raises(RejectedError, match="answers differ"):
            cloud.release(models("pyfunc", does="triple"), cloud.more)
        cloud.assert_only(2)
        assert {deployed_id(name) for name in cloud.state.revisions} == set(client.by_revision), (
            "the third left nothing"
        )
        assert cloud.rollback("it was the wrong one").outcome is Outcome.ROLLED_BACK
        cloud.assert_only(1)
    assert not [counter for counter in client.by_revision.values() if counter["failed"] or counter["wrong"]]


def test_every_change_fails_in_every_way_and_the_release_goes_well(cloud, models, double):
    cloud.release(models("pyfunc", does="double"), cloud.more)
    for operation in CHANGES:
        for fault in (Fault.THROTTLED, Fault.BROKEN, Fault.CUT_OFF):
            double.faults.plan(operation, fault)
    double.faults.plan("timeSeries.list", Fault.EXPIRED, times=3)
    with cloud.traffic(rate=40) as client:
        assert cloud.release(models("pyfunc", does="quadruple"), cloud.more).outcome is Outcome.PROMOTED
    cloud.assert_only(2)
    assert not [counter for counter in client.by_revision.values() if counter["failed"]]
