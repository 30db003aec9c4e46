"""Machines that follow the load: Application Auto Scaling on a variant.

A variant that leaves its endpoint must not be scaled any more, and one that comes back has to be again.
Source: https://docs.aws.amazon.com/sagemaker/latest/dg/endpoint-auto-scaling.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deploy_targets.sagemaker.aws import Aws

Bounds = tuple[int, int]
"""The least and the most machines."""

_SERVICE, _DIMENSION = "sagemaker", "sagemaker:variant:DesiredInstanceCount"
_POLICY = "headgate"


class Scaling:
    """The scaled variants of one endpoint.

    Args:
        aws: the account.
        endpoint: whose.
        invocations: a minute, of each machine, that the number of machines is to come to.
    """

    def __init__(self, aws: Aws, endpoint: str, invocations: float) -> None:
        self._aws, self._endpoint, self._invocations = aws, endpoint, invocations

    def begin(self, variants: Mapping[str, Bounds]) -> None:
        """Scale those variants that are not scaled yet."""
        if not variants:
            return
        known = self._aws.pages(
            "application-autoscaling", "describe_scalable_targets", "ScalableTargets", ServiceNamespace=_SERVICE,
            ResourceIds=[self._resource(name) for name in variants],
        )  # fmt: skip
        there = {(found["ResourceId"], found["MinCapacity"], found["MaxCapacity"]) for found in known}
        for name, (least, most) in variants.items():
            if (self._resource(name), least, most) in there:
                continue
            named = {
                "ServiceNamespace": _SERVICE, "ResourceId": self._resource(name), "ScalableDimension": _DIMENSION,
            }  # fmt: skip
            self._aws.call(
                "application-autoscaling", "register_scalable_target", **named, MinCapacity=least, MaxCapacity=most
            )
            self._aws.call(
                "application-autoscaling", "put_scaling_policy", **named, PolicyName=_POLICY,
                PolicyType="TargetTrackingScaling",
                TargetTrackingScalingPolicyConfiguration={
                    "TargetValue": self._invocations,
                    "PredefinedMetricSpecification": {
                        "PredefinedMetricType": "SageMakerVariantInvocationsPerInstance",
                    },
                },
            )  # fmt: skip

    def end(self, variant: str) -> None:
        """Leave a variant's machines as many as they are; its policy goes with it."""
        self._aws.find(
            "application-autoscaling", "deregister_scalable_target", ServiceNamespace=_SERVICE,
            ResourceId=self._resource(variant), ScalableDimension=_DIMENSION,
        )  # fmt: skip

    def _resource(self, variant: str) -> str:
        return f"endpoint/{self._endpoint}/variant/{variant}"
