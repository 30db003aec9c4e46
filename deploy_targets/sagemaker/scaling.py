"""Machines, or copies, that follow the load: Application Auto Scaling of a variant or of an inference component.

What leaves its endpoint must not be scaled any more, and what comes back has to be again. Sources:
https://docs.aws.amazon.com/sagemaker/latest/dg/endpoint-auto-scaling.html,
https://docs.aws.amazon.com/sagemaker/latest/dg/endpoint-auto-scaling-zero-instances.html (from none to one)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deploy_targets.sagemaker.aws import Aws

Bounds = tuple[int, int]
"""The least and the most machines, or copies."""

_SERVICE, _SCALER = "sagemaker", "application-autoscaling"
_POLICY, _WAKING = "headgate", "headgate-wake"
_WAKE_SECONDS = 60
"""Between two steps up from none; the shortest period of a metric that CloudWatch keeps by itself."""


class Scaling:
    """The scaled variants of one endpoint.

    Args:
        aws: the account.
        endpoint: whose.
        invocations: a minute, of each machine, that the number of machines is to come to.
    """

    DIMENSION: ClassVar[str] = "sagemaker:variant:DesiredInstanceCount"
    METRIC: ClassVar[str] = "SageMakerVariantInvocationsPerInstance"

    def __init__(self, aws: Aws, endpoint: str, invocations: float) -> None:
        self._aws, self._endpoint, self._invocations = aws, endpoint, invocations

    def begin(self, scaled: Mapping[str, Bounds]) -> None:
        """Scale those that are not scaled yet."""
        if not scaled:
            return
        known = self._aws.pages(
            _SCALER, "describe_scalable_targets", "ScalableTargets", ServiceNamespace=_SERVICE,
            ResourceIds=[self._resource(name) for name in scaled],
        )  # fmt: skip
        there = {(found["ResourceId"], found["MinCapacity"], found["MaxCapacity"]) for found in known}
        for name, (least, most) in scaled.items():
            # Whoever began it may have died before the policy was there.
            if (self._resource(name), least, most) not in there or not self._is_followed(name, least):
                self._aws.call(
                    _SCALER, "register_scalable_target", **self._named(name), MinCapacity=least, MaxCapacity=most
                )
                self._follow(name, least)

    def end(self, name: str) -> None:
        """Leave what is scaled as large as it is; its policies go with it."""
        self._aws.find(_SCALER, "deregister_scalable_target", **self._named(name))

    def _follow(self, name: str, _least: int) -> None:
        self._aws.call(
            _SCALER, "put_scaling_policy", **self._named(name), PolicyName=_POLICY,
            PolicyType="TargetTrackingScaling",
            TargetTrackingScalingPolicyConfiguration={
                "TargetValue": self._invocations,
                "PredefinedMetricSpecification": {"PredefinedMetricType": self.METRIC},
            },
        )  # fmt: skip

    def _is_followed(self, name: str, _least: int) -> bool:
        return _POLICY in self._policies(name)

    def _policies(self, name: str) -> set[str]:
        listed = self._aws.pages(
            _SCALER, "describe_scaling_policies", "ScalingPolicies", ServiceNamespace=_SERVICE,
            ResourceId=self._resource(name),
        )  # fmt: skip
        return {found["PolicyName"] for found in listed}

    def _named(self, name: str) -> dict[str, str]:
        return {
            "ServiceNamespace": _SERVICE, "ResourceId": self._resource(name), "ScalableDimension": self.DIMENSION,
        }  # fmt: skip

    def _resource(self, name: str) -> str:
        return f"endpoint/{self._endpoint}/variant/{name}"


class ComponentScaling(Scaling):
    """The same of inference components, also from none to one, by an alarm of requests that found none."""

    DIMENSION: ClassVar[str] = "sagemaker:inference-component:DesiredCopyCount"
    METRIC: ClassVar[str] = "SageMakerInferenceComponentInvocationsPerCopy"

    def end(self, name: str) -> None:
        """Leave what is scaled as large as it is; its policies go with it, and the alarm."""
        super().end(name)
        if self._is_woken(name):
            self._aws.call("cloudwatch", "delete_alarms", AlarmNames=[_alarm(name)])

    def _follow(self, name: str, least: int) -> None:
        super()._follow(name, least)
        if least:
            return
        made = self._aws.call(
            _SCALER, "put_scaling_policy", **self._named(name), PolicyName=_WAKING, PolicyType="StepScaling",
            StepScalingPolicyConfiguration={
                "AdjustmentType": "ChangeInCapacity", "MetricAggregationType": "Maximum", "Cooldown": _WAKE_SECONDS,
                "StepAdjustments": [{"MetricIntervalLowerBound": 0, "ScalingAdjustment": 1}],
            },
        )  # fmt: skip
        self._aws.call(
            "cloudwatch", "put_metric_alarm", AlarmName=_alarm(name), AlarmActions=[made["PolicyARN"]],
            Namespace="AWS/SageMaker", MetricName="NoCapacityInvocationFailures", Statistic="Maximum",
            Dimensions=[{"Name": "InferenceComponentName", "Value": name}], Period=_WAKE_SECONDS,
            EvaluationPeriods=1, DatapointsToAlarm=1, Threshold=1, TreatMissingData="missing",
            ComparisonOperator="GreaterThanOrEqualToThreshold",
        )  # fmt: skip

    def _is_followed(self, name: str, least: int) -> bool:
        return self._is_woken(name) if not least else super()._is_followed(name, least)

    def _is_woken(self, name: str) -> bool:
        known = self._aws.pages("cloudwatch", "describe_alarms", "MetricAlarms", AlarmNames=[_alarm(name)])
        return any(known)

    def _resource(self, name: str) -> str:
        return f"inference-component/{name}"


def _alarm(component: str) -> str:
    return f"{_WAKING}-{component}"
