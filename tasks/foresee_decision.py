"""How long the gates of a release will take to decide, at the endpoint's own traffic or at any."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headgate.findings import Finding
from headgate.margins import USUAL_RATE
from headgate.pairs import pairs_if_alike
from headgate.units import format_duration, format_percent, rough_percent, roughly

if TYPE_CHECKING:
    from headgate.spec import ReleaseSpec
    from headgate.traffic import Seen

SUBJECT = "decision"
_MOSTLY = 0.9


def decision(spec: ReleaseSpec, seen: Seen | None, look_seconds: float, mirrored: float) -> list[Finding]:
    """Say how long the shadow gate and the judge will take.

    Args:
        spec: the release file.
        seen: the endpoint's traffic; None where nothing was counted yet.
        look_seconds: how often the judge looks.
        mirrored: the share of live requests that the platform copies at most.
    """
    if seen is None or not seen.per_second:
        return [_unknown(spec, look_seconds, mirrored)]
    return [*_shadow(spec, seen, mirrored), _shift(spec, seen, look_seconds)]


def _unknown(spec: ReleaseSpec, look_seconds: float, mirrored: float) -> Finding:
    from monitoring.foresight import Clients, rate_needed  # noqa: PLC0415 - heavy, and needed here alone

    longest = format_duration(spec.strategy.max_duration)
    needed = rate_needed(spec, Clients(0.0, USUAL_RATE), look_seconds)
    takes = f"takes about {needed:.2g} requests a second" if needed else "takes more than 10000 requests a second"
    problem = (
        "not known, as no earlier release has counted the traffic: to promote a good version within "
        f"strategy.max_duration ({longest}) {takes}, where {rough_percent(USUAL_RATE)} of them fail"
    )
    gate = spec.gates.shadow
    if gate is not None and gate.max_duration:
        pairs = pairs_if_alike(spec, gate)
        rate = pairs / gate.max_duration / _copied(spec, mirrored)
        problem += (
            f"; to pass the shadow gate within {format_duration(gate.max_duration)} ({pairs} pairs) takes {rate:.2g}"
        )
    return Finding(severity="ok", subject=SUBJECT, problem=problem)


def _shadow(spec: ReleaseSpec, seen: Seen, mirrored: float) -> list[Finding]:
    gate = spec.gates.shadow
    if gate is None or not gate.max_duration:
        return []
    from monitoring.shadow_rule import rule_of  # noqa: PLC0415 - heavy, and needed here alone

    alike = pairs_if_alike(spec, gate)
    half = rule_of(spec, gate).pairs_to_pass(gate.max_disagreement / 2) or alike
    rate = seen.per_second * _copied(spec, mirrored)
    problem = (
        f"the shadow gate compares {rate:.3g} requests a second: it passes a version after {alike} pairs "
        f"({roughly(alike / rate)}) if no answer differs, and after about {half} ({roughly(half / rate)}) if "
        f"{rough_percent(gate.max_disagreement / 2)} do, half of what may; max_duration is "
        f"{format_duration(gate.max_duration)}"
    )
    return [Finding(severity="ok", subject=SUBJECT, problem=problem)]


def _shift(spec: ReleaseSpec, seen: Seen, look_seconds: float) -> Finding:
    from monitoring.foresight import BROKEN, Clients, foresee  # noqa: PLC0415 - heavy, and needed here alone

    counted = max(seen.requests, 1)
    failing = (seen.failures - seen.client_errors) / counted
    found = foresee(spec, Clients(seen.per_second, failing, seen.client_errors / counted), look_seconds)
    longest = format_duration(spec.strategy.max_duration)
    after = f"half of them within {roughly(found.promoted_after)}" if found.promoted_after else "hardly any ever"
    problem = (
        f"at {seen.per_second:.3g} requests a second, of which {rough_percent(failing)} fail ({seen.when}), the judge "
        f"promotes {100 * found.promoted:.0f} of 100 good versions within strategy.max_duration ({longest}), {after}; "
        f"of versions that fail {format_percent(BROKEN)} it takes back {100 * found.found:.0f} of 100"
    )
    if found.found_after is not None and found.bad is not None:
        problem += f", half of them within {roughly(found.found_after)} and {found.bad:.0f} failed requests"
    problem += " (simulated, without latency)"
    if found.promoted >= _MOSTLY:
        return Finding(severity="ok", subject=SUBJECT, problem=problem)
    fix = "a wider judge.error_rate.margin_points"
    if found.promoted_after and found.promoted_after > spec.strategy.max_duration:
        fix = f"strategy.max_duration of {format_duration(-(-found.promoted_after // 60) * 60)} or more, or {fix}"
    return Finding(severity="warning", subject=SUBJECT, problem=problem, fix=fix)


def _copied(spec: ReleaseSpec, mirrored: float) -> float:
    """The share of live requests that is compared."""
    assert spec.gates.shadow is not None  # noqa: S101 - the callers asked
    # Where nothing is copied, requests are asked again, which has no limit.
    return min(spec.gates.shadow.percent, mirrored or 1.0) * spec.capture.sample
