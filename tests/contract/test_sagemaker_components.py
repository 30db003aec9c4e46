"""SageMaker's inference components: copies that come and go down to none, and one that clients name."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from botocore.exceptions import ClientError
from cloud_harness import ComponentsHarness
from support.chaos import Kill, die
from support.sagemaker import ROLE
from support.sagemaker_evidence import BUCKET
from support.sagemaker_guardrails import ring
from support.stack import wait_for

from deploy_targets import open_target
from deploy_targets.sagemaker.components_target import ComponentsTarget
from deploy_targets.sagemaker.settings import SageMakerSettings
from deploy_targets.sagemaker.target import SageMakerTarget
from headgate.errors import RevisionFailedError, RolledBackError, TargetError, TargetUnavailableError
from headgate.records import Mirror, Payload, Traffic, Window

GOOD = Payload(body=b'{"dataframe_records":[{"x":1.0}]}')
BAD = Payload(body=b'{"dataframe_records":[{"x":-1.0}]}')
ALARM = "wine-failures"


@pytest.fixture(scope="module")
def watched(sagemaker_components_harness):
    plain = sagemaker_components_harness
    return ComponentsHarness(plain._home.root, plain._base, plain._double, alarms=[ALARM])


@pytest.fixture
def cloud(watched, monkeypatch):
    # CloudWatch's minute.
    monkeypatch.setattr("deploy_targets.sagemaker.evidence.next_minute", lambda: datetime.now(UTC))
    ring(watched._double, ALARM, on=False)
    yield watched
    watched._double.faults.clear()
    watched._double.capacity = True


@pytest.fixture
def sleepy(cloud, double, models):
    """An endpoint whose live version has no copy while nobody asks, and another version."""
    first = cloud.revision(models("pyfunc", does="double"), 1, workers=0, most_workers=3)
    second = cloud.revision(models("pyfunc", does="negative"), 2, workers=0, most_workers=2)
    cloud.target.deploy("sleepy", first)
    cloud.target.route("sleepy", Traffic.all_to(first.name))
    yield "sleepy", first, second
    double.faults.clear()
    cloud.target.delete("sleepy")
    assert cloud.traces("sleepy") == []


def shifting(double, endpoint):
    return wait_for(lambda: double.components[endpoint].taking_over is not None)


def bounds(double, endpoint):
    known = double.client("application-autoscaling").describe_scalable_targets(
        ServiceNamespace="sagemaker", ResourceIds=[f"inference-component/{endpoint}"]
    )["ScalableTargets"]
    return [(one["MinCapacity"], one["MaxCapacity"]) for one in known]


def test_a_version_that_nobody_asks_has_no_copy_and_the_first_request_brings_one(cloud, double, sleepy):
    endpoint, first, _ = sleepy
    assert bounds(double, endpoint) == [(0, 3)]
    assert {reply.status for reply in cloud.ask(endpoint, GOOD, 3)} == {200}
    double.quiet(endpoint)
    wait_for(lambda: double.components[endpoint].machine is None)
    state = cloud.target.observe(endpoint)
    assert state.traffic == Traffic.all_to(first.name), "it is live all the same"
    assert state.revisions[first.name].ready, "to be asleep is to be well"
    with pytest.raises(TargetUnavailableError, match="no copy of it runs yet"):
        cloud.target.invoke(endpoint, GOOD)
    wait_for(lambda: double.components[endpoint].current == 1)
    assert {reply.revision for reply in cloud.ask(endpoint, GOOD, 3)} == {first.name}


def test_a_release_wakes_what_is_asleep_and_the_next_one_may_sleep(cloud, double, sleepy):
    endpoint, first, second = sleepy
    double.quiet(endpoint)
    wait_for(lambda: double.components[endpoint].machine is None)
    cloud.target.deploy(endpoint, second)
    cloud.target.route(endpoint, Traffic.all_to(second.name))
    assert cloud.target.observe(endpoint).traffic == Traffic.all_to(second.name)
    assert {reply.revision for reply in cloud.ask(endpoint, GOOD, 3)} == {second.name}
    assert bounds(double, endpoint) == [(0, 2)], "as the new version's file has it"
    cloud.target.retire(endpoint, first.name)
    double.quiet(endpoint)
    wait_for(lambda: double.components[endpoint].machine is None)
    assert cloud.target.observe(endpoint).revisions[second.name].ready


def test_a_scaler_that_was_half_made_is_finished(cloud, double, sleepy):
    endpoint, first, _ = sleepy
    watch = double.client("cloudwatch")
    watch.delete_alarms(AlarmNames=[f"headgate-wake-{endpoint}"])
    cloud.target.route(endpoint, Traffic.all_to(first.name))
    assert watch.describe_alarms(AlarmNames=[f"headgate-wake-{endpoint}"])["MetricAlarms"]


def test_copies_of_a_fixed_number_are_as_many(cloud, double, live, models):
    endpoint, _, _ = live
    three = cloud.revision(models("pyfunc", does="double"), 3, workers=3)
    cloud.target.deploy(endpoint, three)
    assert double.components[f"{endpoint}--{three.name}"].current == 1, "who is only compared"
    cloud.target.route(endpoint, Traffic.all_to(three.name))
    wait_for(lambda: double.components[endpoint].current == 3)
    assert bounds(double, endpoint) == []


def test_sagemaker_replaces_the_copies_in_steps_and_loses_no_request(cloud, double, live):
    endpoint, first, second = live
    cloud.target.deploy(endpoint, second)
    assert {reply.revision for reply in cloud.ask(endpoint, GOOD, 10)} == {first.name}, "no client names the other one"
    other = cloud.again()
    # Its connections are made before it is in a hurry.
    assert other.observe(endpoint).traffic == Traffic.all_to(first.name)
    with ThreadPoolExecutor() as pool:
        with double.steps.held():
            going_on = pool.submit(cloud.target.route, endpoint, Traffic.all_to(second.name))
            shifting(double, endpoint)
            assert other.observe(endpoint).traffic is None, "nobody holds it while SageMaker shifts"
            replies = cloud.ask(endpoint, GOOD, 60)
        going_on.result()
    assert {reply.status for reply in replies} == {200}
    assert cloud.target.observe(endpoint).traffic == Traffic.all_to(second.name)
    double.update_inference_component_runtime_config(
        {"InferenceComponentName": endpoint, "DesiredRuntimeConfig": {"CopyCount": 2}}
    )
    assert cloud.target.observe(endpoint).traffic == Traffic.all_to(second.name), "more copies are no shift"


def test_what_each_is_asked_counts_for_it_alone(cloud, live):
    endpoint, first, second = live
    cloud.target.deploy(endpoint, second)
    before = cloud.target.counts(endpoint)
    cloud.ask(endpoint, GOOD, 4)
    cloud.target.invoke(endpoint, BAD, second.name)
    cloud.target.route(endpoint, Traffic.all_to(second.name))
    cloud.ask(endpoint, GOOD, 5)
    cloud.ask(endpoint, BAD, 2)
    wait_for(lambda: cloud.target.observe(endpoint).revisions[first.name].ready)
    for _ in range(3):
        cloud.target.invoke(endpoint, GOOD, first.name)

    def grown(name):
        now = cloud.target.counts(endpoint)[name]
        return now.requests - before[name].requests, now.failures - before[name].failures

    wait_for(lambda: grown(second.name)[0] >= 8)
    assert (grown(first.name), grown(second.name)) == ((7, 0), (8, 3))
    assert cloud.target.counts(endpoint)[first.name].histograms == (), "which say nothing of one that is asked again"


def test_containers_bring_their_log_to_s3_and_revisions_are_told_apart(cloud, double, live):
    endpoint, first, second = live
    began = datetime.now(UTC)
    by = {first.name: {one.request_id for one in cloud.ask(endpoint, GOOD, 5)}}
    cloud.target.deploy(endpoint, second)
    cloud.target.route(endpoint, Traffic.all_to(second.name))
    by[second.name] = {one.request_id for one in cloud.ask(endpoint, GOOD, 5)}

    def logged():
        found = {}
        for batch in cloud.target.captured(endpoint, Window(start=began, end=datetime.now(UTC) + timedelta(seconds=1))):
            for row in batch.to_pylist():
                assert (row["status"], row["endpoint"], row["mirrored"]) == (200, endpoint, False)
                found.setdefault(row["revision"], set()).add(row["request_id"])
        return found

    wait_for(lambda: logged() == by, 20)
    cloud.target.retire(endpoint, first.name)
    assert logged() == {second.name: by[second.name]}


def test_an_alarm_takes_it_back_and_nothing_of_it_is_left(cloud, double, live):
    endpoint, first, second = live
    cloud.target.deploy(endpoint, second)
    with double.steps.held(), ThreadPoolExecutor() as pool:
        going_on = pool.submit(cloud.target.route, endpoint, Traffic.all_to(second.name))
        shifting(double, endpoint)
        ring(double, ALARM, on=True)
        with pytest.raises(RolledBackError, match=rf"gave {endpoint} back to {first.name}: .*{ALARM}"):
            going_on.result()
    assert cloud.target.observe(endpoint).traffic == Traffic.all_to(first.name)
    cloud.target.retire(endpoint, second.name)
    assert set(cloud.target.observe(endpoint).revisions) == {first.name}
    assert not [trace for trace in cloud.traces(endpoint) if second.name in trace]


def test_going_back_waits_for_no_alarm(cloud, double, live):
    endpoint, first, second = live
    cloud.target.deploy(endpoint, second)
    cloud.target.route(endpoint, Traffic.all_to(second.name))
    ring(double, ALARM, on=True)
    cloud.again().route(endpoint, Traffic.all_to(first.name))
    assert cloud.target.observe(endpoint).traffic == Traffic.all_to(first.name)
    asked = double.asked_to_update[-1]["DeploymentConfig"]
    assert (asked["RollingUpdatePolicy"]["WaitIntervalInSeconds"], "AutoRollbackConfiguration" in asked) == (0, False)
    cloud.target.retire(endpoint, second.name)
    cloud.target.deploy(endpoint, second)
    with pytest.raises(RolledBackError, match=ALARM):
        cloud.target.route(endpoint, Traffic.all_to(second.name))


def test_going_back_waits_for_no_alarm_also_after_another_version_was_tried(cloud, double, live, models):
    endpoint, first, second = live
    third = cloud.revision(models("pyfunc", does="triple"), 3)
    for one in (second, third):
        cloud.target.deploy(endpoint, one)
        cloud.target.route(endpoint, Traffic.all_to(one.name))
    cloud.target.route(endpoint, Traffic.all_to(second.name))
    ring(double, ALARM, on=True)
    cloud.target.route(endpoint, Traffic.all_to(first.name))
    assert cloud.target.observe(endpoint).traffic == Traffic.all_to(first.name)


def test_what_was_taken_back_leaves_the_live_version_following_the_load(cloud, double, sleepy):
    endpoint, first, second = sleepy
    watch = double.client("cloudwatch")
    cloud.target.deploy(endpoint, second)
    ring(double, ALARM, on=True)
    for died in (False, True):
        if died:
            kill = Kill("update_inference_component")
            die(cloud, kill, lambda target: target.route(endpoint, Traffic.all_to(second.name)))
            assert bounds(double, endpoint) == []
            cloud.again().retire(endpoint, second.name)
        else:
            with pytest.raises(RolledBackError):
                cloud.target.route(endpoint, Traffic.all_to(second.name))
        assert bounds(double, endpoint) == [(0, 3)]
        assert watch.describe_alarms(AlarmNames=[f"headgate-wake-{endpoint}"])["MetricAlarms"]
    assert cloud.target.observe(endpoint).traffic == Traffic.all_to(first.name)


def test_a_component_of_that_name_that_is_somebody_elses_is_left_alone(cloud, double, live):
    endpoint, first, _ = live
    double.create_inference_component({
        "InferenceComponentName": "theirs", "EndpointName": endpoint, "VariantName": "components",
        "Specification": double.components[endpoint].specification, "RuntimeConfig": {"CopyCount": 1},
    })  # fmt: skip
    try:
        with pytest.raises(TargetError, match=f"an inference component theirs on the endpoint {endpoint}"):
            cloud.target.deploy("theirs", first)
        assert double.components["theirs"].endpoint == endpoint
        assert cloud.target.observe("theirs") is None, "nothing was made"
    finally:
        wait_for(lambda: double.components["theirs"].status == "InService")
        double.delete_inference_component({"InferenceComponentName": "theirs"})
        wait_for(lambda: "theirs" not in double.components)


@pytest.mark.parametrize("kill", [Kill("add_tags"), Kill("update_inference_component"), Kill("add_tags", 2)], ids=str)
def test_who_died_going_back_is_followed_by_one_whom_no_alarm_keeps(cloud, double, live, kill):
    endpoint, first, second = live
    cloud.target.deploy(endpoint, second)
    cloud.target.route(endpoint, Traffic.all_to(second.name))
    ring(double, ALARM, on=True)
    die(cloud, kill, lambda target: target.route(endpoint, Traffic.all_to(first.name)))
    cloud.again().route(endpoint, Traffic.all_to(first.name))
    assert cloud.target.observe(endpoint).traffic == Traffic.all_to(first.name)


def test_what_was_taken_back_is_not_shifted_again_by_who_did_not_see_it(cloud, double, live):
    endpoint, first, second = live
    cloud.target.deploy(endpoint, second)
    ring(double, ALARM, on=True)
    double.faults.calls.clear()
    die(cloud, Kill("update_inference_component"), lambda target: target.route(endpoint, Traffic.all_to(second.name)))
    with pytest.raises(RolledBackError, match=ALARM):
        cloud.again().route(endpoint, Traffic.all_to(second.name))
    assert double.faults.calls.count("update_inference_component") == 1
    assert cloud.target.observe(endpoint).traffic == Traffic.all_to(first.name)


def test_machines_that_cannot_be_had_leave_it_as_it_was_and_are_no_alarm(cloud, double, live):
    endpoint, first, second = live
    cloud.target.deploy(endpoint, second)
    double.capacity = False
    with pytest.raises(RevisionFailedError, match="enough capacity"):
        cloud.target.route(endpoint, Traffic.all_to(second.name))
    assert cloud.target.observe(endpoint).traffic == Traffic.all_to(first.name)
    double.capacity = True
    cloud.target.route(endpoint, Traffic.all_to(second.name))
    assert cloud.target.observe(endpoint).traffic == Traffic.all_to(second.name)


def test_what_clients_name_and_somebody_removed_is_made_again(cloud, double, live):
    endpoint, first, _ = live
    double.client("sagemaker").delete_inference_component(InferenceComponentName=endpoint)
    wait_for(lambda: endpoint not in double.components)
    assert cloud.target.observe(endpoint).traffic is None
    cloud.target.deploy(endpoint, first)
    cloud.target.route(endpoint, Traffic.all_to(first.name))
    assert {reply.revision for reply in cloud.ask(endpoint, GOOD, 3)} == {first.name}


def test_more_machines_are_had_under_live_clients(cloud, double, live):
    endpoint, _, second = live
    hosting = cloud._settings.inference_components.model_copy(update={"machines": 6})
    larger = ComponentsTarget.of(cloud._settings.model_copy(update={"inference_components": hosting}))
    larger.deploy(endpoint, second)
    config = double.configs[double.endpoints[endpoint].config]["ProductionVariants"][0]
    assert config["ManagedInstanceScaling"]["MaxInstanceCount"] == 6
    assert [name for name in double.configs if name.startswith(f"{endpoint}--")] == [double.endpoints[endpoint].config]
    assert {reply.status for reply in cloud.ask(endpoint, GOOD, 3)} == {200}


def test_an_endpoint_is_not_changed_from_one_way_of_hosting_to_the_other(cloud, double, live, models):
    endpoint, first, second = live
    variants = SageMakerTarget(SageMakerSettings(kind="sagemaker", role=ROLE, captures=f"s3://{BUCKET}/live"))
    with pytest.raises(TargetError, match="is made of inference components"):
        variants.deploy(endpoint, second)
    variants.deploy("of-variants", first)
    try:
        with pytest.raises(TargetError, match="is made of variants"):
            cloud.target.deploy("of-variants", second)
        for one in ("of-variants", endpoint):
            seen = [target.observe(one).traffic for target in (variants, cloud.target)]
            assert seen == [Traffic.all_to(first.name)] * 2, "who undoes the release sees who answers"
    finally:
        variants.delete("of-variants")
    assert cloud.target.observe(endpoint).traffic == Traffic.all_to(first.name)


def test_nothing_is_split_or_mirrored(cloud, live):
    endpoint, first, second = live
    cloud.target.deploy(endpoint, second)
    for wanted in (Traffic.split(first.name, second.name, 500),
                   Traffic.all_to(first.name, Mirror(revision=second.name, share=100))):  # fmt: skip
        with pytest.raises(TargetError, match=r"strategy\.kind: blue-green"):
            cloud.target.route(endpoint, wanted)


def test_clients_who_name_no_component_are_told(cloud, double, live):
    with pytest.raises(ClientError, match="Component Name header is required"):
        double.client("sagemaker-runtime").invoke_endpoint(EndpointName=live[0], Body=b"{}")


def test_a_permission_that_is_missing_is_named_and_is_in_the_policy(cloud, double):
    double.denied = {"sagemaker:UpdateInferenceComponent"}
    try:
        (missing,) = cloud.target.preflight()
    finally:
        double.denied = set()
    assert "sagemaker:UpdateInferenceComponent" in missing.problem
    assert '"sagemaker:UpdateInferenceComponent"' in cloud.target.permissions()
    plain = SageMakerTarget(SageMakerSettings(kind="sagemaker", role=ROLE, captures=f"s3://{BUCKET}/live"))
    assert "InferenceComponent" not in plain.permissions(), "the least that is needed"


@pytest.mark.parametrize(("given", "said"), [
    ({"inference_components": {"batch": "60%"}}, "less than or equal to 0.5"),
    ({"inference_components": {"batch": "12.5%"}}, "whole number of percent"),
    ({"inference_components": {"wait": "2h"}}, "less than or equal to 3600"),
    ({"inference_components": {"batch": "5%", "wait": "1h"}}, "all waits together are at most 7h"),
    ({"inference_components": {}, "isolated": True}, "isolated keeps them from"),
    ({"inference_components": {}, "alarms": [ALARM], "native_guardrails": {}}, "leave native_guardrails out"),
])  # fmt: skip
def test_what_sagemaker_does_not_take_is_said(given, said):
    with pytest.raises(ValueError, match=said):
        SageMakerSettings.model_validate({"kind": "sagemaker", "role": ROLE, "captures": "s3://captures", **given})


def test_only_a_file_that_asks_for_it_gets_it(cloud):
    assert isinstance(open_target(cloud._settings), ComponentsTarget)
    plain = SageMakerSettings(kind="sagemaker", role=ROLE, captures="s3://captures")
    assert type(open_target(plain)).__name__ == "SageMakerTarget"
