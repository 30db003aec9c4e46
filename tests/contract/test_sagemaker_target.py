"""What SageMaker adds to the contract of every target: what it says and does not do, and what an account may lack."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta

import pytest
from support.faults import Fault
from support.sagemaker import ROLE
from support.sagemaker_catalog import ACCOUNT, REGION
from support.sagemaker_evidence import BUCKET

from deploy_targets.sagemaker.settings import SageMakerSettings
from deploy_targets.sagemaker.target import SageMakerTarget
from headgate.errors import BadInputError, RevisionFailedError, TargetError, TargetUnavailableError
from headgate.records import Mirror, Payload, Traffic, Window

GOOD = Payload(body=b'{"dataframe_records":[{"x":1.0}]}')


@pytest.fixture
def cloud(sagemaker_harness):
    yield sagemaker_harness
    double = sagemaker_harness._double
    double.faults.clear()
    double.capacity, double.quota, double.denied = True, 4.0, set()


def test_an_update_that_goes_back_without_an_error_is_seen(cloud, double, live):
    """SageMaker ends InService on the old configuration; nothing of the new one is left."""
    endpoint, first, second = live
    double.capacity = False
    with pytest.raises(RevisionFailedError, match="InsufficientInstanceCapacity") as caught:
        cloud.target.deploy(endpoint, second)
    assert "target.instance" in caught.value.fix
    state = cloud.target.observe(endpoint)
    assert (set(state.revisions), state.traffic) == ({first.name}, Traffic.all_to(first.name))
    assert len(cloud.traces(endpoint)) == 3, "a model, a configuration and the endpoint"


@pytest.mark.parametrize(("fault", "kind", "says"), [
    (Fault.EXPIRED, TargetUnavailableError, "does not know us any more"),
    (Fault.DENIED, TargetError, "does not allow create_model: .*not authorized"),
    (Fault.QUOTA, TargetError, "beyond a quota of the account"),
    (Fault.BROKEN, TargetUnavailableError, r"does not answer create_model \(InternalFailure\)"),
])  # fmt: skip
def test_what_aws_says_is_said_with_what_to_do(cloud, double, live, fault, kind, says):
    endpoint, first, second = live
    # botocore tries again by itself where that may help.
    double.faults.plan("create_model", fault, times=9)
    with pytest.raises(kind, match=says) as caught:
        cloud.target.deploy(endpoint, second)
    assert caught.value.fix
    assert cloud.target.observe(endpoint).traffic == Traffic.all_to(first.name)


def test_an_endpoint_that_is_not_ours_is_left_alone(cloud, double, live):
    endpoint, first, second = live
    arn = cloud.target._fleet(endpoint).described()["EndpointArn"]
    ours = double.tags.pop(arn)
    for change in (
        lambda: cloud.target.deploy(endpoint, second), lambda: cloud.target.delete(endpoint),
        lambda: cloud.target.route(endpoint, Traffic.all_to(first.name), fence=3),
    ):  # fmt: skip
        with pytest.raises(TargetError, match="that Headgate did not make"):
            change()
    double.tags[arn] = ours
    assert cloud.target.observe(endpoint).traffic == Traffic.all_to(first.name)


def test_a_model_of_the_same_name_that_is_another_is_not_adopted(cloud, double, live):
    endpoint, _, second = live
    name = f"{endpoint}--{second.name}"
    double.create_model({"ModelName": name, "PrimaryContainer": {"Image": "another", "Environment": {}}})
    with pytest.raises(TargetError, match=r"another model of the name .*: another, not"):
        cloud.target.deploy(endpoint, second)


def test_one_variant_is_mirrored_and_nothing_else_beside(cloud, models, live):
    endpoint, first, second = live
    cloud.target.deploy(endpoint, second)
    both = Traffic.split(first.name, second.name, 5000).weights
    with pytest.raises(TargetError, match="one live variant only"):
        cloud.target.route(endpoint, Traffic(weights=both, mirror=Mirror(revision=second.name, share=100)))
    cloud.target.route(endpoint, Traffic.all_to(first.name, Mirror(revision=second.name, share=2500)))
    assert cloud.target.observe(endpoint).traffic.mirror == Mirror(revision=second.name, share=2500)
    third = cloud.revision(models("pyfunc", does="triple"), 3)
    with pytest.raises(TargetError, match="one variant beside the live one then"):
        cloud.target.deploy(endpoint, third)
    # Who is copied to can get clients, in one step.
    cloud.target.route(endpoint, Traffic.split(first.name, second.name, 1000))
    state = cloud.target.observe(endpoint)
    assert {name: seen.ready for name, seen in state.revisions.items()} == {
        first.name: True, second.name: True, third.name: False,
    }  # fmt: skip
    assert state.revisions[third.name].detail == "has no machines"


def test_a_change_by_hand_is_seen(cloud, double, live):
    endpoint, first, second = live
    cloud.target.deploy(endpoint, second)
    double.client("sagemaker").update_endpoint_weights_and_capacities(
        EndpointName=endpoint,
        DesiredWeightsAndCapacities=[{"VariantName": second.name, "DesiredWeight": 10_000.0}],
    )
    cloud.target._fleet(endpoint).settled()
    assert cloud.target.observe(endpoint).traffic == Traffic.split(first.name, second.name, 5000)


def test_a_failed_endpoint_is_made_anew(cloud, double, models):
    endpoint, good = "sm-failed", cloud.revision(models("pyfunc", does="double"), 1)
    double.capacity = False
    double.faults.plan("delete_endpoint", Fault.BROKEN, times=9)
    with pytest.raises(TargetUnavailableError):
        cloud.target.deploy(endpoint, good)
    assert "Failed: Unable to provision" in cloud.target.observe(endpoint).revisions[good.name].detail
    double.capacity = True
    cloud.target.deploy(endpoint, good)
    assert cloud.target.observe(endpoint).revisions[good.name].ready
    cloud.target.delete(endpoint)
    assert cloud.traces(endpoint) == []


def scaled(double, endpoint):
    found = double.client("application-autoscaling").describe_scalable_targets(ServiceNamespace="sagemaker")
    return {
        one["ResourceId"].rpartition("/")[2]: (one["MinCapacity"], one["MaxCapacity"])
        for one in found["ScalableTargets"] if f"/{endpoint}/" in one["ResourceId"]
    }  # fmt: skip


def test_machines_follow_the_load_while_a_revision_is_live_and_their_number_survives_a_release(cloud, double, models):
    endpoint = "sm-scaled"
    first, second = (
        cloud.revision(models("pyfunc", does=does), number, most_workers=4)
        for number, does in enumerate(("double", "negative"), start=1)
    )
    cloud.target.deploy(endpoint, first)
    assert scaled(double, endpoint) == {first.name: (1, 4)}
    policies = double.client("application-autoscaling").describe_scaling_policies(ServiceNamespace="sagemaker")
    assert policies["ScalingPolicies"][0]["TargetTrackingScalingPolicyConfiguration"]["TargetValue"] == 600
    # Autoscaling has been at work.
    double.endpoints[endpoint].production[first.name].count = 3
    cloud.target.deploy(endpoint, second)
    assert double.endpoints[endpoint].production[first.name].count == 3
    assert scaled(double, endpoint) == {first.name: (1, 4), second.name: (1, 4)}
    cloud.target.route(endpoint, Traffic.all_to(first.name, Mirror(revision=second.name, share=10_000)))
    assert scaled(double, endpoint) == {first.name: (1, 4)}, "a shadow is as large as it is"
    cloud.target.route(endpoint, Traffic.split(first.name, second.name, 5000))
    assert scaled(double, endpoint) == {first.name: (1, 4), second.name: (1, 4)}
    assert double.endpoints[endpoint].production[first.name].count == 3
    cloud.target.route(endpoint, Traffic.all_to(second.name))
    cloud.target.retire(endpoint, first.name)
    assert scaled(double, endpoint) == {second.name: (1, 4)}
    cloud.target.delete(endpoint)
    assert cloud.traces(endpoint) == []


def test_captures_that_are_none_are_named(cloud, double, live):
    endpoint, first, _ = live
    now = datetime.now(UTC)
    key = f"live/{endpoint}/{first.name}/{now:%Y/%m/%d/%H}/broken.jsonl"
    double.client("s3").put_object(Bucket=BUCKET, Key=key, Body=b'{"captureData": {}}')
    window = Window(start=now - timedelta(minutes=1), end=now + timedelta(minutes=1))
    with pytest.raises(TargetError, match=r"broken\.jsonl has a line that is no capture"):
        list(cloud.target.captured(endpoint, window))


def test_preflight_says_what_is_missing_and_how_to_get_it(cloud, double):
    double.quota, double.denied = 1.0, {"sagemaker:UpdateEndpoint"}
    target = SageMakerTarget(cloud._settings.model_copy(update={"captures": "s3://nowhere", "role": ROLE + "-not"}))
    found = {one.subject: one for one in target.preflight()}
    assert found["target.captures"].fix == "aws s3 mb s3://nowhere"
    assert "create-role" in found["target.role"].fix
    assert "request-service-quota-increase" in found["target.instance"].fix
    assert "may not sagemaker:UpdateEndpoint" in found["permissions"].problem
    assert {one.severity for one in found.values()} == {"error"}
    policy = json.loads(target.permissions())
    assert "sagemaker:UpdateEndpoint" in policy["Statement"][0]["Action"]


def test_without_a_region_or_credentials_it_says_so(cloud, monkeypatch):
    for name in ("AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", os.devnull)
    with pytest.raises(BadInputError, match="no AWS region"):
        SageMakerTarget(cloud._settings).observe("any")
    monkeypatch.setenv("AWS_REGION", REGION)
    assert "no AWS credentials" in SageMakerTarget(cloud._settings).preflight()[0].problem


def test_images_go_to_the_accounts_own_registry(cloud, double):
    made = cloud.target.repository("Wine Quality", "")
    assert made.name == f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/wine-quality"
    assert made.user == "AWS"
    assert cloud.target.repository("Wine Quality", "") == made, "the second time it is there"
    assert double.client("ecr").describe_repositories(repositoryNames=["wine-quality"])["repositories"]
    assert cloud.target.repository("wine", "127.0.0.1:5000/wine").name == "127.0.0.1:5000/wine"
    assert not cloud.target.repository("wine", "127.0.0.1:5000/wine").user


def test_settings_are_checked():
    with pytest.raises(ValueError, match="subnets and security_groups go together"):
        SageMakerSettings(kind="sagemaker", role=ROLE, captures="s3://bucket", subnets=("subnet-1",))
