"""The paired shadow comparison: the same request, answered by champion and challenger, joined by its id."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from headgate.records import Disagreement, Segment, ShadowReport
from headgate.units import format_percent, rough_percent
from monitoring.bodies import records
from monitoring.judge import disagreement_e_value
from monitoring.judge.confidence import interval_of_rate

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pyarrow as pa

    from headgate.spec import Shadow

_EXAMPLES = 5
_SHOWN_SEGMENTS, _MOST_SEGMENTS, _SHOWN_OF_SEGMENT = 10, 1000, 60
_WITHOUT, _OTHERS = "(without)", "(others)"
_CONFIDENCE = 0.05
_SHOWN = 300
_OK = 200

ANSWER_SECONDS = 5.0
"""A copy that has no answer this long after the champion's has failed."""
_SETTLE_SECONDS = 1.0
"""Rows of two processes reach the log within this time of each other; mirroring begins within it too."""


class Answered(NamedTuple):
    """One logged request."""

    status: int
    seconds: float | None
    request: bytes
    response: bytes
    at: float = 0.0


class ShadowComparison:
    """Collects both arms' answers and compares them pair by pair.

    Args:
        gate: the limits.
        alpha: the chance of rejecting a challenger that disagrees no more than the limit.
        champion: the revision that clients see.
        challenger: the revision that receives copies.
        timed: whether both arms' latencies were measured in the same place.
    """

    def __init__(self, gate: Shadow, alpha: float, champion: str, challenger: str, *, timed: bool = True) -> None:
        self._gate = gate
        self._alpha = alpha
        self._arms: dict[str, dict[str, Answered]] = {champion: {}, challenger: {}}
        self._champion, self._challenger, self._timed = champion, challenger, timed
        self._compared: set[str] = set()
        self._disagreements = 0
        self._errors = self._silent = 0
        self._seconds: tuple[list[float], list[float]] = ([], [])
        self._examples: list[Disagreement] = []
        self._segments: dict[str, list[int]] = {}
        self._first, self._newest = math.inf, 0.0
        self._unmatched = 0

    def add(self, batches: Iterable[pa.RecordBatch]) -> None:
        """Take logged rows; those of other revisions and those seen before are passed over."""
        for batch in batches:
            for row in batch.to_pylist():
                arm = self._arms.get(row["revision"])
                key = row["request_id"]
                # The challenger's own traffic, such as the smoke gate's, is no copy of anything.
                if (
                    arm is None
                    or key in self._compared
                    or (row["revision"] == self._challenger and not row["mirrored"])
                ):
                    continue
                at = row["time"].timestamp()
                self._first, self._newest = min(self._first, at), max(self._newest, at)
                arm[key] = Answered(row["status"], row["seconds"], row["request"], row["response"], at)
        self._match()
        self._expire()

    def report(self, *, final: bool) -> ShadowReport | None:
        """The report once it can be decided, or at the end of the time given.

        Returns:
            None while more pairs are needed.
        """
        pairs = len(self._compared)
        rate = self._disagreements / pairs if pairs else 0.0
        limit = self._gate.max_disagreement
        e_value = disagreement_e_value(self._disagreements, pairs, limit)
        counted = f"{self._disagreements} of {pairs} answers differ ({rough_percent(rate)})"
        if self._errors:
            counted += f", {self._errors} of them failures"
        if self._silent:
            counted += f" ({self._silent} had no answer in {ANSWER_SECONDS:g} s)"
        allowed = f"{format_percent(limit)} may"
        if e_value >= 1 / self._alpha:
            return self._report(rate, e_value, False, f"{counted}, {allowed}; e-value {e_value:.3g}")  # noqa: FBT003
        # Copies that should have been answered by now may yet turn out to be lost.
        if pairs >= self._gate.min_requests and (self._disagreements + self._late()) / pairs <= limit:
            return self._report(rate, e_value, True, f"{counted}, {allowed}")  # noqa: FBT003
        if not final:
            return None
        if pairs < self._gate.min_requests:
            reason = f"only {pairs} of {self._gate.min_requests} requests were compared in time"
        else:
            reason = f"{counted}, {allowed}"
        return self._report(rate, e_value, False, reason)  # noqa: FBT003

    def _match(self) -> None:
        champion, challenger = self._arms[self._champion], self._arms[self._challenger]
        for key in champion.keys() & challenger.keys():
            ours, theirs = champion.pop(key), challenger.pop(key)
            self._compared.add(key)
            if ours.seconds is not None and theirs.seconds is not None:
                self._seconds[0].append(ours.seconds)
                self._seconds[1].append(theirs.seconds)
            if theirs.status != _OK and ours.status == _OK:
                self._errors += 1
            differs = not agrees(ours, theirs, self._gate.tolerance)
            self._count_segment(ours.request, differs=differs)
            if differs:
                self._differ(key, ours, _text(theirs.response))

    def _late(self) -> int:
        """Copies without an answer, that other copies of their time have."""
        if self._gate.percent < 1:
            return 0
        begun, settled = self._first + _SETTLE_SECONDS, self._newest - _SETTLE_SECONDS
        return sum(begun < answered.at < settled for answered in self._arms[self._champion].values())

    def _expire(self) -> None:
        """Let go of rows that will find no partner; a copy that was never answered is one that failed."""
        for name, arm in self._arms.items():
            for key in [key for key, answered in arm.items() if answered.at < self._newest - ANSWER_SECONDS]:
                answered = arm.pop(key)
                if name == self._challenger:
                    self._unmatched += 1
                elif self._gate.percent == 1 and answered.at > self._first + _SETTLE_SECONDS:
                    self._compared.add(key)
                    self._errors += answered.status == _OK
                    self._silent += answered.status == _OK
                    self._count_segment(answered.request, differs=True)
                    self._differ(key, answered, "no answer")

    def _count_segment(self, request: bytes, *, differs: bool) -> None:
        """By the first record of a request; requests that do not have the input are a segment too."""
        if not self._gate.segment:
            return
        asked = records(request, b"")
        value = asked[0].inputs.get(self._gate.segment) if asked else None
        name = _WITHOUT if value is None else str(value)[:_SHOWN_OF_SEGMENT]
        if name not in self._segments and len(self._segments) >= _MOST_SEGMENTS:
            name = _OTHERS
        counts = self._segments.setdefault(name, [0, 0])
        counts[0] += 1
        counts[1] += differs

    def _worst_segments(self) -> tuple[Segment, ...]:
        """By what their rate is at least: that few pairs differ by chance is no news."""
        found = [
            Segment(
                value=value, pairs=pairs, disagreements=differ, rate=differ / pairs,
                low=interval_of_rate(differ, pairs, _CONFIDENCE)[0],
            )
            for value, (pairs, differ) in self._segments.items() if differ
        ]  # fmt: skip
        return tuple(sorted(found, key=lambda segment: (-segment.low, -segment.rate, segment.value))[:_SHOWN_SEGMENTS])

    def _differ(self, key: str, ours: Answered, theirs: str) -> None:
        self._disagreements += 1
        if len(self._examples) < _EXAMPLES:
            shown = (_text(ours.request), _text(ours.response))
            self._examples.append(Disagreement(request_id=key, request=shown[0], champion=shown[1], challenger=theirs))

    def _report(self, rate: float, e_value: float, passed: bool, reason: str) -> ShadowReport:  # noqa: FBT001
        return ShadowReport(
            pairs=len(self._compared),
            unmatched=self._unmatched,
            disagreements=self._disagreements,
            errors=self._errors,
            rate=rate,
            limit=self._gate.max_disagreement,
            e_value=min(e_value, 1e300),
            latency_ratio=_ratio(*self._seconds) if self._timed and self._seconds[0] else None,
            passed=passed,
            reason=reason,
            examples=tuple(self._examples),
            segments=self._worst_segments(),
        )


def agrees(ours: Answered, theirs: Answered, tolerance: float) -> bool:
    """Whether two answers say the same: both failed alike, or equal labels and numbers close enough."""
    if ours.status != theirs.status:
        return False
    if ours.status != _OK:
        return True
    if ours.response == theirs.response:
        return True
    try:
        return _close(orjson.loads(ours.response), orjson.loads(theirs.response), tolerance)
    except orjson.JSONDecodeError:
        return False


def _close(ours: Any, theirs: Any, tolerance: float) -> bool:  # noqa: ANN401 - parsed JSON
    if isinstance(ours, bool) or isinstance(theirs, bool):
        return ours is theirs
    if isinstance(ours, float) or isinstance(theirs, float):
        numbers = isinstance(ours, int | float) and isinstance(theirs, int | float)
        return numbers and abs(ours - theirs) <= tolerance * max(abs(ours), 1e-9)
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


def _ratio(champion: list[float], challenger: list[float]) -> float:
    return statistics.median(challenger) / max(statistics.median(champion), 1e-9)


def _text(body: bytes) -> str:
    return body[:_SHOWN].decode(errors="replace")
