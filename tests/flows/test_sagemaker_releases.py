"""Whole releases on SageMaker: moto's server, our own hosting on it with real containers, and a real registry."""

from __future__ import annotations

import pytest
from conftest import QUICK, open_world
from support.faults import Fault
from support.moto_server import sagemaker
from support.oci_registry import REGISTRY
from support.sagemaker import ROLE
from support.sagemaker_catalog import REGION
from support.sagemaker_evidence import BUCKET
from support.stack import wait_for

from deploy_targets.sagemaker.target import SageMakerTarget
from headgate.errors import RejectedError
from headgate.phases import Outcome
from registry import Kind

SIGNED = f"AWS4-HMAC-SHA256 Credential=test/20260101/{REGION}/sagemaker/aws4_request, SignedHeaders=host, Signature=0"
"""Who asks; the double does not verify it."""
CHANGES = (
    "create_model", "create_endpoint_config", "update_endpoint", "update_endpoint_weights_and_capacities",
    "delete_endpoint_config", "delete_model", "add_tags",
)  # fmt: skip

if REGISTRY is None:
    pytest.skip("no docker-registry on this machine", allow_module_level=True)


@pytest.fixture(scope="module")
def double(docker_base):
    with sagemaker("flows") as running:
        yield running


@pytest.fixture
def cloud(stack, monkeypatch, double, images, docker_base, layers_cache, tmp_path):
    """A world on SageMaker, whose minutes are seconds; in a journal of its own, as the double goes with this file."""
    monkeypatch.setenv("HEADGATE_JOURNAL_URL", f"sqlite:///{tmp_path}/journal.db")
    if not stack.home.layers.is_symlink():
        layers_cache(stack.home)
    monkeypatch.setattr(SageMakerTarget, "LOOK_SECONDS", 1.0)
    monkeypatch.setattr(SageMakerTarget, "LOG_DELAY", 10.0)
    for name, value in {**double.environment, "HEADGATE_BASE_IMAGE": docker_base}.items():
        monkeypatch.setenv(name, value)
    with open_world(stack, monkeypatch, "sagemaker", role=ROLE, captures=f"s3://{BUCKET}/live") as world:
        world.client_options = {
            "headers": {"authorization": SIGNED}, "revision": "x-amzn-invoked-production-variant",
        }  # fmt: skip
        world.more = QUICK + f"image: {{repository: {images}/{world.endpoint}}}\n"
        yield world
    double.faults.clear()
    left = [name for name in (*double.models, *double.configs, *double.endpoints) if name.startswith(world.endpoint)]
    assert not left


def decided(world, what: str) -> dict:
    return world.journal.read(world.endpoint, kinds=(Kind.DECISION,), what=what, newest=1)[-1].evidence


def test_good_versions_are_promoted_and_others_are_not_and_a_rollback_goes_back(cloud, models, double):
    assert cloud.release(models("pyfunc", does="double"), cloud.more).outcome is Outcome.PROMOTED
    with cloud.traffic(rate=40) as client:
        wait_for(lambda: client.total > 20)
        assert cloud.release(models("pyfunc", does="negative"), cloud.more).outcome is Outcome.PROMOTED
        compared = decided(cloud, "shadow")["report"]
        assert (compared["disagreements"], compared["latency_ratio"]) == (0, None)
        assert compared["pairs"] >= 40
        cloud.assert_only(2)
        with pytest.raises(RejectedError, match="answers differ"):
            cloud.release(models("pyfunc", does="triple"), cloud.more)
        cloud.assert_only(2)
        assert set(cloud.state.revisions) == set(client.by_revision), "the third left nothing"
        assert cloud.rollback("it was the wrong one").outcome is Outcome.ROLLED_BACK
        cloud.assert_only(1)
    assert not [counter for counter in client.by_revision.values() if counter["failed"] or counter["wrong"]]


def test_every_change_fails_in_every_way_and_the_release_goes_well(cloud, models, double):
    cloud.release(models("pyfunc", does="double"), cloud.more)
    for operation in CHANGES:
        for fault in (Fault.THROTTLED, Fault.BROKEN, Fault.CUT_OFF, Fault.IGNORED):
            double.faults.plan(operation, fault)
    double.faults.plan("get_metric_data", Fault.EXPIRED, times=3)
    with cloud.traffic(rate=40) as client:
        assert cloud.release(models("pyfunc", does="quadruple"), cloud.more).outcome is Outcome.PROMOTED
    cloud.assert_only(2)
    assert not [counter for counter in client.by_revision.values() if counter["failed"]]
