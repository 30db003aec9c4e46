"""SageMaker's own guardrails: it shifts live traffic, and an alarm takes it back."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from cloud_harness import SageMakerHarness
from support.chaos import Kill, die
from support.faults import Fault
from support.machines import Machine
from support.sagemaker import ROLE
from support.sagemaker_evidence import BUCKET
from support.sagemaker_guardrails import ring
from support.stack import wait_for

from deploy_targets import open_target
from deploy_targets.sagemaker.guarded import LIVE, GuardedTarget
from deploy_targets.sagemaker.settings import SageMakerSettings
from headgate.errors import RevisionFailedError, RolledBackError, TargetError, TargetUnavailableError
from headgate.records import Mirror, Payload, Traffic, Window

GOOD = Payload(body=b'{"dataframe_records":[{"x":1.0}]}')
ALARM = "wine-5xx"


def settings(**guardrails):
    return SageMakerSettings.model_validate({
        "kind": "sagemaker", "role": ROLE, "captures": f"s3://{BUCKET}/live", "alarms": [ALARM],
        "native_guardrails": {"kind": "canary", "size": "30%", "wait": "10m", **guardrails},
    })  # fmt: skip


class GuardedHarness(SageMakerHarness):
    """SageMaker's, where it shifts traffic itself."""

    def __init__(self, plain):
        super().__init__(plain._home.root, plain._base, plain._double)
        self.target = open_target(settings())

    def again(self):
        return open_target(settings())


@pytest.fixture(scope="module")
def guarded(sagemaker_harness):
    return GuardedHarness(sagemaker_harness)


@pytest.fixture
def cloud(guarded, monkeypatch):
    # CloudWatch's minute.
    monkeypatch.setattr("deploy_targets.sagemaker.evidence.next_minute", lambda: datetime.now(UTC))
    ring(guarded._double, ALARM, on=False)
    yield guarded
    guarded._double.faults.clear()
    guarded._double.capacity = True


def forward(old, new):
    """What a blue-green release asks for."""
    return Traffic.all_to(new.name, Mirror(revision=old.name, share=10_000))


@pytest.fixture
def asked(monkeypatch):
    """How often each machine was asked."""
    seen, ask = Counter(), Machine.ask

    def counted(machine, path, *more):
        seen[machine.port] += 1
        return ask(machine, path, *more)

    monkeypatch.setattr(Machine, "ask", counted)
    return seen


def test_sagemaker_shifts_in_steps_and_the_version_before_gets_copies(cloud, double, live, asked):
    endpoint, first, second = live
    cloud.target.deploy(endpoint, second)
    assert cloud.target.observe(endpoint).traffic == Traffic.all_to(first.name)
    for name in (first.name, second.name):
        assert cloud.target.invoke(endpoint, GOOD, name).status == 200
    cloud.target.route(endpoint, Traffic.all_to(first.name, Mirror(revision=second.name, share=10_000)))
    blue_green = forward(first, second)
    with ThreadPoolExecutor() as pool:
        with double.steps.held():
            shifting = pool.submit(cloud.target.route, endpoint, blue_green)
            wait_for(lambda: double.endpoints[endpoint].production[LIVE].taking_over is not None)
            asked.clear()
            assert {reply.status for reply in cloud.ask(endpoint, GOOD, 60)} == {200}
            new, _ = double.endpoints[endpoint].production[LIVE].taking_over
            assert 5 < asked[new.port] < 35, "a canary of 30 % of 60"
            assert asked[double.endpoints[endpoint].production[LIVE].machine.port] == 60 - asked[new.port]
        shifting.result()
    assert cloud.target.observe(endpoint).traffic == blue_green
    assert list(double.endpoints[endpoint].production) == [LIVE]
    cloud.target.counts(endpoint)
    replies = cloud.ask(endpoint, GOOD, 10)
    assert {reply.status for reply in replies} == {200}
    wait_for(lambda: cloud.target.counts(endpoint)[first.name].requests >= 10)
    assert cloud.target.counts(endpoint)[second.name].requests == 10, "what the other one was asked is not its own"
    cloud.target.route(endpoint, Traffic.all_to(second.name))
    state = cloud.target.observe(endpoint)
    assert {name: seen.ready for name, seen in state.revisions.items()} == {first.name: True, second.name: True}


