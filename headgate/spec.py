"""release.yaml as types, with every default.

Only what is built is here, so that the JSON Schema never promises more; `PLANNED` names the entries of
the design that are refused until they are built. `headgate.release_file` reads the file itself.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, WithJsonSchema, field_validator, model_validator

from headgate.capture import Capture
from headgate.monitor import Monitor
from headgate.operating import Approval, Freeze, Reference, ReleaseWhen, Strict
from headgate.records import Resources
from headgate.target_settings import Target, of_its_kind
from headgate.units import BASIS_POINTS, Duration, Percent, basis_points, bytes_of, format_percent

PLANNED: dict[str, str] = {
    "gates.evaluate": "the offline evaluation gate",
}
"""Entries of the design that are refused with this name until they are built."""

PLANNED_VALUES: dict[str, frozenset[str]] = {
    "target.kind": frozenset({"cloud-run", "bedrock"}),
}
"""Values of the design that are refused until they are built."""

_ANY_TARGET: dict[str, Any] = {"type": "object", "properties": {"kind": {"type": "string"}}, "required": ["kind"]}
"""What a target is to Prefect, which checks a flow's parameters by their schema: each kind has settings of its own."""
_IMAGE_NAME = r"^[a-zA-Z0-9.-]+(:\d+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*(:[\w.-]+)?(@sha256:[0-9a-f]{64})?$"
_NAME = r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$"


class Replicas(Strict):
    """How many server processes or machines answer."""

    min: int = Field(1, ge=0, le=64, description="0: none runs while nobody asks.")
    max: int = Field(1, ge=1, le=64)

    @model_validator(mode="after")
    def _ordered(self) -> Replicas:
        if self.max < self.min:
            raise ValueError(f"max ({self.max}) is at least min ({self.min})")
        return self


def _off_is_text(value: object) -> object:
    """YAML 1.1 reads `off` as false."""
    return "off" if value is False else value


class Runtime(Strict):
    """What the model's server gets."""

    kind: Literal["mlflow"] = Field("mlflow", description="Any MLflow model flavour.")
    cpu: float | None = Field(None, gt=0, description="CPU cores; targets that limit CPU only.")
    memory: str | None = Field(
        None, pattern=r"^\d+(Mi|Gi)$", description="Such as 512Mi; targets that limit memory only."
    )
    gpu: int = Field(0, ge=0, le=64, description="Whole GPUs of each replica; container targets only.")
    replicas: Replicas = Replicas()
    env: dict[str, str] = Field(default_factory=dict, description="Environment variables of the server.")
    price_per_hour: float = Field(0.0, ge=0, description="Of one replica, in any currency, for the cost of requests.")
    ready_timeout: Duration = Field(300.0, description="How long loading may take.")

    @property
    def resources(self) -> Resources:
        """The limits of one replica."""
        memory = bytes_of(self.memory) if self.memory else None
        return Resources(cpu=self.cpu, memory=memory, gpu=self.gpu)


class ImageSettings(Strict):
    """The image that container targets run."""

    base: str = Field(
        "", description="What it stands on; default: HEADGATE_BASE_IMAGE, or python:<the model's version>-slim."
    )
    repository: str = Field(
        "", description="Where it is pushed, such as registry.example/team/wine; default: this machine's Docker."
    )
    remove_retired: bool = Field(
        default=False, description="Remove the image from this machine's Docker with the last revision that used it."
    )
    scan: Annotated[Literal["block", "warn", "off"], BeforeValidator(_off_is_text)] = Field(
        "block", description="What happens when the model's files hold code that does harm when they are loaded."
    )

    @field_validator("base", "repository")
    @classmethod
    def _is_a_name(cls, name: str) -> str:
        if name and not re.match(_IMAGE_NAME, name):
            raise ValueError("a name of an image, such as registry.example:5000/team/wine, in lower case")
        return name

    @field_validator("repository")
    @classmethod
    def _without_tag(cls, name: str) -> str:
        if "@" in name or ":" in name.rpartition("/")[2]:
            raise ValueError("without a tag or a digest: images are named by their digest")
        return name


class Smoke(Strict):
    """A few requests to the new revision before anything else."""

    examples: str = Field("input_example", description="`input_example`, or a JSON file with one request body a line.")
    max_latency: Duration = Field(5.0, description="The slowest answer that passes.")


