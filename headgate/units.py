"""Durations (`90s`, `10m`, `3d`) and percentages (`5%`), as release.yaml writes them.

Both become plain numbers at once (seconds, fractions) and are written back the way they were read,
so that a release file survives a round trip through a Prefect parameter.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

BASIS_POINTS = 10_000
"""Traffic weights are integers that sum to this."""

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"^([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)$")
_PERCENT = re.compile(r"^([0-9]+(?:\.[0-9]+)?)%$")
_MOST_DAYS = 3650
"""The longest duration, in days; longer ones would lead to dates that cannot be computed."""


def parse_duration(value: object) -> float:
    """Seconds in a duration such as `90s`, `1.5h` or `3d`.

    Raises:
        ValueError: the text is not a number followed by one of ms, s, m, h, d, or is more than ten years.
    """
    if isinstance(value, float):
        return value  # already parsed
    match = _DURATION.fullmatch(str(value).strip())
    if match is None:
        raise ValueError("a duration is a number and a unit: 500ms, 90s, 10m, 1h or 3d")
    seconds = float(match[1]) * _SECONDS[match[2]]
    if seconds > _MOST_DAYS * _SECONDS["d"]:
        raise ValueError(f"a duration is at most {_MOST_DAYS}d")
    return seconds


def format_duration(seconds: float) -> str:
    """The shortest exact way to write a duration: 90 → `90s`, 600 → `10m`."""
    for unit in ("d", "h", "m", "s"):
        if seconds >= _SECONDS[unit] and (seconds / _SECONDS[unit]).is_integer():
            return f"{int(seconds / _SECONDS[unit])}{unit}"
    return f"{seconds:g}s" if seconds == 0 or seconds >= 1 else f"{seconds * 1000:g}ms"


def roughly(seconds: float) -> str:
    """A duration for people, in one or two units: 4500 → `1 h 15 min`, 95 → `1 min`, 40 → `40 s`."""
    minutes = int(seconds // 60)
    if minutes == 0:
        return f"{seconds:.0f} s"
    days, hours = minutes // 1440, minutes // 60
    if days:
        return f"{days} d {hours % 24} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"


def time_left(have: float, need: float, seconds: float, limit: float) -> str:
    """Say for how long a count still has to grow, if it goes on as so far: `about 40 s at 2.5/s, at most 9 min`.

    Args:
        have: the count now.
        need: the count that is waited for.
        seconds: in which it grew from 0.
        limit: seconds that remain in any case.
    """
    at_most = f"at most {roughly(max(limit, 0.0))}"
    if have <= 0 or seconds <= 0:
        return at_most
    rate = have / seconds
    expected = (need - have) / rate
    return f"about {roughly(expected)} at {rate:.2g}/s, {at_most}" if 0 < expected < limit else at_most


def parse_percent(value: object) -> float:
    """The fraction in a percentage: `5%` → 0.05.

    Raises:
        ValueError: the text is not a number between 0 and 100 with a percent sign.
    """
    if isinstance(value, float):
        return value  # already parsed
    match = _PERCENT.fullmatch(str(value).strip())
    if match is None:
        raise ValueError("a percentage is a number with its sign: 5% or 0.5%")
    # In decimals: 4.4 / 100 as floats is not 0.044.
    fraction = float(Decimal(match[1]) / 100)
    if fraction > 1:
        raise ValueError("a percentage is at most 100%")
    return fraction


def format_percent(fraction: float) -> str:
    """0.05 → `5%`."""
    return f"{fraction * 100:.6g}%"


def rough_percent(fraction: float) -> str:
    """A measured share for a message, to three digits: 0.646465 → `64.6%`."""
    return f"{fraction * 100:.3g}%"


def basis_points(fraction: float) -> int:
    """A fraction of traffic as a weight: 0.05 → 500."""
    return round(fraction * BASIS_POINTS)


Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "pattern": _DURATION.pattern, "examples": ["90s", "10m", "3d"]}),
]
"""Seconds; written `90s`, `10m`, `3d`."""

Percent = Annotated[
    float,
    BeforeValidator(parse_percent),
    PlainSerializer(format_percent, return_type=str),
    WithJsonSchema({"type": "string", "pattern": _PERCENT.pattern, "examples": ["5%", "0.5%"]}),
]
"""A fraction between 0 and 1; written `5%`."""


def bytes_of(text: str) -> int:
    """The bytes of a size such as 64Ki, 512Mi or 2Gi."""
    return int(text[:-2]) * {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}[text[-2:]]


def format_bytes(size: float) -> str:
    """Bytes for people, in binary units: 199229440 → `190 MiB`, 1052266987 → `0.98 GiB`."""
    for unit, least in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= 0.9 * least:
            return f"{size / least:.3g} {unit}"
    return f"{size:.0f} bytes"
