"""Finding a target by its kind, and what it cannot do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploy_targets.protocol import DeployTarget, Feature, Fits
from headgate.errors import UnsupportedError
from headgate.findings import Finding
from headgate.installation import install_command
from headgate.target_settings import TARGETS_GROUP, Target, installed, known_targets
from headgate.units import BASIS_POINTS, basis_points, format_percent

if TYPE_CHECKING:
    from headgate.spec import ReleaseSpec


def open_target(target: Target) -> DeployTarget:
    """The target that a release file names; cheap, and nothing is contacted yet.

    Raises:
        UnsupportedError: no installed package offers that kind, or its SDK is missing.
    """
    for point in installed(TARGETS_GROUP).select(name=target.kind):
        try:
            built: DeployTarget = point.load().of(target)
        except ImportError as error:
            raise UnsupportedError(
                f"the {target.kind} target needs {error.name}, which is not installed",
                fix=install_command(target.kind, missing=error.name),
            ) from error
        return built
    raise UnsupportedError(f"no target of kind {target.kind!r}", fix=f"installed kinds: {', '.join(known_targets())}")


def required_features(spec: ReleaseSpec) -> set[Feature]:
    """What a release file asks of its target."""
    asks = {
        Feature.SHADOW: spec.gates.shadow is not None,
        Feature.MIRROR: spec.strategy.kind == "blue-green",
        Feature.SPLIT: spec.strategy.kind == "canary",
        Feature.AUTOSCALING: spec.runtime.replicas.min != spec.runtime.replicas.max,
        Feature.SCALE_TO_ZERO: spec.runtime.replicas.min == 0,
        Feature.CPU_LIMIT: spec.runtime.cpu is not None,
        Feature.MEMORY_LIMIT: spec.runtime.memory is not None,
        Feature.GPU: spec.runtime.gpu > 0,
        Feature.IMAGE: bool(spec.image.base or spec.image.repository),
        Feature.LIMITS: "limits" in spec.gateway.model_fields_set,
        Feature.TIMEOUTS: "timeouts" in spec.gateway.model_fields_set,
        Feature.REDACT: bool(spec.capture.redact),
        Feature.SECRETS: bool(spec.runtime.secrets),
        Feature.ALARMS: "alarms" in spec.rollback.on,
    }
    return {feature for feature, asked in asks.items() if asked}


def unsupported_problems(target: DeployTarget, spec: ReleaseSpec) -> list[Finding]:
    """Each thing that the release file asks for and the target cannot do."""
    own = target.misfits(spec) if isinstance(target, Fits) else []
    return own + _replay_problems(target, spec) + _weight_problems(target, spec) + _alarm_problems(target, spec) + [
        Finding(
            severity="error", subject=feature.value,
            problem=f"the {spec.target.kind} target cannot do this: {target.UNSUPPORTED[feature]}",
            fix=f"remove {feature.value} from the release file, or choose another target",
        )
        for feature in sorted(required_features(spec) & set(target.UNSUPPORTED))
    ]  # fmt: skip


def _alarm_problems(target: DeployTarget, spec: ReleaseSpec) -> list[Finding]:
    asked = Feature.ALARMS in required_features(spec) - set(target.UNSUPPORTED)
    if not asked or getattr(spec.target, "alarms", True):
        return []
    problem = "rollback.on has alarms, and target.alarms names none"
    return [Finding(severity="error", subject="target.alarms", problem=problem, fix="name them, or take alarms out")]


def _weight_problems(target: DeployTarget, spec: ReleaseSpec) -> list[Finding]:
    asked: dict[str, tuple[float, ...]] = {}
    if spec.strategy.kind == "canary":
        asked["strategy.steps"] = spec.strategy.steps
    if spec.gates.shadow is not None and target.MIRROR_LIMIT:
        asked["gates.shadow.percent"] = (spec.gates.shadow.percent,)
    least = format_percent(target.WEIGHT_STEP / BASIS_POINTS)
    return [
        Finding(
            severity="error", subject=subject, fix=f"round {subject}",
            problem=f"the {spec.target.kind} target takes multiples of {least}, not {format_percent(odd[0])}",
        )
        for subject, shares in asked.items()
        if (odd := [share for share in shares if basis_points(share) % target.WEIGHT_STEP])
    ]  # fmt: skip


def _replay_problems(target: DeployTarget, spec: ReleaseSpec) -> list[Finding]:
    asked = required_features(spec) & {Feature.SHADOW, Feature.MIRROR} & set(target.SUBSTITUTED)
    if not spec.capture.redact or not asked:
        return []
    problem = f"the {spec.target.kind} target asks again what its log has, and capture.redact leaves fields out of that"
    fixes = {Feature.SHADOW: "gates: {shadow: off}, or nothing in capture.redact", Feature.MIRROR: "redact nothing"}
    return [
        Finding(severity="error", subject=feature.value, problem=problem, fix=fixes[feature])
        for feature in sorted(asked)
    ]  # fmt: skip