class Shadow(Strict):
    """Mirrored live requests, compared pair by pair with the champion's answers."""

    percent: Percent = Field(1.0, description="Share of live requests that are mirrored.")
    min_requests: int = Field(500, ge=1, description="Pairs needed to pass.")
    max_duration: Duration = Field(600.0, description="How long to wait for them.")
    max_disagreement: Percent = Field(0.005, description="The largest share of differing answers that passes.")
    tolerance: float = Field(
        0.05,
        ge=0,
        description="Numbers differ when they are further apart than this share of the champion's.",
    )

    segment: str = Field(
        "", description="An input, such as region; the report then says for which of its values answers differ most."
    )

    @field_validator("percent")
    @classmethod
    def _some(cls, percent: float) -> float:
        if basis_points(percent) < 1:
            raise ValueError("at least 0.01% of requests")
        return percent


def _off(value: object) -> object:
    """`off` and `false` switch a gate off."""
    return None if value is False or value == "off" else value


class Gates(Strict):
    """What must hold before any client sees the new version."""

    smoke: Smoke = Smoke()
    shadow: Annotated[Shadow | None, BeforeValidator(_off)] = Field(
        Shadow(), description="`off` releases without a shadow comparison."
    )


class Strategy(Strict):
    """How live traffic moves.

    `min_requests` and `min_duration` are for the whole shift, and hold back promotion only. With `ramp: evidence` a
    step ends as soon as the canary is shown to be no worse, within margins that are wider where its share is smaller.
    With `ramp: schedule` the steps share the requests in proportion to their traffic, and the duration evenly.
    """

    kind: Literal["canary", "blue-green"] = "canary"
    steps: tuple[Percent, ...] = Field((0.05, 0.25, 0.5), description="The canary's shares; for canary only.")
    ramp: Literal["evidence", "schedule"] = Field("evidence", description="What ends a step.")
    min_requests: int = Field(1000, ge=0, description="Requests that the new version must have answered.")
    min_duration: Duration = Field(180.0, description="How long the shift lasts at least.")
    max_duration: Duration = Field(3600.0, description="When it is undecided by then: on_inconclusive.")
    on_inconclusive: Literal["hold", "rollback"] = "hold"

    @field_validator("steps")
    @classmethod
    def _rise(cls, steps: tuple[float, ...]) -> tuple[float, ...]:
        shares = [basis_points(step) for step in steps]
        if not shares or shares != sorted(set(shares)) or shares[0] < 1 or shares[-1] >= BASIS_POINTS:
            raise ValueError("steps rise from above 0% to below 100%, such as [5%, 25%, 50%]")
        return steps

    @model_validator(mode="after")
    def _durations_ordered(self) -> Strategy:
        if self.max_duration < self.min_duration:
            raise ValueError("max_duration is at least min_duration")
        return self

    @property
    def shares(self) -> tuple[int, ...]:
        """The canary's weight at each step, in basis points. Blue-green is one step with everything."""
        return (BASIS_POINTS,) if self.kind == "blue-green" else tuple(map(basis_points, self.steps))


def _check_limits(tolerance: float, margin: float) -> None:
    if tolerance > margin:
        raise ValueError(
            f"tolerance ({format_percent(tolerance)}) is at most margin ({format_percent(margin)}): "
            "what is no harm must be good enough to promote"
        )


class ErrorRateLimits(Strict):
    """What counts as failing more, and as failing no more."""

    tolerance: Percent = Field(0.10, description="Failing up to this share more often is not harm.")
    margin: Percent = Field(0.25, description="Promotion needs it shown that failures are not this share more often,")
    margin_points: Percent = Field(0.001, description="plus this many of all requests.")

    @model_validator(mode="after")
    def _ordered(self) -> ErrorRateLimits:
        _check_limits(self.tolerance, self.margin)
        if self.margin == 0 and self.margin_points == 0:
            raise ValueError("margin or margin_points is above 0%: that two rates are equal can never be shown")
        return self


class LatencyLimits(Strict):
    """What counts as being slower, and as being no slower; for targets that count latencies."""

    quantiles: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (0.5, 0.9, 0.99), min_length=1, description="Where promotion needs it shown that the new version is no slower."
    )
    tolerance: Percent = Field(0.044, description="Being slower by up to this share is not harm.")
    margin: Percent = Field(0.19, description="Promotion needs it shown that it is not slower by this share.")
    floor: Duration = Field(0.005, description="Differences of less than this are never counted.")

    @model_validator(mode="after")
    def _ordered(self) -> LatencyLimits:
        _check_limits(self.tolerance, self.margin)
        return self


