"""What release.yaml says of SageMaker beside `kind`. Loads no SDK."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator

from headgate.operating import Strict
from headgate.target_settings import Target
from headgate.units import Duration, Percent

_SIZES = {"canary": (0.01, 0.5), "linear": (0.1, 0.5)}
"""By API_TrafficRoutingConfig.html: at most half at once, and of a linear shift at least a tenth."""
_LONGEST_WAIT, _LONGEST_SHIFT = 3600.0, 25200.0


class NativeGuardrails(Strict):
    """SageMaker's own shift to the new version, which the target's alarms take back."""

    kind: Literal["canary", "linear"] = Field("canary", description="Two steps, or as many as `size` makes.")
    size: Percent = Field(0.1, description="Of the machines that take over in one step.")
    wait: Duration = Field(600.0, description="After each step, while the alarms are watched; at most an hour.")

    @property
    def seconds(self) -> float:
        """How long all waits together are."""
        return self.wait * (1 if self.kind == "canary" else math.ceil(1 / self.size))

    @model_validator(mode="after")
    def _within_sagemakers_limits(self) -> NativeGuardrails:
        least, most = _SIZES[self.kind]
        if not least <= self.size <= most or round(self.size * 100, 6) % 1:
            raise ValueError(f"size of a {self.kind} shift is a whole number of percent, {least:.0%} to {most:.0%}")
        if self.wait > _LONGEST_WAIT or self.seconds > _LONGEST_SHIFT:
            raise ValueError("wait is at most 1h, and all waits together 7h, which is all that SageMaker takes")
        return self


class InferenceComponents(Strict):
    """Copies of containers that machines are found for, down to none of either."""

    machines: int = Field(
        2, ge=1, description="How many there may be at most, for the copies of all versions; as many as those need."
    )
    batch: Percent = Field(0.5, ge=0.05, le=0.5, description="Of the live copies, that are replaced in one step.")
    wait: Duration = Field(60.0, le=_LONGEST_WAIT, description="After each step, while the alarms are watched.")

    @model_validator(mode="after")
    def _whole_percents(self) -> InferenceComponents:
        if round(self.batch * 100, 6) % 1:
            raise ValueError("batch is a whole number of percent, 5% to 50%, which is all that SageMaker takes")
        if self.wait * math.ceil(1 / self.batch) > _LONGEST_SHIFT:
            raise ValueError("all waits together are at most 7h, which is all that SageMaker takes")
        return self


class SageMakerSettings(Target):
    """An account's SageMaker, and how its endpoints are made there."""

    kind: Literal["sagemaker"]
    role: str = Field(
        pattern=r"^arn:aws[a-z-]*:iam::\d{12}:role/.+$",
        description="What the endpoint may do: read its image, write its log, metrics and captures.",
    )
    captures: str = Field(
        pattern=r"^s3://[a-z0-9.-]{3,63}(/[\w.=/-]*[\w.=-])?$",
        description="Where SageMaker writes requests and answers, such as s3://bucket/captures.",
    )
    instance: str = Field(
        "ml.m5.large", pattern=r"^ml\.[a-z0-9-]+\.[a-z0-9]+$", description="The type of each machine."
    )
    invocations_per_instance: float = Field(
        600.0,
        gt=0,
        description="A minute, that the number of machines, or copies, follows, where replicas.max is above min.",
    )
    region: str = Field("", description="Default: that of AWS_REGION, AWS_DEFAULT_REGION or the profile.")
    subnets: tuple[str, ...] = Field(
        (), description="Of a VPC in which the containers are; default: AWS's own network."
    )
    security_groups: tuple[str, ...] = Field((), description="Theirs in that VPC.")
    isolated: bool = Field(default=False, description="Containers reach nothing, AWS included.")
    kms_key: str = Field("", description="Encrypts the machines' disks and the captures; default: AWS's own keys.")
    alarms: tuple[str, ...] = Field(
        (), max_length=10,
        description="CloudWatch alarms of the endpoint that take a new version back: by SageMaker while it shifts, and "
        "by the monitor after, where rollback.on has alarms.",
    )  # fmt: skip
    native_guardrails: NativeGuardrails | None = Field(
        default=None, description="Have SageMaker shift live traffic, and its alarms take it back."
    )
    inference_components: InferenceComponents | None = Field(
        default=None, description="Host on inference components, which scale to zero and share machines."
    )
    tags: dict[str, str] = Field(default_factory=dict, description="On everything that is made, for bills.")

    @model_validator(mode="after")
    def _whole_network(self) -> SageMakerSettings:
        if bool(self.subnets) != bool(self.security_groups):
            raise ValueError("subnets and security_groups go together")
        return self

    @model_validator(mode="after")
    def _one_way_of_hosting(self) -> SageMakerSettings:
        if self.inference_components is None:
            return self
        if self.native_guardrails is not None:
            raise ValueError("inference_components are updated by themselves; leave native_guardrails out")
        if self.isolated:
            raise ValueError("inference_components write their own log to captures, which isolated keeps them from")
        return self

    @model_validator(mode="after")
    def _watched(self) -> SageMakerSettings:
        if self.native_guardrails and not self.alarms:
            raise ValueError("native_guardrails takes nothing back without alarms; name some")
        if self.native_guardrails and self.instance.startswith("ml.inf1."):
            raise ValueError("native_guardrails does not act on ml.inf1 machines; take another instance")
        return self
