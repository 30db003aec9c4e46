"""What release.yaml says of SageMaker beside `kind`. Loads no SDK."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from headgate.target_settings import Target


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
        600.0, gt=0, description="A minute, that the number of machines follows, where replicas.max is above min."
    )
    region: str = Field("", description="Default: that of AWS_REGION, AWS_DEFAULT_REGION or the profile.")
    subnets: tuple[str, ...] = Field(
        (), description="Of a VPC in which the containers are; default: AWS's own network."
    )
    security_groups: tuple[str, ...] = Field((), description="Theirs in that VPC.")
    isolated: bool = Field(default=False, description="Containers reach nothing, AWS included.")
    kms_key: str = Field("", description="Encrypts the machines' disks and the captures; default: AWS's own keys.")
    tags: dict[str, str] = Field(default_factory=dict, description="On everything that is made, for bills.")

    @model_validator(mode="after")
    def _whole_network(self) -> SageMakerSettings:
        if bool(self.subnets) != bool(self.security_groups):
            raise ValueError("subnets and security_groups go together")
        return self