class Judge(Strict):
    """How sure the judge must be, and of what."""

    false_rollback: Percent = Field(
        0.01, description="The chance of taking back a version that is no worse, for the whole release."
    )
    false_promotion: Percent = Field(
        0.05, description="The chance of promoting a version that is worse by the margin or more."
    )
    error_rate: ErrorRateLimits = ErrorRateLimits()
    latency: LatencyLimits = LatencyLimits()

    @field_validator("false_rollback", "false_promotion")
    @classmethod
    def _positive(cls, alpha: float) -> float:
        if not 0 < alpha <= 0.5:  # noqa: PLR2004 - the message names both limits
            raise ValueError("between 0% and 50%")
        return alpha


class Rollback(Strict):
    """What stays ready, and what takes a promoted version back."""

    keep_warm: Duration = Field(3600.0, description="How long the previous revision stays up.")
    on: tuple[Literal["errors", "latency", "drift", "data_quality", "quality", "alarms"], ...] = Field(
        ("errors", "latency"),
        description="errors, latency: the judge during the shift, where errors always count; drift, data_quality, "
        "quality (by labels), alarms (the platform's): the monitor after.",
    )
    keep_failed: bool = Field(default=False, description="Leave a failed candidate up, at 0 %, to look at.")


class ReleaseSpec(Strict):
    """A release file: what is released, where, through which gates and how."""

    model: str = Field(min_length=1, max_length=200, pattern=r"^[^/:]+$", description="Name in MLflow.")
    artifact: str = Field(
        min_length=1, description="`runs:/RUN_ID/NAME`, `models:/NAME/VERSION` or `models:/NAME@ALIAS`, or a folder."
    )
    endpoint: str = Field("", description="What clients call; default: the model's name.")
    target: SerializeAsAny[Annotated[Target, BeforeValidator(of_its_kind), WithJsonSchema(_ANY_TARGET)]]
    runtime: Runtime = Runtime()
    image: ImageSettings = ImageSettings()
    capture: Capture = Capture()
    gates: Gates = Gates()
    strategy: Strategy = Strategy()
    judge: Judge = Judge()
    traffic: Literal["live"] = Field("live", description="Where the requests of the comparison come from.")
    rollback: Rollback = Rollback()
    monitor: Monitor | None = Field(None, description="Without it, `headgate monitor` has nothing to check.")
    approvals: tuple[Approval, ...] = Field((), description="Who has to agree; releases then run on a Prefect worker.")
    when_busy: Literal["refuse", "queue"] = Field(
        "refuse", description="What a release does while another one has the endpoint: end at once, or wait its turn."
    )
    when_abandoned: Literal["rollback", "resume"] = Field(
        "rollback",
        description="What becomes of a release whose process died: it is taken back, or a Prefect worker goes on "
        "with it while the champion has all traffic.",
    )
    freeze: tuple[Freeze, ...] = Field((), description="When nothing is released; rollbacks always may.")
    release_when: ReleaseWhen | None = Field(
        None, description="Release a version of the model by itself when MLflow's registry says so."
    )
    notify: tuple[Reference, ...] = Field(
        (), description="Who is told, by reference: env:NAME of an Apprise URL, or block:TYPE/NAME of Prefect."
    )

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, data: Any) -> Any:  # noqa: ANN401 - whatever the file held
        if isinstance(data, dict) and isinstance(data.get("model"), str) and not data.get("endpoint"):
            return {**data, "endpoint": data["model"].lower().replace("_", "-").replace(" ", "-")}
        return data

    @field_validator("approvals")
    @classmethod
    def _once(cls, approvals: tuple[Approval, ...]) -> tuple[Approval, ...]:
        before = [approval.before for approval in approvals]
        if len(set(before)) < len(before):
            raise ValueError("at most one approval before each of deploy, shift and promote")
        return approvals

    @field_validator("endpoint")
    @classmethod
    def _endpoint_is_a_name(cls, endpoint: str) -> str:
        if not re.match(_NAME, endpoint):
            raise ValueError("lower-case letters, digits and '-', at most 40, as it becomes part of a URL")
        return endpoint
