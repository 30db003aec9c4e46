"""Settings of a release file that can never be met, each with the pair that contradicts itself.

What is impossible at any traffic is an error. What has no effect, or depends on what clients do, is a warning.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import TYPE_CHECKING, Literal, NamedTuple
from zoneinfo import ZoneInfo

from croniter import croniter
from croniter.croniter import CroniterBadDateError

from headgate.margins import USUAL_RATE, misfit
from headgate.operating import frozen_until
from headgate.pairs import least_limit, least_pairs
from headgate.units import basis_points, bytes_of, format_duration, format_percent, rough_percent

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from headgate.spec import ReleaseSpec, Shadow

MOST_PER_SECOND = 1_000_000
"""Requests; no endpoint has more."""
_FREE_WITHIN = timedelta(days=366)
_MOST_WINDOWS = 2000
"""Of a freeze that are looked at, one after the other: more than a day has minutes."""
_BY_MONITOR = ("drift", "data_quality", "quality", "alarms")


class Unmet(NamedTuple):
    """A setting that cannot be met.

    Attributes:
        location: of the entry in the file, as pydantic has it.
        value: as the file has it.
        message: what the limit is.
        fix: what to do.
        severity: an error is impossible at any traffic.
        others: entries that it contradicts; the first of all that the file has is the place that is shown.
    """

    location: tuple[str | int, ...]
    value: str
    message: str
    fix: str
    severity: Literal["warning", "error"] = "error"
    others: tuple[tuple[str | int, ...], ...] = ()


def unmet(spec: ReleaseSpec) -> list[Unmet]:
    """Return what can never be met, or is never used, whatever clients ask."""
    return list(chain(
        _instants(spec), _sizes(spec), _cron(spec), _smoke(spec), _shadow(spec), _shift(spec), _judge(spec),
        _monitor(spec), _redacted(spec),
    ))  # fmt: skip


def _instants(spec: ReleaseSpec) -> Iterator[Unmet]:
    """Times of 0 s in which something has to happen."""
    given: dict[tuple[str, ...], tuple[float, str]] = {
        ("runtime", "ready_timeout"): (spec.runtime.ready_timeout, "no server is ready"),
        ("strategy", "max_duration"): (spec.strategy.max_duration, "no request is answered"),
    }
    if spec.gates.smoke is not None:
        given["gates", "smoke", "max_latency"] = spec.gates.smoke.max_latency, "no request is answered"
    if spec.gates.shadow is not None:
        given["gates", "shadow", "max_duration"] = spec.gates.shadow.max_duration, "no request is answered"
    if spec.monitor is not None:
        given["monitor", "window"] = spec.monitor.window, "no request is answered"
        given["monitor", "quality", "lookback"] = spec.monitor.quality.lookback, "no request is answered"
    for location, (seconds, what) in given.items():
        if seconds == 0:
            yield Unmet(location, "0s", f"is above 0s: {what} within no time", "leave it out for the default")


def _sizes(spec: ReleaseSpec) -> Iterator[Unmet]:
    if bytes_of(spec.capture.keep) == 0:
        message = "is at least 1Mi: the shadow comparison and the monitor read what the log keeps"
        yield Unmet(("capture", "keep"), spec.capture.keep, message, "leave it out for 1Gi")
    if spec.runtime.memory is not None and bytes_of(spec.runtime.memory) == 0:
        message = "is at least 1Mi: no server runs without memory"
        yield Unmet(("runtime", "memory"), spec.runtime.memory, message, "leave it out, or say such as 512Mi")


def _cron(spec: ReleaseSpec) -> Iterator[Unmet]:
    """Schedules that never fire, and freeze windows without a moment between them."""
    now, dead = datetime.now(UTC), False
    if spec.monitor is not None and not _fires(spec.monitor.schedule, now):
        yield _never(("monitor", "schedule"), spec.monitor.schedule)
    for number, window in enumerate(spec.freeze):
        for name in ("start", "end"):
            expression = getattr(window, name)
            if not _fires(expression, now.astimezone(ZoneInfo(window.timezone))):
                dead = True
                yield _never(("freeze", number, name), expression)
    if not dead and (until := _always_frozen(spec, now)) is not None:
        value = "; ".join(f"{window.start} to {window.end}" for window in spec.freeze)
        message = f"leaves no moment to release in, from now until {until:%F %H:%M %Z} at least"
        # Whoever means it releases with a reason, --override-freeze.
        yield Unmet(("freeze",), value, message, "let an `end` come before the next `start`", "warning")


def _fires(expression: str, now: datetime) -> bool:
    try:
        croniter(expression, now).get_next(datetime)
    except CroniterBadDateError:
        return False
    return True


def _never(location: tuple[str | int, ...], expression: str) -> Unmet:
    message = "names a day that no month has, so it never comes"
    return Unmet(location, expression, message, "choose a day that exists, such as `0 0 28 2 *`")


def _always_frozen(spec: ReleaseSpec, now: datetime) -> datetime | None:
    """Until when releases are frozen without a break, where that is a year or as many windows as are looked at."""
    moment = now
    for _ in range(_MOST_WINDOWS):
        found = frozen_until(spec.freeze, moment)
        if found is None:
            return None
        moment = found[1].astimezone(UTC)
        if moment > now + _FREE_WITHIN:
            break
    return moment


def _smoke(spec: ReleaseSpec) -> Iterator[Unmet]:
    gate, longest = spec.gates.smoke, spec.gateway.timeouts.request
    if gate is not None and "max_latency" in gate.model_fields_set and gate.max_latency > longest:
        message = f"is never reached: a request ends after gateway.timeouts.request ({format_duration(longest)})"
        fix, others = "a shorter one, or a longer gateway.timeouts.request", (("gateway", "timeouts", "request"),)
        value = format_duration(gate.max_latency)
        yield Unmet(("gates", "smoke", "max_latency"), value, message, fix, "warning", others)


def _shadow(spec: ReleaseSpec) -> Iterator[Unmet]:
    gate, location = spec.gates.shadow, ("gates", "shadow", "min_requests")
    if gate is None or gate.max_duration == 0:
        return
    compared = gate.percent * spec.capture.sample
    needed = gate.min_requests / (gate.max_duration * compared)
    if needed > MOST_PER_SECOND:
        message = (
            f"needs {needed:.3g} requests a second: pairs are gates.shadow.percent ({format_percent(gate.percent)}) of "
            f"capture.sample ({format_percent(spec.capture.sample)}), within {format_duration(gate.max_duration)}"
        )
        others = ("gates", "shadow", "percent"), ("gates", "shadow", "max_duration"), ("capture", "sample")
        fix = "mirror or keep a larger share, or wait longer"
        yield Unmet(location, str(gate.min_requests), message, fix, others=others)
    yield from _shown_by_pairs(spec, gate)


def _shown_by_pairs(spec: ReleaseSpec, gate: Shadow) -> Iterator[Unmet]:
    """Whether `min_requests` pairs can show what the gate asks for."""
    limit, chance = ("gates", "shadow", "max_disagreement"), spec.judge.false_promotion
    allowed, least = format_percent(gate.max_disagreement), least_pairs(gate.max_disagreement, chance)
    if least is None:
        message = "is above 0%: that no answer ever differs can never be shown"
        fix = f"{format_percent(least_limit(gate.min_requests, chance))} at least, which min_requests can show"
        yield Unmet(limit, allowed, message, fix)
    elif gate.min_requests < least:
        message = (
            f"can pass no version: where no answer differs, it takes {least} pairs to show that fewer than {allowed} "
            f"do (max_disagreement), with a chance of {format_percent(chance)} (judge.false_promotion) of being wrong"
        )
        smaller = format_percent(least_limit(gate.min_requests, chance))
        fix = f"{least} at least, or max_disagreement of {smaller} at least"
        others = limit, ("judge", "false_promotion")
        yield Unmet(("gates", "shadow", "min_requests"), str(gate.min_requests), message, fix, others=others)


def _shift(spec: ReleaseSpec) -> Iterator[Unmet]:
    strategy = spec.strategy
    largest = strategy.shares[-1] / basis_points(1)
    if strategy.max_duration and strategy.min_requests / (strategy.max_duration * largest) > MOST_PER_SECOND:
        message = (
            f"needs {strategy.min_requests / (strategy.max_duration * largest):.3g} requests a second, with "
            f"{format_percent(largest)} of them for {format_duration(strategy.max_duration)} (max_duration)"
        )
        value = str(strategy.min_requests)
        fix, others = "ask for fewer, or a longer max_duration", (("strategy", "max_duration"), ("strategy", "steps"))
        yield Unmet(("strategy", "min_requests"), value, message, fix, others=others)
    if strategy.kind == "blue-green" and "steps" in strategy.model_fields_set:
        value = ", ".join(map(format_percent, strategy.steps))
        message = "are never reached: blue-green is one step with 100%"
        yield Unmet(("strategy", "steps"), value, message, "remove steps, or use kind: canary", "warning")


def _judge(spec: ReleaseSpec) -> Iterator[Unmet]:
    latency = spec.judge.latency
    for name, rate in (("error_rate", spec.judge.error_rate), ("client_error_rate", spec.judge.client_error_rate)):
        if rate is not None and rate.margin_points == 0:
            message = (
                f"where nothing fails, {format_percent(rate.margin)} more than nothing (margin) is nothing: that can "
                "never be shown, and the release is never promoted by itself"
            )
            yield Unmet(("judge", name, "margin_points"), "0%", message, "above 0%, such as 0.1%", "warning")
    yield from misfits(spec, {"error_rate": USUAL_RATE, "client_error_rate": USUAL_RATE})
    if "latency" not in spec.rollback.on:
        if "latency" in spec.judge.model_fields_set:
            message = "is never used: rollback.on has no latency"
            value = ", ".join(sorted(latency.model_fields_set))
            yield Unmet(("judge", "latency"), value, message, "add latency to rollback.on, or remove this", "warning")
    elif latency.margin == 0 and latency.floor == 0:
        message = "or floor is above 0: that two versions are equally quick can never be shown"
        yield Unmet(("judge", "latency", "margin"), "0%", message, "leave one of them out for its default")


def misfits(spec: ReleaseSpec, rates: Mapping[str, float], known: str = "") -> Iterator[Unmet]:
    """Yield margins of failures whose tolerance does not fit them, beside a stable version's failure rates.

    Args:
        spec: the release file.
        rates: of 5xx for `error_rate`, and of 4xx for `client_error_rate`.
        known: where the rates are from; nothing where they are assumed.
    """
    for name, rate in rates.items():
        limits = getattr(spec.judge, name)
        # Nobody asked for what the defaults are.
        asked = limits is not None and bool(limits.model_fields_set)
        found = misfit(spec, limits, rate) if asked else None
        if found is None:
            continue
        beside = f"{rough_percent(rate)} of whose requests fail ({known or 'assumed, as nothing was counted'})"
        message = (
            f"does not fit margin_points ({format_percent(limits.margin_points)}): beside a stable version {beside}, "
            f"one that fails {rough_percent(found.rate)}, halfway to the margin, is shown to do harm after about "
            f"{found.harm:.0f} of its requests, and to be within the margin after about {found.harmless:.0f}; so it is "
            "taken back more often than promoted"
        )
        fix = (
            f"{format_percent(found.points)} at least, if such a version is to be promoted; else leave it: a wide "
            "margin promotes good versions sooner"
        )
        value = format_percent(limits.tolerance_points)
        others = ("judge", name, "margin_points"), ("judge", name, "margin"), ("judge", name)
        yield Unmet(("judge", name, "tolerance_points"), value, message, fix, "warning", others)


def _monitor(spec: ReleaseSpec) -> Iterator[Unmet]:
    monitor = spec.monitor
    if monitor is None:
        asked = [cause for cause in spec.rollback.on if cause in _BY_MONITOR]
        if asked:
            message = f"{' and '.join(asked)}: acted on by the monitor only, and the file has no monitor entry"
            yield Unmet(("rollback", "on"), ", ".join(spec.rollback.on), message, "add `monitor: {}`", "warning")
        return
    keep = spec.capture.retention
    yield from _too_many(spec, ("monitor", "min_rows"), monitor.min_rows, ("monitor", "window"), monitor.window)
    quality = monitor.quality
    yield from _too_many(
        spec, ("monitor", "quality", "min_labels"), quality.min_labels, ("monitor", "quality", "lookback"),
        quality.lookback,
    )  # fmt: skip
    spans: dict[tuple[str, ...], float] = {
        ("monitor", "window"): monitor.window, ("monitor", "quality", "lookback"): monitor.quality.lookback,
    }  # fmt: skip
    for location, seconds in spans.items():
        if seconds > keep:
            message = f"looks further back than capture.retention ({format_duration(keep)}) keeps"
            yield Unmet(location, format_duration(seconds), message, "keep longer, or look less far back", "warning")
    for column in set(monitor.drift.thresholds) & set(monitor.drift.ignore):
        message = "is never used: monitor.drift.ignore has the column"
        value = f"{monitor.drift.thresholds[column]:g}"
        yield Unmet(("monitor", "drift", "thresholds", column), value, message, "take it out of one of them", "warning")


def _too_many(
    spec: ReleaseSpec, location: tuple[str, ...], wanted: int, within: tuple[str, ...], seconds: float
) -> Iterator[Unmet]:
    """Rows of the log that no endpoint has so many of in this time."""
    if not seconds or wanted / (seconds * spec.capture.sample) <= MOST_PER_SECOND:
        return
    needed = wanted / (seconds * spec.capture.sample)
    message = f"needs {needed:.3g} requests a second, within {format_duration(seconds)} ({'.'.join(within)})"
    fix, others = f"ask for fewer, or a longer {within[-1]}", (within, ("capture", "sample"))
    yield Unmet(location, str(wanted), message, fix, others=others)


def _redacted(spec: ReleaseSpec) -> Iterator[Unmet]:
    """Fields that something reads, and that the log does not keep."""
    reads: dict[tuple[str | int, ...], str] = {}
    if spec.gates.shadow is not None:
        reads["gates", "shadow", "segment"] = spec.gates.shadow.segment
    if spec.monitor is not None:
        reads["monitor", "quality", "answer"] = spec.monitor.quality.answer
        reads |= {("monitor", "drift", "thresholds", column): column for column in spec.monitor.drift.thresholds}
    for location, field in reads.items():
        if field and field in spec.capture.redact:
            message = "is never read: capture.redact leaves it out of the log"
            yield Unmet(location, field, message, "take it out of one of them", "warning")
