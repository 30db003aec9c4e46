"""What the receiver takes: the bodies of MLflow's registry, of Alertmanager and of labels, as types.

A body that does not fit is its sender's mistake, and never an error of ours: pydantic's own parser bounds the nesting,
and refuses halves of surrogate pairs and numbers without end.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

Text = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$")]
"""PostgreSQL, which journals and Prefect's servers stand on, holds no NUL."""
Name = Annotated[Text, Field(min_length=1, max_length=500)]


class _Body(BaseModel):
    """Senders add what they like; what is not known is not read."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class VersionData(_Body):
    """Which version got an alias or a tag."""

    name: Name
    version: Name | int
    alias: Text | None = None
    key: Text | None = None


class Delivery(_Body):
    """What MLflow's registry tells (mlflow/webhooks/types.py)."""

    entity: Text
    data: VersionData


class Alert(_Body):
    """One alert; `startsAt` is a key and not read as a time."""

    status: Text
    labels: dict[Text, Text]
    annotations: dict[Text, Text] = Field(default_factory=dict)
    fingerprint: Text = ""
    starts_at: Text = Field("", alias="startsAt")


class Notification(_Body):
    """What Alertmanager sends, in version 4 of its format."""

    alerts: tuple[Alert, ...]


class GivenLabels(_Body):
    """Labels of an endpoint's requests; `monitoring.truth` says what each has to have."""

    endpoint: Name
    labels: tuple[dict[Text, Text | bool | int | float | None], ...]


def why_not(error: ValidationError) -> str:
    """Say where the first mistake is, and which, without what was sent."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else str(first["msg"])