def test_the_log_tells_revisions_apart(cloud, double, live):
    endpoint, first, second = live
    began = datetime.now(UTC)
    by = {first.name: {one.request_id for one in cloud.ask(endpoint, GOOD, 5)}}
    cloud.target.deploy(endpoint, second)
    cloud.target.route(endpoint, forward(first, second))
    cloud.target.route(endpoint, Traffic.all_to(second.name))
    by[second.name] = {one.request_id for one in cloud.ask(endpoint, GOOD, 5)}

    def logged():
        found = {first.name: set(), second.name: set()}
        for batch in cloud.target.captured(endpoint, Window(start=began, end=datetime.now(UTC))):
            for row in batch.to_pylist():
                found[row["revision"]].add(row["request_id"])
        return found

    wait_for(lambda: logged() == by, 20)
    cloud.target.retire(endpoint, first.name)
    assert set(logged()[second.name]) == by[second.name]
    assert not logged()[first.name]


def test_an_alarm_takes_it_back_and_nothing_of_it_is_left(cloud, double, live):
    endpoint, first, second = live
    cloud.target.deploy(endpoint, second)
    with double.steps.held(), ThreadPoolExecutor() as pool:
        shifting = pool.submit(cloud.target.route, endpoint, forward(first, second))
        wait_for(lambda: double.endpoints[endpoint].production[LIVE].taking_over is not None)
        assert cloud.target.observe(endpoint).traffic is None, "nobody holds it while SageMaker shifts"
        ring(double, ALARM, on=True)
        with pytest.raises(RolledBackError, match=rf"gave {endpoint} back to {first.name}: .*{ALARM}"):
            shifting.result()
    assert cloud.target.observe(endpoint).traffic == Traffic.all_to(first.name)
    cloud.target.retire(endpoint, second.name)
    assert set(cloud.target.observe(endpoint).revisions) == {first.name}
    assert len(cloud.traces(endpoint)) == 3, "a model, a configuration and the endpoint"


def test_going_back_waits_for_no_alarm_and_a_warm_version_is_back_at_once(cloud, double, live):
    endpoint, first, second = live
    cloud.target.deploy(endpoint, second)
    cloud.target.route(endpoint, forward(first, second))
    cloud.target.route(endpoint, Traffic.all_to(second.name))
    ring(double, ALARM, on=True)
    before = list(double.configs)
    cloud.target.route(endpoint, Traffic.all_to(first.name))
    assert list(double.configs) == before, "only weights were changed"
    assert cloud.target.observe(endpoint).traffic == Traffic.all_to(first.name)
    assert double.endpoints[endpoint].production[LIVE].weight == 0
    # The next change has whoever answers called `live` again.
    cloud.target.retire(endpoint, second.name)
    assert list(double.endpoints[endpoint].production) == [LIVE]
    assert {reply.status for reply in cloud.ask(endpoint, GOOD, 3)} == {200}
    cloud.target.deploy(endpoint, second)
    ring(double, ALARM, on=False)
    cloud.target.route(endpoint, forward(first, second))
    ring(double, ALARM, on=True)
    cloud.target.route(endpoint, Traffic.all_to(first.name))
    assert set(cloud.target.observe(endpoint).traffic.weights) == {first.name}, "machines were made for it"


def test_machines_that_cannot_be_had_are_no_alarm(cloud, double, live):
    endpoint, first, second = live
    cloud.target.deploy(endpoint, second)
    with ThreadPoolExecutor() as pool:
        # The change before SageMaker shifts takes machines away, the next one wants some.
        double.faults.plan("update_endpoint", Fault.BROKEN, times=99)
        with pytest.raises(TargetUnavailableError):
            pool.submit(cloud.target.route, endpoint, forward(first, second)).result()
    double.faults.clear()
    double.capacity = False
    with pytest.raises(RevisionFailedError, match="InsufficientInstanceCapacity"):
        cloud.target.route(endpoint, forward(first, second))
    assert cloud.target.observe(endpoint).traffic == Traffic.all_to(first.name)


