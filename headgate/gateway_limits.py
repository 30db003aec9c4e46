"""What the gateway lets through to an endpoint: `gateway` of release.yaml, and the record that targets get."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, field_validator

from headgate.operating import Strict
from headgate.units import Duration, bytes_of, format_duration

if TYPE_CHECKING:
    from collections.abc import Iterable

MOST_BODY = 64 * 2**20
"""Bytes that a server takes (headgate_server/bodies.py, MAX_BODY): what it refuses would count as its failure."""
MOST_REQUEST_SECONDS = 3600.0


class EndpointLimits(BaseModel):
    """What the gateway lets through to one version of an endpoint.

    Attributes:
        body: bytes of a request's body.
        requests: requests that one gateway sends to the version at a time.
        pending: requests that wait at the gateway for one of those; more are refused.
        request: seconds from a request's last byte to the end of its answer.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    body: int = Field(16 * 2**20, ge=1)
    requests: int = Field(500, ge=1)
    pending: int = Field(500, ge=1)
    request: float = Field(60.0, gt=0)


def widest(some: Iterable[EndpointLimits]) -> EndpointLimits:
    """Return the widest of each limit; the defaults where there is none.

    While two versions answer an endpoint, no client is refused what one of them takes, and a step changes nothing.
    """
    found = list(some)
    if not found:
        return EndpointLimits()
    fields = EndpointLimits.model_fields
    return EndpointLimits.model_validate({name: max(getattr(one, name) for one in found) for name in fields})


class GatewayLimits(Strict):
    """How large and how many requests may be; the gateway refuses more, and the version is not blamed for it."""

    body: str = Field(
        "16Mi",
        pattern=r"^[1-9][0-9]{0,8}(Ki|Mi)$",
        description="Of a request, such as 512Ki; at most 64Mi. Larger: 413.",
    )
    requests: int = Field(
        500, ge=1, le=100_000, description="At a version's servers at a time, for each gateway; more wait."
    )
    pending: int = Field(500, ge=1, le=100_000, description="That wait for a version's servers. More: 503.")

    @field_validator("body")
    @classmethod
    def _servers_take_it(cls, body: str) -> str:
        if bytes_of(body) > MOST_BODY:
            raise ValueError("at most 64Mi, which is what a model's server takes")
        return body


class GatewayTimeouts(Strict):
    """How long requests may take at the gateway."""

    request: Duration = Field(60.0, description="From a request's last byte to the end of its answer; at most 1h.")

    @field_validator("request")
    @classmethod
    def _is_some_time(cls, seconds: float) -> float:
        if not 0.001 <= seconds <= MOST_REQUEST_SECONDS:  # noqa: PLR2004 - Envoy counts milliseconds
            raise ValueError(f"between 1ms and {format_duration(MOST_REQUEST_SECONDS)}")
        return seconds


class GatewaySettings(Strict):
    """What Headgate's own gateway lets through; a cloud's gateway has limits of its own."""

    limits: GatewayLimits = GatewayLimits()
    timeouts: GatewayTimeouts = GatewayTimeouts()

    @property
    def env(self) -> dict[str, str]:
        """Return the server's variables: its deadline, where the gateway waits for longer than a minute.

        The server keeps its own minute where the gateway waits for less, as replacing a worker costs a model's load.
        """
        seconds = self.timeouts.request
        return {"HEADGATE_DEADLINE": f"{seconds:g}"} if seconds > EndpointLimits().request else {}

    @property
    def record(self) -> EndpointLimits:
        """As targets get it."""
        limits = self.limits
        return EndpointLimits(
            body=bytes_of(limits.body), requests=limits.requests, pending=limits.pending, request=self.timeouts.request
        )
