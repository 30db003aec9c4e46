"""What a release would do: its steps, its gates, and what stands in its way. Changes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headgate.findings import Finding
from headgate.pairs import pairs_if_alike
from headgate.records import EndpointState, Record, Revision
from headgate.units import BASIS_POINTS, format_bytes, format_duration, format_percent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from headgate.spec import ReleaseSpec


_SHOWN = 10


class PlanStep(Record):
    """One step, what it changes, and what must hold to go on."""

    name: str
    does: str
    gate: str = ""
    calls: tuple[str, ...] = ()


class Changes(Record):
    """How a model differs from the one that is live; empty is no difference.

    Attributes:
        weights: the model's files that are new, gone or changed; without those that MLflow writes beside them.
        weights_compared: whether all files of the live one are on this machine; otherwise those that are.
        requirements: the lines of requirements.txt, and the Python.
        signature: inputs, outputs and parameters.
    """

    weights: tuple[str, ...]
    weights_compared: bool
    requirements: tuple[str, ...]
    signature: tuple[str, ...]


class Content(Record):
    """What would be released, as it was found.

    Attributes:
        size: bytes of all files.
        files: how many.
        flavors: of MLflow.
        python: that it was trained with, such as 3.11.
        inputs: the type of each, by name.
        requirements: the lines of requirements.txt, without passwords.
        sources: those lines that take packages from elsewhere than this machine's index: other indexes, links, paths.
        changes: against the version that is live; None where there is none, or it is not on this machine.
        unlike: why there is no comparison.
    """

    size: int
    files: int
    flavors: tuple[str, ...]
    python: str
    inputs: dict[str, str]
    requirements: tuple[str, ...]
    sources: tuple[str, ...]
    changes: Changes | None = None
    unlike: str = ""


class Plan(Record):
    """The steps of a release, and every problem that would stop it.

    `content` is None where the artifact was not looked at; `estimate` is how long earlier releases took.
    """

    endpoint: str
    champion: str
    steps: tuple[PlanStep, ...]
    problems: tuple[Finding, ...]
    notes: tuple[str, ...]
    content: Content | None = None
    estimate: str = ""

    @property
    def is_possible(self) -> bool:
        """Whether nothing stands in the way."""
        return not any(problem.severity == "error" for problem in self.problems)


def make_plan(
    spec: ReleaseSpec,
    champion: Revision | None,
    state: EndpointState | None,
    problems: Sequence[Finding],
    *,
    mirrors: int = BASIS_POINTS,
    calls: Mapping[str, tuple[str, ...]] | None = None,
) -> Plan:
    """Describe a release.

    Args:
        spec: the release file.
        champion: the version that is live, or None for a first release.
        state: what the target says about the endpoint.
        problems: from the target's preflight and from what it cannot do.
        mirrors: basis points of live requests that the target copies at most; at 0 its log is asked again.
        calls: what each step asks of the platform's API.
    """
    pushed = f", and push it to {spec.image.repository}" if spec.image.repository else ""
    steps = [
        PlanStep(name="package", does=f"bundle {spec.artifact} with its server and locked requirements{pushed}"),
        PlanStep(name="register", does=f"version of {spec.model} in MLflow, alias challenger"),
        PlanStep(
            name="deploy",
            does=f"new revision of {spec.endpoint} on {spec.target.kind} at 0%, {spec.runtime.replicas.min} worker(s)",
            gate=f"ready within {format_duration(spec.runtime.ready_timeout)}",
        ),
        *_smoke(spec),
    ]
    notes = []
    if champion is None:
        notes.append("first release: there is no champion to compare with, so shadow and shift are left out")
    else:
        steps += [*_shadow(spec, champion, mirrors), *_shift(spec, champion, mirrors)]
    steps.append(_promote(spec, champion))
    steps = [step.model_copy(update={"calls": tuple((calls or {}).get(step.name, ()))}) for step in steps]
    notes += [*_moved_by_hand(champion, state), *_costs(spec, champion)]
    return Plan(
        endpoint=spec.endpoint,
        champion=f"{champion.version} ({champion.name})" if champion else "none",
        steps=tuple(steps),
        problems=tuple(problems),
        notes=tuple(notes),
    )


def describe(content: Content) -> list[tuple[str, str]]:
    """What would be released, for people: what is told, and what is known of it."""
    inputs = ", ".join(f"{name} {kind}" for name, kind in content.inputs.items())
    flavors, elsewhere = ", ".join(content.flavors), len(content.sources)
    told = [
        ("artifact", f"{format_bytes(content.size)} in {content.files} files, {flavors}, Python {content.python}"),
        ("inputs", inputs or "the model has no signature"),
        (
            "requirements",
            f"{len(content.requirements)} lines" + (f", {elsewhere} of them from elsewhere" if elsewhere else ""),
        ),
    ]
    changes = content.changes
    if changes is None:
        return [*told, ("new", f"all of it: {content.unlike}")]
    part = "" if changes.weights_compared else "; large files of the live version are not on this machine to compare"
    return [
        *told,
        ("new in weights", (_listed(changes.weights) or "nothing: the same files as live") + part),
        ("new in requirements", _listed(changes.requirements) or "nothing"),
        ("new in signature", _listed(changes.signature) or "nothing"),
    ]


def _listed(parts: tuple[str, ...]) -> str:
    more = f"; and {len(parts) - _SHOWN} more" if len(parts) > _SHOWN else ""
    return "; ".join(parts[:_SHOWN]) + more


def _moved_by_hand(champion: Revision | None, state: EndpointState | None) -> list[str]:
    if state is None or champion is None or state.traffic is None or state.traffic.holder == champion.name:
        return []
    where = state.traffic.holder or state.traffic.weights
    return [f"traffic is on {where}, not on {champion.name}: it is put back first"]


def _costs(spec: ReleaseSpec, champion: Revision | None) -> list[str]:
    """What runs twice while a release goes on, where the file says what it costs."""
    runtime = spec.runtime
    if champion is None or not runtime.price_per_hour:
        return []
    # One that may sleep is awake while it is compared, and while it is kept.
    hourly = runtime.price_per_hour * max(runtime.replicas.min, 1)
    warm = hourly * spec.rollback.keep_warm / 3600
    kept = f"{warm:g} for the version before, which stays warm for {format_duration(spec.rollback.keep_warm)}"
    return [f"while both versions are up, {hourly:g} an hour more; then {kept}"]


def _smoke(spec: ReleaseSpec) -> list[PlanStep]:
    gate = spec.gates.smoke
    if gate is None:
        return []
    says = f"every answer is 200 within {format_duration(gate.max_latency)}"
    sent = "the input example, or a request made from the signature"
    if gate.examples != "input_example":
        sent = gate.examples
    return [PlanStep(name="smoke", does=f"send {sent}", gate=says)]


def _shadow(spec: ReleaseSpec, champion: Revision, mirrors: int) -> list[PlanStep]:
    gate = spec.gates.shadow
    if gate is None:
        return []
    how = f"mirror {format_percent(min(gate.percent, mirrors / BASIS_POINTS))}"
    if not mirrors:
        how = f"ask again {format_percent(gate.percent)}"
    return [
        PlanStep(
            name="shadow",
            does=f"{how} of live requests; clients see {champion.version} only",
            gate=(
                f"shown that fewer than {format_percent(gate.max_disagreement)} of answers differ (false pass "
                f"{format_percent(spec.judge.false_promotion)}): after {pairs_if_alike(spec, gate)} pairs where none "
                f"does; within {format_duration(gate.max_duration)}, else {spec.strategy.on_inconclusive}"
            ),
        )
    ]


def _shift(spec: ReleaseSpec, champion: Revision, mirrors: int) -> list[PlanStep]:
    strategy = spec.strategy
    if strategy.kind == "blue-green":
        how = "receives copies" if mirrors else "is asked again what the log has"
        at_once = " at once" if mirrors else ""
        does = f"switch to 100%{at_once}; {champion.version} stays up and {how}, to compare with"
    else:
        does = f"live traffic to {' ► '.join(map(format_percent, strategy.steps))}"
    return [
        PlanStep(
            name="shift",
            does=does,
            gate=(
                f"shown to be no worse than {champion.version} (false rollback "
                f"{format_percent(spec.judge.false_rollback)}, false promotion "
                f"{format_percent(spec.judge.false_promotion)}), "
                f"{strategy.min_requests} requests, {format_duration(strategy.min_duration)} "
                f"to {format_duration(strategy.max_duration)}, then {strategy.on_inconclusive}"
            ),
        )
    ]


def _promote(spec: ReleaseSpec, champion: Revision | None) -> PlanStep:
    does = "100% of traffic, alias champion"
    if champion is not None:
        does += f"; {champion.version} stays warm for {format_duration(spec.rollback.keep_warm)}"
    return PlanStep(name="promote", does=does, gate="read back from the target")
