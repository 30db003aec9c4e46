"""What a release would do: its steps, its gates, and what stands in its way. Changes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headgate.findings import Finding
from headgate.records import EndpointState, Record, Revision
from headgate.units import BASIS_POINTS, format_duration, format_percent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from headgate.spec import ReleaseSpec


class PlanStep(Record):
    """One step, what it changes, and what must hold to go on."""

    name: str
    does: str
    gate: str = ""
    calls: tuple[str, ...] = ()


class Plan(Record):
    """The steps of a release, and every problem that would stop it."""

    endpoint: str
    champion: str
    steps: tuple[PlanStep, ...]
    problems: tuple[Finding, ...]
    notes: tuple[str, ...]

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
        PlanStep(
            name="smoke",
            does=f"send {spec.gates.smoke.examples}",
            gate=f"every answer is 200 within {format_duration(spec.gates.smoke.max_latency)}",
        ),
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
                f"{gate.min_requests} pairs within {format_duration(gate.max_duration)}, "
                f"at most {format_percent(gate.max_disagreement)} differ"
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
