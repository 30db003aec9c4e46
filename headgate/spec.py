"""release.yaml as types, with every default.

Only what is built is here, so that the JSON Schema never promises more; `PLANNED` names the entries of
the design that are refused until they are built. `headgate.release_file` reads the file itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    SerializeAsAny,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from headgate.capture import Capture
from headgate.credentials import NO_USERINFO, with_userinfo, without_userinfo
from headgate.gateway_limits import GatewaySettings
from headgate.monitor import Monitor
from headgate.operating import Approval, Freeze, Reference, ReleaseWhen, Strict
from headgate.runtime import Runtime
from headgate.target_settings import Target, of_its_kind
from headgate.units import BASIS_POINTS, Duration, Percent, basis_points, format_percent

ARTIFACT_SCHEMES = (
    "runs", "models", "mlflow-artifacts", "s3", "gs", "wasbs", "abfs", "abfss", "hdfs", "viewfs", "dbfs", "file",
)  # fmt: skip
"""What MLflow brings models from by their address; others would be fetched with the worker's rights."""

WITH_USERINFO = "with_userinfo"
"""The type of the error that an address has a user or a password."""

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


def _off_is_text(value: object) -> object:
    """YAML 1.1 reads `off` as false."""
    return "off" if value is False else value


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
        "block", description="What happens when loading the model's files would run code that is not known as harmless."
    )
    allow: tuple[str, ...] = Field(
        (), description="What the scan also lets through: my_package.Class, or file:NAME for a file of the model."
    )
    code: Literal["trusted", "refused"] = Field(
        "trusted", description="The author's own program, which MLmodel declares: a custom model, its script, code/."
    )

    @field_validator("allow")
    @classmethod
    def _names_something(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        for entry in entries:
            if not re.fullmatch(r"file:.+|[^\W\d]\w*(\.[^\W\d]\w*)+", entry):
                raise ValueError(f"{entry!r} is neither my_package.Class nor file:NAME of a file in the model")
        return entries

    @field_validator("base", "repository")
    @classmethod
    def _is_a_name(cls, name: str) -> str:
        if name and not re.fullmatch(_IMAGE_NAME, name):
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
    min_requests: int = Field(
        1000, ge=1, description="Pairs compared before it can pass; it goes on until their answers show enough."
    )
    max_duration: Duration = Field(600.0, description="When nothing is shown by then: strategy.on_inconclusive.")
    max_disagreement: Percent = Field(
        0.005, description="To pass, fewer answers than this share are shown to differ; failures and no answers do."
    )
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

    smoke: Annotated[Smoke | None, BeforeValidator(_off)] = Field(
        Smoke(), description="`off` releases a version that was sent no request."
    )
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
    steps: tuple[Percent, ...] = Field(
        (0.05, 0.25, 0.5), max_length=100, description="The canary's shares; for canary only."
    )
    ramp: Literal["evidence", "schedule"] = Field("evidence", description="What ends a step.")
    min_requests: int = Field(1000, ge=0, description="Requests that the new version must have answered.")
    min_duration: Duration = Field(180.0, description="How long the shift lasts at least.")
    max_duration: Duration = Field(3600.0, description="When it is undecided by then: on_inconclusive.")
    on_inconclusive: Literal["hold", "rollback"] = Field(
        "hold", description="Of the shadow gate, too. hold: traffic stays as it is until a person decides."
    )

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

    tolerance: Percent = Field(0.10, description="Failing up to this share more often is not harm,")
    tolerance_points: Percent = Field(0.0, description="nor failing this many of all requests on top of it.")
    margin: Percent = Field(0.25, description="Promotion needs it shown that failures are not this share more often,")
    margin_points: Percent = Field(0.001, description="plus this many of all requests.")

    @model_validator(mode="after")
    def _ordered(self) -> ErrorRateLimits:
        _check_limits(self.tolerance, self.margin)
        if self.tolerance_points > self.margin_points:
            raise ValueError(
                f"tolerance_points ({format_percent(self.tolerance_points)}) is at most margin_points "
                f"({format_percent(self.margin_points)}): what is no harm must be good enough to promote"
            )
        if self.margin == 0 and self.margin_points == 0:
            raise ValueError("margin or margin_points is above 0%: that two rates are equal can never be shown")
        return self


class LatencyLimits(Strict):
    """What counts as being slower, and as being no slower; for targets that count latencies."""

    quantiles: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (0.5, 0.9, 0.99),
        min_length=1,
        max_length=20,
        description="Where promotion needs it shown that the new version is no slower.",
    )
    tolerance: Percent = Field(0.044, description="Being slower by up to this share is not harm.")
    margin: Percent = Field(0.19, description="Promotion needs it shown that it is not slower by this share.")
    floor: Duration = Field(0.005, description="Differences of less than this are never counted.")

    @model_validator(mode="after")
    def _ordered(self) -> LatencyLimits:
        _check_limits(self.tolerance, self.margin)
        return self


