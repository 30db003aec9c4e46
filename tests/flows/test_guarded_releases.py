"""Whole releases where SageMaker's own guardrails shift live traffic, and its alarms take a version back."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from conftest import WIDE, in_background
from support.oci_registry import REGISTRY
from support.sagemaker_guardrails import ring
from support.stack import wait_for

from deploy_targets.sagemaker.guarded import LIVE
from flows.monitor import monitor
from headgate.errors import MonitorError, RolledBackError
from headgate.phases import Outcome
from headgate.release_file import parse_release

if REGISTRY is None:
    pytest.skip("no docker-registry on this machine", allow_module_level=True)

ALARM = "too-many-failures"
GREEN = (
    "strategy: {kind: blue-green, min_requests: 60, min_duration: 2s}\n"
    "gates: {shadow: {min_requests: 40, max_duration: 30s, max_disagreement: 20%}}\n"
    "rollback: {on: [errors, alarms]}\nmonitor: {min_rows: 10}\n"
)


@pytest.fixture
def cloud(in_cloud, monkeypatch, aws):
    # CloudWatch's minute, and its delay.
    monkeypatch.setattr("deploy_targets.sagemaker.evidence.next_minute", lambda: datetime.now(UTC))
    monkeypatch.setattr("tasks.alarms._LATE", timedelta())
    ring(aws.double, ALARM, on=False)
    guardrails = {"kind": "linear", "size": "50%", "wait": "5m"}
    with in_cloud(aws, alarms=[ALARM], native_guardrails=guardrails) as world:
        world.more = GREEN + WIDE + world.more
        yield world


def test_sagemaker_shifts_and_its_alarms_take_back_during_the_shift_and_after(cloud, models, aws):
    def release(does):
        return cloud.release(models("pyfunc", does=does), cloud.more)

    release("double")
    with cloud.traffic(rate=40) as client:
        wait_for(lambda: client.total > 20)
        with in_background(release, "negative") as going_on:
            assert going_on.result().outcome is Outcome.PROMOTED
        assert aws.double.faults.calls.count("update_endpoint_weights_and_capacities") == 0, "it was not us"
        cloud.assert_only(2)
        with aws.double.steps.held(), in_background(release, "quadruple") as going_on:
            wait_for(lambda: aws.double.endpoints[cloud.endpoint].production[LIVE].taking_over is not None, 240)
            ring(aws.double, ALARM, on=True)
            with pytest.raises(RolledBackError, match=ALARM):
                going_on.result()
        cloud.assert_only(2)
        spec = parse_release(cloud.text("runs:/1/model", cloud.more))
        with pytest.raises(MonitorError, match="reference"):
            # The alarm is of the version that was tried; so drift is looked for, and nothing is known to compare with.
            asyncio.run(monitor(spec))
        cloud.assert_only(2)
        ring(aws.double, ALARM, on=False)
        ring(aws.double, ALARM, on=True)
        report = asyncio.run(monitor(spec))
        assert report.causes == ("alarms",)
        assert ALARM in report.reason
        cloud.assert_only(1)
        assert cloud.live == 1
    failed = {name: counter["failed"] for name, counter in client.by_revision.items() if counter["failed"]}
    assert not failed
