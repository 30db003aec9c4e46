"""Whether two answers to the same request agree: equal statuses and labels, and numbers that are close enough."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from monitoring.bodies import JSON, parse_json

OK = 200
"""The status of an answer whose body is compared."""


class Answered(NamedTuple):
    """One logged request."""

    status: int
    seconds: float | None
    request: bytes
    response: bytes
    at: float = 0.0
    content_type: str = JSON

    @property
    def arrived(self) -> float:
        """When the request came; a log without latencies has only when it was answered."""
        return self.at - (self.seconds or 0.0)


def agrees(ours: Answered, theirs: Answered, tolerance: float) -> bool:
    """Whether two answers say the same: both failed alike, or equal labels and numbers close enough."""
    if ours.status != theirs.status:
        return False
    if ours.status != OK:
        return True
    if ours.response == theirs.response:
        return True
    told = parse_json(ours.response), parse_json(theirs.response)
    return None not in told and _close(*told, tolerance)


def _close(ours: Any, theirs: Any, tolerance: float) -> bool:  # noqa: ANN401 - parsed JSON
    if isinstance(ours, bool) or isinstance(theirs, bool):
        return ours is theirs
    if isinstance(ours, float) or isinstance(theirs, float):
        return isinstance(ours, int | float) and isinstance(theirs, int | float) and _near(ours, theirs, tolerance)
    if isinstance(ours, list):
        return (
            isinstance(theirs, list)
            and len(ours) == len(theirs)
            and all(_close(one, other, tolerance) for one, other in zip(ours, theirs, strict=True))
        )
    if isinstance(ours, dict):
        return (
            isinstance(theirs, dict)
            and ours.keys() == theirs.keys()
            and all(_close(ours[key], theirs[key], tolerance) for key in ours)
        )
    # Whole numbers are labels: 3 is not nearly 4.
    return bool(ours == theirs)


def _near(ours: float, theirs: float, tolerance: float) -> bool:
    """Whether numbers are close; what is no number is like itself, and so is what is infinite."""
    try:
        if math.isfinite(ours) and math.isfinite(theirs):
            return abs(ours - theirs) <= tolerance * max(abs(ours), 1e-9)
    except OverflowError:
        # A whole number that is beyond every float.
        return ours == theirs
    return ours == theirs or (math.isnan(ours) and math.isnan(theirs))