class MemoryLimits(Strict):
    """How much a new version's memory may grow; for targets that say how much it is."""

    max_growth: Percent = Field(
        0.5, gt=0, description="Growing by up to this share of its memory in strategy.min_requests requests is no leak."
    )


class Judge(Strict):
    """How sure the judge must be, and of what."""

    false_rollback: Percent = Field(
        0.01,
        description="The chance of taking back a version that is no worse, for the whole shift; and the chance that "
        "the shadow gate refuses one that is within its limit.",
    )
    false_promotion: Percent = Field(
        0.05,
        description="The chance of promoting a version that is worse by the margin or more; and the chance that the "
        "shadow gate passes one that is at its limit or beyond it.",
    )
    error_rate: ErrorRateLimits = Field(ErrorRateLimits(), description="Of answers of 5xx, and requests without one.")
    client_error_rate: ErrorRateLimits | None = Field(
        None, description="Of answers of 4xx. Left out: the limits of error_rate."
    )
    latency: LatencyLimits = LatencyLimits()
    memory: Annotated[MemoryLimits | None, BeforeValidator(_off)] = Field(
        MemoryLimits(), description="`off` takes no version back because its memory grows."
    )

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


def check_artifact(artifact: str) -> str:
    """Return an artifact unchanged where models come from such a place.

    Raises:
        ValueError: they do not, or the address has a user or a password.
    """
    scheme, is_address, _ = artifact.partition("://")
    kind = scheme if is_address else artifact.partition(":/")[0]
    if ":/" in artifact and kind.lower() not in ARTIFACT_SCHEMES:
        raise ValueError(f"models come from {', '.join(ARTIFACT_SCHEMES)} or a folder, and not from {kind}:")
    return without_userinfo(artifact)


def addresses_with_userinfo(value: object, location: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield where a release file, as data or as read, has an address with a user or a password.

    Values of `runtime.env` are left out: an address may stand there that the model's code needs, and reading a file
    refuses those with a password (headgate/release_file.py). `notify` and `runtime.secrets` take no address at all.
    """
    if location in {("runtime", "env"), ("runtime", "secrets"), ("notify",)}:
        return
    if isinstance(value, str):
        if with_userinfo(value):
            yield location
    elif isinstance(value, BaseModel | Mapping):
        for name, part in value.items() if isinstance(value, Mapping) else value:
            yield from addresses_with_userinfo(part, (*location, name))
    elif isinstance(value, list | tuple):
        for index, part in enumerate(value):
            yield from addresses_with_userinfo(part, (*location, index))


class ReleaseSpec(Strict):
    """A release file: what is released, where, through which gates and how."""

    model: str = Field(min_length=1, max_length=200, pattern=r"^[^/:\x00-\x1f\x7f]+$", description="Name in MLflow.")
    artifact: str = Field(
        min_length=1, description="`runs:/RUN_ID/NAME`, `models:/NAME/VERSION` or `models:/NAME@ALIAS`, or a folder."
    )
    endpoint: str = Field("", description="What clients call; default: the model's name.")
    target: SerializeAsAny[Annotated[Target, BeforeValidator(of_its_kind), WithJsonSchema(_ANY_TARGET)]]
    runtime: Runtime = Runtime()
    image: ImageSettings = ImageSettings()
    gateway: GatewaySettings = GatewaySettings()
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
    freeze: tuple[Freeze, ...] = Field(
        (), max_length=100, description="When nothing is released; rollbacks always may."
    )
    release_when: ReleaseWhen | None = Field(
        None, description="Release a version of the model by itself when MLflow's registry says so."
    )
    notify: tuple[Reference, ...] = Field(
        (),
        max_length=50,
        description="Who is told, by reference: env:NAME of an Apprise URL, or block:TYPE/NAME of Prefect.",
    )

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, data: Any) -> Any:  # noqa: ANN401 - whatever the file held
        if isinstance(data, dict) and isinstance(data.get("model"), str) and not data.get("endpoint"):
            return {**data, "endpoint": data["model"].lower().replace("_", "-").replace(" ", "-")}
        return data

    @model_validator(mode="after")
    def _no_address_has_a_password(self) -> ReleaseSpec:
        for location in addresses_with_userinfo(self):
            place = ".".join(map(str, location))
            raise PydanticCustomError(WITH_USERINFO, "{place}: {told}", {"place": place, "told": NO_USERINFO})
        return self

    @field_validator("approvals")
    @classmethod
    def _once(cls, approvals: tuple[Approval, ...]) -> tuple[Approval, ...]:
        before = [approval.before for approval in approvals]
        if len(set(before)) < len(before):
            raise ValueError("at most one approval before each of deploy, shift and promote")
        return approvals

    _artifact_is_where_models_are = field_validator("artifact")(check_artifact)

    @field_validator("endpoint")
    @classmethod
    def _endpoint_is_a_name(cls, endpoint: str) -> str:
        if not re.fullmatch(_NAME, endpoint):
            raise ValueError("lower-case letters, digits and '-', at most 40, as it becomes part of a URL")
        return endpoint
