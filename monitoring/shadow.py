"""The paired shadow comparison: the same request, answered by champion and challenger, joined by its id."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING, NamedTuple

from headgate.units import format_percent, rough_percent, roughly, time_left
from headgate.verdicts import Disagreement, Segment, ShadowReport
from monitoring.agreement import OK, Answered, agrees
from monitoring.bodies import JSON, records
from monitoring.judge.confidence import interval_of_rate
from monitoring.judge.paired import MAX_LOG
from monitoring.shadow_rule import as_e_value

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pyarrow as pa

    from headgate.spec import Shadow
    from monitoring.shadow_rule import ShadowRule

_EXAMPLES = 5
_SHOWN_SEGMENTS, _MOST_SEGMENTS, _SHOWN_OF_SEGMENT = 10, 1000, 60
_WITHOUT, _UNREADABLE, _OTHERS = "(without)", "(unreadable)", "(others)"
_CONFIDENCE = 0.05
_SHOWN = 300
_FAILED = 500

ANSWER_SECONDS = 5.0
"""A copy without an answer has failed so long after the champion's, or after as long as the champion may take."""
LOG_SECONDS = 30.0
"""The challenger's log is at most so much later than the champion's, else its answers are counted as missing."""
_SETTLE_SECONDS = 1.0
"""Rows of two processes reach the log within this time of each other; mirroring begins within it too."""
_LONGEST_SECONDS = 60.0
"""How long a platform waits for the champion's answer, where nothing else is told; the clouds' own limit is this."""


class _Alike(NamedTuple):
    """A request that both answered alike: when the champion answered, and when it came."""

    at: float
    arrived: float


