"""Whole releases on SageMaker's inference components: no split and no copies, so who is compared is asked again."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from conftest import WIDE, in_background
from support.oci_registry import REGISTRY
from support.stack import wait_for

from deploy_targets.sagemaker.components_target import ComponentsTarget
from headgate.errors import RejectedError, RolledBackError, UnsupportedError
from headgate.phases import Outcome
from registry import Kind

if REGISTRY is None:
    pytest.skip("no docker-registry on this machine", allow_module_level=True)

GATES = "gates: {shadow: {min_requests: 40, max_duration: 60s, max_disagreement: 20%}}\n"
GREEN = (
    "strategy: {kind: blue-green, min_requests: 60, min_duration: 2s, max_duration: 2m}\n"
    "runtime: {memory: 512Mi, replicas: {min: 0, max: 2}}\n"
)


@pytest.fixture
def cloud(in_cloud, monkeypatch, aws):
    monkeypatch.setattr(ComponentsTarget, "LOOK_SECONDS", 1.0)
    # CloudWatch's minute.
    monkeypatch.setattr("deploy_targets.sagemaker.evidence.next_minute", lambda: datetime.now(UTC))
    with in_cloud(aws, inference_components={"machines": 4, "wait": "1s"}) as world:
        world.client_options["headers"]["x-amzn-sagemaker-inference-component"] = world.endpoint
        world.more = GREEN + WIDE + world.more
        yield world


def asked_again(cloud) -> tuple[int, int]:
    """What the judge knew last of the version before: requests and failures."""
    look = cloud.journal.read(cloud.endpoint, kinds=(Kind.LOOK,), newest=1)[-1].evidence
    return look["stable"]["requests"], look["stable"]["failures"]


def test_versions_are_compared_by_asking_again_and_what_fails_live_is_taken_back(cloud, models, aws):
    def release(does, gates=GATES):
        return cloud.release(models("pyfunc", does=does), gates + cloud.more)

    release("double")
    with cloud.traffic(rate=40) as client:
        wait_for(lambda: client.total > 20)
        with pytest.raises(RejectedError, match="answers differ"):
            release("triple")
        cloud.assert_only(1)
    # A model's own error is a status of SageMaker's.
    with cloud.traffic(rate=40, low=-8, may_lose=True) as client, pytest.raises(RolledBackError):
        release("negative", "gates: {shadow: off}\n")
    assert client.lost, "it was live, until the judge saw that the version before answers what it does not"
    requests, failures = asked_again(cloud)
    assert requests
    assert not failures
    cloud.assert_only(1)
    with cloud.traffic(rate=40) as client:
        assert release("negative").outcome is Outcome.PROMOTED
        cloud.assert_only(3)
    assert not [counter for counter in client.by_revision.values() if counter["failed"] or counter["wrong"]]


def test_what_is_asleep_is_released_to_and_wakes_for_the_comparison(cloud, models, aws):
    cloud.release(models("pyfunc", does="double"), GATES + cloud.more)
    aws.double.quiet(cloud.endpoint)
    wait_for(lambda: aws.double.components[cloud.endpoint].machine is None)
    cloud.assert_only(1)
    with (
        cloud.traffic(rate=40, may_lose=True) as client,
        in_background(cloud.release, models("pyfunc", does="negative"), GATES + cloud.more) as going_on,
    ):
        wait_for(lambda: any(counter["answers"] for counter in client.by_revision.values()), 60)
        assert going_on.result().outcome is Outcome.PROMOTED
    cloud.assert_only(2)


def test_a_canary_and_a_copy_without_a_size_are_refused_before_it_begins(cloud):
    with pytest.raises(UnsupportedError, match=r"blue-green(.|\n)*runtime\.memory|runtime\.memory(.|\n)*blue-green"):
        cloud.release("unused", WIDE)
