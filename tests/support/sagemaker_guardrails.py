"""SageMaker's deployment guardrails in its double: live traffic goes over in steps, and an alarm takes it back.

By https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_BlueGreenUpdatePolicy.html and
https://docs.aws.amazon.com/sagemaker/latest/dg/deployment-guardrails-exclusions.html: where a variant's name is new,
all goes over at once and nothing is watched.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from support.sagemaker import Variant

TICK = 0.1
FASTER = 300
"""Ten minutes of waiting are two seconds here."""


class Steps:
    """How long each step of a shift lasts: its time, and as long as a test holds it to do something meanwhile."""

    def __init__(self) -> None:
        self._are_held = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Have steps end by an alarm alone."""
        self._are_held = True
        try:
            yield
        finally:
            self._are_held = False

    def last(self, alarms: Any, names: list[str], seconds: float) -> str:
        """Wait for the end of a step of so many seconds of SageMaker's; return why it is taken back, if it is."""
        deadline = time.monotonic() + seconds / FASTER
        while not (reason := ringing(alarms, names)) and (self._are_held or time.monotonic() < deadline):
            time.sleep(TICK)
        return reason


def shift_in_steps(
    steps: Steps, alarms: Any, before: Mapping[str, Variant], after: Mapping[str, Variant],
    deployment: Mapping[str, Any],
) -> str:  # fmt: skip
    """Give the new fleets their shares; why that was undone, if it was.

    Args:
        steps: how long they last.
        alarms: a client of CloudWatch.
        before: the production variants, which requests are given to until all is over.
        after: those of the new configuration.
        deployment: DeploymentConfig.
    """
    if set(before) != set(after):
        return ""
    routing = deployment["BlueGreenUpdatePolicy"]["TrafficRoutingConfiguration"]
    names = [one["AlarmName"] for one in deployment.get("AutoRollbackConfiguration", {}).get("Alarms", [])]
    reason = ""
    for share in _shares(routing):
        for name, variant in before.items():
            variant.taking_over = (after[name].machine, share)
        if reason := steps.last(alarms, names, routing["WaitIntervalInSeconds"]):
            break
    for variant in before.values():
        variant.taking_over = None
    return reason


def _shares(routing: Mapping[str, Any]) -> list[float]:
    if routing["Type"] == "CANARY":
        return [routing["CanarySize"]["Value"] / 100]
    size = routing["LinearStepSize"]["Value"]
    return [step / 100 for step in range(size, 100, size)]


def ringing(alarms: Any, names: list[str]) -> str:
    """Why an update is taken back, if one of these alarms rings."""
    known = alarms.describe_alarms(AlarmNames=names)["MetricAlarms"] if names else []
    on = sorted(one["AlarmName"] for one in known if one["StateValue"] == "ALARM")
    return f"One or more alarms were triggered during the deployment: {on}" if on else ""


def ring(double: Any, name: str, *, on: bool) -> None:
    """Have an alarm of the endpoint's failures ring, or not; it is made where there is none."""
    watch = double.client("cloudwatch")
    watch.put_metric_alarm(
        AlarmName=name, Namespace="AWS/SageMaker", MetricName="Invocation5XXErrors", Statistic="Sum", Period=60,
        EvaluationPeriods=1, Threshold=1, ComparisonOperator="GreaterThanThreshold",
    )  # fmt: skip
    watch.set_alarm_state(AlarmName=name, StateValue="ALARM" if on else "OK", StateReason="the test says so")