class ShadowComparison:
    """Collects both arms' answers and compares them pair by pair.

    Args:
        gate: the limits.
        rule: when it passes or is refused.
        champion: the revision that clients see.
        challenger: the revision that receives copies.
        timed: whether both arms' latencies were measured in the same place.
        since: from when on requests are mirrored, as Unix time; by default from the first copy on.
        longest: seconds within which the champion's answer comes, or never.
    """

    def __init__(
        self, gate: Shadow, rule: ShadowRule, champion: str, challenger: str, *, timed: bool = True,
        since: float = math.inf, longest: float = _LONGEST_SECONDS,
    ) -> None:  # fmt: skip
        self._gate, self._rule, self._since = gate, rule, since
        self._longest = max(longest, _LONGEST_SECONDS)
        self._arms: dict[str, dict[str, Answered]] = {champion: {}, challenger: {}}
        self._champion, self._challenger, self._timed = champion, challenger, timed
        self._compared: set[str] = set()
        self._passed_over: set[str] = set()
        self._disagreements = 0
        self._errors = self._silent = 0
        self._seconds: tuple[list[float], list[float]] = ([], [])
        self._examples: list[Disagreement] = []
        self._segments: dict[str, list[int]] = {}
        self._first_copy, self._slowest = math.inf, 0.0
        # Of each arm: no row that is older than this is still to come, if its log is read in order.
        self._newest_of = {champion: 0.0, challenger: 0.0}
        self._unmatched = 0
        # Requests that both answered alike, of a time of which answers may still come.
        self._alike: list[_Alike] = []

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
                    or key in self._passed_over
                    or (row["revision"] == self._challenger and not row["mirrored"])
                ):
                    continue
                at = row["time"].timestamp()
                self._newest_of[row["revision"]] = max(self._newest_of[row["revision"]], at)
                arm[key] = answered = Answered(
                    row["status"], row["seconds"], row["request"], row["response"], at, row.get("content_type") or JSON
                )
                if row["revision"] == self._challenger:
                    self._first_copy = min(self._first_copy, answered.arrived)
                else:
                    self._slowest = max(self._slowest, answered.seconds or 0.0)
        self._match()
        self._expire()

    def report(self, *, final: bool) -> ShadowReport | None:
        """The report once it can be decided, or at the end of the time given.

        It is decided by evidence alone: a version passes or is refused, or nothing is shown of it.

        Returns:
            None while more pairs are needed.
        """
        within, beyond = self._evidence()
        counted = f"{self._counted()}, {format_percent(self._gate.max_disagreement)} may"
        to_pass, to_refuse = 1 / self._rule.false_pass, 1 / self._rule.false_refusal
        if beyond >= math.log(to_refuse):
            reason = f"{counted}; e-value {as_e_value(beyond):.3g} of {to_refuse:g} needed to refuse"
            return self._report(within, beyond, reason)
        if len(self._compared) >= self._gate.min_requests and within >= math.log(to_pass):
            shown = f"{counted}; e-value {as_e_value(within):.3g} of {to_pass:g} needed to pass"
            return self._report(within, beyond, shown if within < MAX_LOG else counted, passed=True)
        if not final:
            return None
        reason = (
            f"{counted}; e-value {as_e_value(within):.3g} of {to_pass:g} needed to pass, and {as_e_value(beyond):.3g} "
            f"of {to_refuse:g} needed to refuse"
        )
        return self._report(within, beyond, f"it needs {self._lacks()}; {reason}", undecided=True)

    def waits_for(self, seconds: float, limit: float) -> str:
        """Say what the decision waits for.

        Args:
            seconds: since requests are mirrored.
            limit: seconds until the comparison ends in any case.
        """
        pairs, needed = len(self._compared), self._gate.min_requests
        counted = f"{pairs} of {needed} requests compared in {roughly(seconds)}"
        left = f"{time_left(pairs, needed, seconds, limit)} more"
        if not self._newest:
            return f"{counted}: no request was logged since then; {left}"
        if not pairs:
            waiting = sum(map(len, self._arms.values()))
            return f"{counted}: {waiting} of the logged requests have one of their two answers; {left}"
        if pairs < needed:
            return f"{counted}, {self._disagreements} of them differ; {left}"
        rate, allowed = rough_percent(self._disagreements / pairs), format_percent(self._gate.max_disagreement)
        differ = f"{self._disagreements} differ ({rate}, {allowed} may)"
        unanswered = f"{self._late()} copies are not answered yet"
        shown = f"e-value {as_e_value(self._evidence()[0]):.3g} of {1 / self._rule.false_pass:g} needed to pass"
        said = f"{pairs} requests compared in {roughly(seconds)}: {differ} and {unanswered}; {shown}"
        return f"{said}; it needs {self._lacks()}, {time_left(0, 0, seconds, limit)} more"

    def _counted(self) -> str:
        """What was counted, in words."""
        pairs = len(self._compared)
        counted = f"{self._disagreements} of {pairs} answers differ"
        if pairs:
            counted += f" ({rough_percent(self._disagreements / pairs)})"
        if self._errors:
            counted += f", {self._errors} of them failures"
        if self._silent:
            counted += f" ({self._silent} had no answer in {self._patience:.3g} s)"
        if self._passed_over:
            counted += f"; {len(self._passed_over)} that only the champion failed are not compared"
        return counted

    def _lacks(self) -> str:
        """What would let it pass, if answers go on to differ as often."""
        pairs = len(self._compared)
        rate = self._disagreements / pairs if pairs else 0.0
        needed = self._rule.pairs_to_pass(rate, self._disagreements, pairs)
        if needed is None:
            return f"answers that differ less than {format_percent(self._gate.max_disagreement)}"
        alike = "if none differs" if not self._disagreements else "if they go on to differ as often"
        return f"about {needed - pairs} more compared requests {alike}"

    def _evidence(self) -> tuple[float, float]:
        """Return the evidence that answers differ less than they may, and that they differ more, as log e-values.

        What is counted must not depend on how quickly the challenger answers, else a version that fails slowly passes
        before its failures are seen, and one that fails quickly is refused before its answers are. So a copy that was
        made and not answered yet counts as one that differs, for passing, and as one that does not, for refusing. Of
        requests that may have been copied or not, those that were answered alike count once the answers of all of
        their time are there.

        For passing, those requests alone can be counted, too, for which both logs have settled.
        """
        pairs, differ, late, waiting = len(self._compared), self._disagreements, self._late(), self._waiting()
        known_to = self._read_to - self._patience
        self._alike = [one for one in self._alike if one.at >= known_to]
        unknown = sum(not self._was_mirrored(one.arrived) for one in self._alike)
        fresh = sum(one.at >= self._settled or not self._was_mirrored(one.arrived) for one in self._alike)
        within = max(
            self._rule.within(differ + waiting, pairs + waiting - unknown),
            self._rule.within(differ + late, pairs + late - fresh),
        )
        return within, self._rule.beyond(differ, pairs + waiting)

    @property
    def _newest(self) -> float:
        return max(self._newest_of.values())

    def _match(self) -> None:
        champion, challenger = self._arms[self._champion], self._arms[self._challenger]
        for key in champion.keys() & challenger.keys():
            ours, theirs = champion.pop(key), challenger.pop(key)
            if ours.status >= _FAILED > theirs.status:
                # There is nothing to compare it with, and no fault in it.
                self._passed_over.add(key)
                continue
            self._compared.add(key)
            if ours.seconds is not None and theirs.seconds is not None:
                self._seconds[0].append(ours.seconds)
                self._seconds[1].append(theirs.seconds)
            if theirs.status != OK and ours.status == OK:
                self._errors += 1
            differs = not agrees(ours, theirs, self._gate.tolerance)
            self._count_segment(ours, differs=differs)
            if differs:
                self._differ(key, ours, _text(theirs.response))
            else:
                self._alike.append(_Alike(ours.at, ours.arrived))

    @property
    def _patience(self) -> float:
        """How long after the champion's answer that of a copy may come."""
        return max(ANSWER_SECONDS, self._slowest)

    @property
    def _read_to(self) -> float:
        """Up to when both logs were read; that of the challenger may be late on a busy machine, but not for long."""
        return max(self._newest_of[self._challenger], self._newest_of[self._champion] - LOG_SECONDS)

    @property
    def _settled(self) -> float:
        """When the champion answered the last requests whose copies are known to be answered, or late."""
        return min(self._newest, self._read_to) - _SETTLE_SECONDS

    def _was_mirrored(self, arrived: float) -> bool:
        """Whether a request came when mirroring was in effect, so that its copy is known to have been made.

        Where a part of them is copied, that is known of none. Mirroring may begin some seconds late, as the first copy
        shows; a first copy that comes later was not the first.
        """
        if self._gate.percent < 1:
            return False
        begun = min(self._first_copy, self._since + ANSWER_SECONDS)
        if self._since < math.inf:
            begun = max(begun, self._since)
        return arrived > begun + _SETTLE_SECONDS

    def _late(self) -> int:
        """Return how many copies have no answer, that other copies of their time have."""
        settled = self._settled
        waiting = self._arms[self._champion].values()
        return sum(answered.at < settled and self._was_mirrored(answered.arrived) for answered in waiting)

    def _waiting(self) -> int:
        """Return how many copies are known to have been made, and have no answer yet."""
        return sum(self._was_mirrored(answered.arrived) for answered in self._arms[self._champion].values())

    def _expire(self) -> None:
        """Let go of rows that will find no partner; a copy that was never answered is one that failed."""
        copies = self._arms[self._challenger]
        # The champion's answer may still come, and an overloaded one's late: that is not the challenger's fault.
        for key in [key for key, copy in copies.items() if copy.arrived + self._longest < self._newest]:
            copies.pop(key)
            self._unmatched += 1
        waiting = self._arms[self._champion]
        read_to = self._read_to
        for key in [key for key, answered in waiting.items() if answered.at + self._patience < read_to]:
            answered = waiting.pop(key)
            if self._was_mirrored(answered.arrived):
                self._compared.add(key)
                self._errors += answered.status == OK
                self._silent += answered.status == OK
                self._count_segment(answered, differs=True)
                self._differ(key, answered, "no answer")

    def _count_segment(self, answered: Answered, *, differs: bool) -> None:
        """By the first record of a request; requests that do not have the input are a segment, and unreadable ones."""
        if not self._gate.segment:
            return
        asked = records(answered.request, b"", answered.content_type)
        value = asked[0].inputs.get(self._gate.segment) if asked else None
        name = _WITHOUT if value is None else str(value)[:_SHOWN_OF_SEGMENT]
        if asked is None:
            name = _UNREADABLE
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

    def _report(
        self, within: float, beyond: float, reason: str, *, passed: bool = False, undecided: bool = False
    ) -> ShadowReport:
        pairs = len(self._compared)
        return ShadowReport(
            pairs=pairs,
            unmatched=self._unmatched,
            disagreements=self._disagreements,
            errors=self._errors,
            rate=self._disagreements / pairs if pairs else 0.0,
            limit=self._gate.max_disagreement,
            e_value=as_e_value(beyond),
            e_within=as_e_value(within),
            needed=1 / self._rule.false_refusal,
            needed_to_pass=1 / self._rule.false_pass,
            latency_ratio=_ratio(*self._seconds) if self._timed and self._seconds[0] else None,
            passed=passed,
            undecided=undecided,
            reason=reason,
            examples=tuple(self._examples),
            segments=self._worst_segments(),
        )


def _ratio(champion: list[float], challenger: list[float]) -> float:
    return statistics.median(challenger) / max(statistics.median(champion), 1e-9)


def _text(body: bytes) -> str:
    return body[:_SHOWN].decode(errors="replace")
