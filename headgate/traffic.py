"""Settings that an endpoint's own traffic cannot meet."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from headgate.feasible import misfits
from headgate.findings import Finding
from headgate.pairs import least_limit, pairs_if_alike
from headgate.records import Record
from headgate.units import BASIS_POINTS, format_duration, format_percent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headgate.spec import ReleaseSpec

BY_TRAFFIC = frozenset({"judge.error_rate.tolerance_points", "judge.client_error_rate.tolerance_points"})
"""Fields of which a warning of the file itself assumes a failure rate; where one was counted, it is for nothing."""

_FEW_PAIRS = 20
"""Fewer can show nothing that anybody would ask for."""


class Seen(Record):
    """An endpoint's traffic, as it was when it was last counted.

    Attributes:
        per_second: requests.
        requests: that were counted.
        failures: of them, answers of 400 or more, and those without an answer.
        client_errors: of the failures, answers of 4xx.
        when: for people.
    """

    per_second: float
    requests: int
    failures: int
    when: str
    client_errors: int = 0


def unmet_at(spec: ReleaseSpec, seen: Seen | None, look_seconds: float, log_delay: float = 0.0) -> list[Finding]:
    """Return what cannot be met at an endpoint's traffic, and on its platform.

    Args:
        spec: the release file.
        seen: None where no traffic was counted yet.
        look_seconds: how often the judge looks.
        log_delay: seconds that rows of the platform's log may be late.
    """
    of_platform = [*_steps(spec, look_seconds), *_late(spec, log_delay)]
    if seen is None:
        problem = "not known: no earlier release has counted it, so whether min_requests come in time was not checked"
        return [Finding(severity="ok", subject="traffic", problem=problem), *of_platform]
    return list(chain(_shadow(spec, seen), _shift(spec, seen), of_platform, _judge(spec, seen), _monitor(spec, seen)))


def _shadow(spec: ReleaseSpec, seen: Seen) -> Iterator[Finding]:
    gate = spec.gates.shadow
    if gate is None:
        return
    share, needed = gate.percent * spec.capture.sample, pairs_if_alike(spec, gate)
    come = seen.per_second * gate.max_duration * share
    if come >= needed:
        return
    fix = f"{_longer('gates.shadow.max_duration', needed, seen, share)} at least"
    if come >= _FEW_PAIRS:
        least = format_percent(least_limit(int(come), spec.judge.false_promotion))
        fix += f", or max_disagreement of {least} at least with min_requests of {int(come)}"
    yield Finding(
        severity="warning", subject="gates.shadow.max_duration",
        problem=f"is {format_duration(gate.max_duration)}, in which {come:.0f} pairs come, and no version passes with "
        f"fewer than {needed}: {seen.per_second:.3g} requests a second ({seen.when}), {format_percent(share)} of which "
        "count",
        fix=fix,
    )  # fmt: skip


def _shift(spec: ReleaseSpec, seen: Seen) -> Iterator[Finding]:
    strategy = spec.strategy
    # Of the last step, as if it were the only one: more come never.
    share = strategy.shares[-1] / BASIS_POINTS
    yield from _too_few(
        "strategy.min_requests", strategy.min_requests, seen, strategy.max_duration, share, "strategy.max_duration"
    )


def _steps(spec: ReleaseSpec, look_seconds: float) -> Iterator[Finding]:
    strategy = spec.strategy
    least = look_seconds * len(strategy.shares)
    if strategy.max_duration < least:
        reached = int(strategy.max_duration // look_seconds)
        yield Finding(
            severity="warning", subject="strategy.steps",
            problem=f"are {len(strategy.shares)}, and each takes a look of {format_duration(look_seconds)} at least: "
            f"max_duration is {format_duration(strategy.max_duration)}, in which {reached} can end",
            fix=f"fewer steps, or max_duration of {format_duration(least)} at least",
        )  # fmt: skip


def _late(spec: ReleaseSpec, log_delay: float) -> Iterator[Finding]:
    gate = spec.gates.shadow
    if gate is not None and gate.max_duration <= log_delay:
        yield Finding(
            severity="warning", subject="gates.shadow.max_duration",
            problem=f"is {format_duration(gate.max_duration)}, and the platform's log may be late by "
            f"{format_duration(log_delay)}: no request may have been compared by then",
            fix=f"{format_duration(2 * log_delay)} at least, or gates: {{shadow: off}}",
        )  # fmt: skip


def _judge(spec: ReleaseSpec, seen: Seen) -> Iterator[Finding]:
    if not seen.requests:
        return
    for name, rate in (("error_rate", spec.judge.error_rate), ("client_error_rate", spec.judge.client_error_rate)):
        if rate is not None and rate.margin_points == 0 and not seen.failures:
            yield Finding(
                severity="warning", subject=f"judge.{name}.margin_points",
                problem=f"is 0%, and none of {seen.requests} requests failed ({seen.when}): "
                f"{format_percent(rate.margin)} more than nothing can never be shown, so the release will not be "
                "promoted by itself",
                fix="above 0%, such as 0.1%",
            )  # fmt: skip
    rates = {
        "error_rate": (seen.failures - seen.client_errors) / seen.requests,
        "client_error_rate": seen.client_errors / seen.requests,
    }
    for one in misfits(spec, rates, seen.when):
        subject = ".".join(map(str, one.location))
        problem = f"{one.message} (found {one.value})"
        yield Finding(severity="warning", subject=subject, problem=problem, fix=one.fix)


def _monitor(spec: ReleaseSpec, seen: Seen) -> Iterator[Finding]:
    monitor, sample = spec.monitor, spec.capture.sample
    if monitor is None:
        return
    yield from _too_few("monitor.min_rows", monitor.min_rows, seen, monitor.window, sample, "monitor.window")
    labels, lookback = monitor.quality.min_labels, monitor.quality.lookback
    yield from _too_few("monitor.quality.min_labels", labels, seen, lookback, sample, "monitor.quality.lookback")


def _too_few(field: str, wanted: int, seen: Seen, seconds: float, share: float, within: str) -> Iterator[Finding]:
    come = seen.per_second * seconds * share
    if come >= wanted:
        return
    longer = _longer(within, wanted, seen, share)
    yield Finding(
        severity="warning", subject=field,
        problem=f"is {wanted}, and {come:.0f} come within {within} ({format_duration(seconds)}): "
        f"{seen.per_second:.3g} requests a second ({seen.when}), {format_percent(share)} of which count",
        fix=f"{field} of at most {max(int(come), 1)}, or {longer} at least",
    )  # fmt: skip


def _longer(within: str, wanted: int, seen: Seen, share: float) -> str:
    rate = seen.per_second * share
    return f"{within} of {format_duration(_rounded(wanted / rate))}" if rate else f"a longer {within}"


def _rounded(seconds: float) -> float:
    """Up to a whole minute."""
    return -(-seconds // 60) * 60
