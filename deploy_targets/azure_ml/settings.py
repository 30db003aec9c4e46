"""What release.yaml says of Azure ML beside `kind`. Loads no SDK."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from headgate.target_settings import Target


class AzureMlSettings(Target):
    """A workspace, and how its endpoints are made there."""

    kind: Literal["azure-ml"]
    subscription: str = Field(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$", description="The id of it.")
    group: str = Field(pattern=r"^[\w.()-]{1,90}$", description="The resource group of the workspace.")
    workspace: str = Field(pattern=r"^[\w-]{2,33}$", description="The workspace's name.")
    machine: str = Field("Standard_DS3_v2", pattern=r"^\w+$", description="The size of each machine.")
    concurrency: int = Field(64, ge=1, description="Requests that a machine has at a time; Azure's own default is 1.")
    cpu_target: int = Field(
        60, ge=1, le=100, description="Percent that the number of machines follows, where replicas.max is above min."
    )
    identity: str = Field("", description="A user-assigned identity's id, which pulls images; default: one of its own.")
    storage: str = Field(
        "",
        pattern=r"^(https://\S+)?$",
        description="Where the account of the workspace's storage is reached; default: by its own name.",
    )
    private: bool = Field(default=False, description="Reached through the workspace's private endpoint only.")
    tags: dict[str, str] = Field(default_factory=dict, description="On everything that is made, for bills.")