@pytest.mark.parametrize("kill", [Kill("update_endpoint", count) for count in (1, 2, 3)], ids=str)
def test_a_process_that_dies_between_the_changes_is_followed_by_one_that_finishes(cloud, double, live, kill):
    endpoint, first, second = live
    cloud.target.deploy(endpoint, second)
    wanted = forward(first, second)
    die(cloud, kill, lambda target: target.route(endpoint, wanted))
    cloud.again().route(endpoint, wanted)
    state = cloud.target.observe(endpoint)
    assert state.traffic == wanted
    assert state.revisions[second.name].ready


def test_who_died_while_sagemaker_shifts_is_followed_by_one_that_takes_it_back(cloud, double, live):
    endpoint, first, second = live
    cloud.target.deploy(endpoint, second)
    die(cloud, Kill("update_endpoint", 2), lambda target: target.route(endpoint, forward(first, second)))
    ring(double, ALARM, on=True)
    cloud.again().route(endpoint, Traffic.all_to(first.name))
    cloud.again().retire(endpoint, second.name)
    state = cloud.target.observe(endpoint)
    assert (set(state.revisions), state.traffic) == ({first.name}, Traffic.all_to(first.name))


def test_what_was_taken_back_is_not_shifted_again_by_who_did_not_see_it(cloud, double, live):
    endpoint, first, second = live
    cloud.target.deploy(endpoint, second)
    ring(double, ALARM, on=True)
    die(cloud, Kill("update_endpoint", 2), lambda target: target.route(endpoint, forward(first, second)))
    with pytest.raises(RolledBackError, match=ALARM):
        cloud.again().route(endpoint, forward(first, second))
    changes = [call for call in double.faults.calls if not call.startswith("describe")]
    # One for the candidate, and the two of the first attempt.
    assert changes.count("update_endpoint") == 3, changes


def test_a_version_that_gets_copies_has_as_many_machines_as_it_had_with_clients(cloud, double, live):
    endpoint, first, second = live
    double.endpoints[endpoint].production[LIVE].count = 3
    cloud.target.deploy(endpoint, second)
    cloud.target.route(endpoint, forward(first, second))
    known = double.endpoints[endpoint]
    assert (known.production[LIVE].count, known.shadow[first.name].count) == (3, 3)


def test_live_traffic_is_not_split_by_us(cloud, double, live):
    endpoint, first, second = live
    cloud.target.deploy(endpoint, second)
    with pytest.raises(TargetError, match=r"strategy\.kind: blue-green"):
        cloud.target.route(endpoint, Traffic.split(first.name, second.name, 500))


def test_an_alarm_that_is_not_there_is_missed_before_a_release(cloud, double):
    double.client("cloudwatch").delete_alarms(AlarmNames=[ALARM])
    (missing,) = cloud.target.preflight()
    assert (missing.subject, missing.severity) == ("target.alarms", "error")
    assert ALARM in missing.problem


def test_the_alarms_that_ring_are_told_with_the_reason(cloud, double):
    assert cloud.target.alarms() == []
    ring(double, ALARM, on=True)
    (alarm,) = cloud.target.alarms()
    assert (alarm.name, alarm.reason) == (ALARM, "the test says so")
    assert abs(datetime.now(UTC) - alarm.since) < timedelta(minutes=1)


@pytest.mark.parametrize(("given", "said"), [
    ({"size": "60%"}, "1% to 50%"), ({"kind": "linear", "size": "5%"}, "10% to 50%"),
    ({"size": "2.5%"}, "whole number"), ({"wait": "2h"}, "at most 1h"),
    ({"kind": "linear", "size": "10%", "wait": "1h"}, "all waits together 7h"),
])  # fmt: skip
def test_what_sagemaker_does_not_take_is_said(given, said):
    with pytest.raises(ValueError, match=said):
        settings(**given)


def test_machines_on_which_guardrails_do_not_act_are_refused():
    with pytest.raises(ValueError, match=r"ml\.inf1"):
        SageMakerSettings.model_validate({**settings().model_dump(), "instance": "ml.inf1.xlarge"})


def test_guardrails_without_alarms_are_refused():
    with pytest.raises(ValueError, match="takes nothing back without alarms"):
        SageMakerSettings.model_validate({**settings().model_dump(), "alarms": []})


def test_only_a_file_that_asks_for_it_gets_it(cloud):
    assert isinstance(cloud.target, GuardedTarget)
    assert type(open_target(cloud._settings)).__name__ == "SageMakerTarget"
