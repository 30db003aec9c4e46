"""What release.yaml says of Vertex AI beside `kind`. Loads no SDK."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from headgate.target_settings import Target


class VertexSettings(Target):
    """A project's Vertex AI, and how its endpoints are made there."""

    kind: Literal["vertex"]
    captures: str = Field(
        pattern=r"^bq://[a-z0-9-]+\.\w+\.\w+$",
        description="The BigQuery table that requests and answers are written to, as bq://project.dataset.table.",
    )
    project: str = Field("", description="Default: GOOGLE_CLOUD_PROJECT, or that of the credentials.")
    location: str = Field(
        "us-central1", pattern=r"^[a-z]+-[a-z]+\d+$", description="The region of endpoints, models and images."
    )
    machine: str = Field("n1-standard-2", pattern=r"^[a-z0-9]+-[a-z0-9-]+$", description="The type of each machine.")
    accelerator: str = Field(
        "", pattern=r"^([A-Z0-9_]+)?$", description="Of each machine, such as NVIDIA_L4; default: none."
    )
    accelerators: int = Field(1, ge=1, le=16, description="How many of them a machine has.")
    cpu_target: int = Field(
        60, ge=1, le=100, description="Percent that the number of machines follows, where replicas.max is above min."
    )
    service_account: str = Field("", description="Whose rights the containers have; default: none of the project's.")
    dedicated: bool = Field(
        default=False, description="An endpoint with a name and network of its own: larger bodies, longer requests."
    )
    private_to: tuple[str, ...] = Field(
        (), description="Refused: a release cannot ask an endpoint behind Private Service Connect. Leave it out."
    )
    kms_key: str = Field("", description="Encrypts models and endpoints; default: Google's own keys.")
    labels: dict[str, str] = Field(default_factory=dict, description="On everything that is made, for bills.")

    @model_validator(mode="after")
    def _one_way_in(self) -> VertexSettings:
        if self.dedicated and self.private_to:
            raise ValueError("an endpoint is dedicated or private, not both")
        return self
