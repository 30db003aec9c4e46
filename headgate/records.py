"""The records that a release passes from step to step: frozen, and JSON both ways.

    Artifact → Image → ModelVersion → Revision → ShadowReport → Rollout → HealthReport

Times are UTC, lengths of time are seconds, traffic is basis points, rates are fractions.
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_serializer, field_validator, model_validator

from headgate import sealed
from headgate.gateway_limits import EndpointLimits
from headgate.phases import Outcome
from headgate.units import BASIS_POINTS


class Record(BaseModel):
    """A frozen value that serialises to JSON and back without loss."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Artifact(Record):
    """A trained model on this machine, in MLflow's model format.

    Attributes:
        uri: where it came from, as the release file names it.
        path: the folder that holds `MLmodel`.
        run_id: the MLflow run that logged it, where there is one.
        requirements: the model's own package requirements, as pip writes them.
        python: the Python version that trained it, such as `3.11`.
        has_example: whether an input example was logged with it.
    """

    uri: str
    path: Path
    run_id: str | None
    flavors: tuple[str, ...]
    requirements: tuple[str, ...]
    python: str
    has_example: bool

    @property
    def is_download(self) -> bool:
        """Whether the folder was fetched from somewhere, and is ours."""
        return ":/" in self.uri


class Image(Record):
    """A model with its server and its locked requirements, addressed by its content.

    Attributes:
        digest: what it is known by, such as `sha256:ab…`: of a bundle, over every file; in a registry, of the manifest;
            in a Docker daemon, the image's id.
        lock_digest: sha256 of the locked requirements; revisions with the same lock share an environment.
        path: a folder of this machine with the bundle, of which a container's image needs the small files only.
        interpreter: the environment's Python; None where containers run.
        size: bytes of the model's files.
        reference: what a container platform runs, always by digest; empty where processes run.
        server: the package in the bundle or the image that serves the model: `python -m <server>`. Records of before
            `headgate_server` have none: what was packaged then holds `serving`. What starts a server, or a part of
            one, takes the name from here.
    """

    digest: str
    lock_digest: str
    path: Path
    interpreter: Path | None
    size: int
    reference: str = ""
    server: str = "serving"


class Resources(Record):
    """What one replica may use; None is no limit.

    Attributes:
        cpu: cores.
        memory: bytes.
        gpu: whole devices.
    """

    cpu: float | None = None
    memory: int | None = None
    gpu: int = 0


class ModelVersion(Record):
    """A version in MLflow's registry."""

    name: str
    version: int
    digest: str
    run_id: str | None = None

    def __str__(self) -> str:
        return f"{self.name}@v{self.version}"


class Revision(Record):
    """One immutable thing behind an endpoint: a model version, its image and its resources.

    Attributes:
        env: variables of the server; their values are sealed in all that is written (headgate/sealed.py).
        secrets: variables of the server, with references in place of values (headgate/references.py).
        workers: server processes, or machines of a cloud.
        most_workers: how many there may be where their number follows the load; 0 where it does not.
        limits: of the gateway; they are not in the name, so another limit makes no other server.
    """

    name: str
    version: ModelVersion
    image: Image
    env: dict[str, str] = Field(default_factory=dict)
    secrets: dict[str, str] = Field(default_factory=dict)
    workers: int = 1
    most_workers: int = 0
    resources: Resources = Resources()
    keep_image: bool = True
    ready_timeout: float = 300.0
    limits: EndpointLimits = EndpointLimits()

    @classmethod
    def of(  # noqa: PLR0913 - each is a part of what a revision is
        cls, version: ModelVersion, image: Image, *, env: dict[str, str], workers: int, ready_timeout: float,
        resources: Resources | None = None, keep_image: bool = True, most_workers: int = 0,
        secrets: dict[str, str] | None = None,
    ) -> Revision:  # fmt: skip
        """Name a revision after what it is, so that the same inputs are the same revision.

        Values of `env` are in the name as they are sealed: a name that followed from the values alone would tell
        anybody whether a guess at one is right.
        """
        resources = resources or Resources()
        limits = resources.model_dump(exclude_defaults=True)
        most_workers = most_workers if most_workers > workers else 0
        # What is not asked for is not in the name: revisions of before keep theirs.
        told = [*([limits] if limits else []), *([{"most": most_workers}] if most_workers else []),
                *([{"secrets": secrets}] if secrets else [])]  # fmt: skip
        content = json.dumps([image.digest, sealed.seal(env), workers, *told], sort_keys=True)
        name = f"v{version.version}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"
        return cls(
            name=name, version=version, image=image, env=env, secrets=secrets or {}, workers=workers,
            most_workers=most_workers, resources=resources,
            keep_image=keep_image, ready_timeout=ready_timeout,
        )  # fmt: skip

    @field_validator("env")
    @classmethod
    def _opened(cls, env: dict[str, str]) -> dict[str, str]:
        return sealed.unseal(env)

    @field_serializer("env")
    def _without_values(self, env: dict[str, str]) -> dict[str, str]:
        return sealed.seal(env)


class Mirror(Record):
    """Copies of live requests that go to `revision`; no client sees its answers."""

    revision: str
    share: int = Field(gt=0, le=BASIS_POINTS)


class Traffic(Record):
    """Who answers an endpoint's requests.

    Attributes:
        weights: basis points per revision that has any; they sum to 10,000.
        mirror: the revision that receives copies, if any.
    """

    weights: dict[str, int]
    mirror: Mirror | None = None

    @field_validator("weights")
    @classmethod
    def _without_zeros(cls, weights: dict[str, int]) -> dict[str, int]:
        """Platforms differ in whether they tell of those that get nothing."""
        return {name: weight for name, weight in weights.items() if weight}

    @model_validator(mode="after")
    def _sums_to_all(self) -> Traffic:
        if any(weight < 0 for weight in self.weights.values()):
            raise ValueError(f"weights are not negative: {self.weights}")
        total = sum(self.weights.values())
        if total != BASIS_POINTS:
            raise ValueError(f"weights sum to {BASIS_POINTS} basis points, not {total}: {self.weights}")
        return self

    @classmethod
    def all_to(cls, revision: str, mirror: Mirror | None = None) -> Traffic:
        """All traffic to one revision."""
        return cls(weights={revision: BASIS_POINTS}, mirror=mirror)

    @classmethod
    def split(cls, stable: str, canary: str, share: int) -> Traffic:
        """`share` basis points to the canary, the rest to the stable revision."""
        return cls(weights={stable: BASIS_POINTS - share, canary: share})

    def weight(self, revision: str) -> int:
        """Basis points of live traffic that a revision has."""
        return self.weights.get(revision, 0)

    @property
    def holder(self) -> str | None:
        """The revision with all traffic, if one has it."""
        return next((name for name, weight in self.weights.items() if weight == BASIS_POINTS), None)

    def uses(self, revision: str) -> bool:
        """Whether a revision receives live or mirrored requests."""
        return self.weight(revision) > 0 or (self.mirror is not None and self.mirror.revision == revision)


class RevisionState(Record):
    """What the target says about one revision."""

    name: str
    ready: bool
    detail: str = ""
    version: ModelVersion | None = None
    address: str = ""


class EndpointState(Record):
    """What the target says about an endpoint, read from the platform and never from memory."""

    endpoint: str
    url: str
    revisions: dict[str, RevisionState]
    traffic: Traffic | None


class Usage(Record):
    """What servers use; one that was started again has another name.

    Attributes:
        memory: bytes of the server with most; None where the platform does not say bytes.
        cpu: seconds of all of them since they started; None where the platform has no such counter.
        servers: their names; none where the platform does not say when one is started again.
        memory_part: of the server with most, as a part of what it was given, such as its machine's; None where the
            platform says bytes, or nothing.
        at: the minute of the reading, where the platform measures by itself and says it late; None where it was
            measured when it was asked for.
    """

    memory: int | None = Field(ge=0)
    cpu: float | None
    servers: tuple[str, ...]
    memory_part: float | None = Field(None, ge=0, allow_inf_nan=False)
    at: datetime | None = None


class Alarm(Record):
    """An alarm of a platform that rings; `since` when, and why as the platform says."""

    name: str
    since: datetime
    reason: str


class Window(Record):
    """A span of time, from `start` up to but without `end`."""

    start: datetime
    end: datetime


EXAMPLE_FILES = ("serving_input_example.json", "serving_input_payload.json")
"""What MLflow, and MLflow before 2.20, call the file of a model with a request's body from its input example."""


class Payload(Record):
    """One request body, as the container contract takes it."""

    body: bytes
    content_type: str = "application/json"


class Prediction(Record):
    """One answer of a revision."""

    status: int
    body: bytes
    request_id: str
    seconds: float


class Event(Record):
    """One line of a history, for people."""

    at: datetime
    what: str
    actor: str
    reason: str


class ReleaseResult(Record):
    """How a release ended."""

    release_id: str
    endpoint: str
    outcome: Outcome
    reason: str
    version: int | None = None
    champion: int | None = None
    url: str = ""
    report: str = ""
    seconds: float = 0.0
    waited: float = 0.0
    details: dict[str, Any] = Field(default_factory=dict)
