"""What the gates and the judge found: records of the shadow comparison, of each look at a shift, and of its end."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from headgate.counts import Counts
from headgate.records import Record, Usage


class Verdict(StrEnum):
    """What the judge says after a look."""

    RUNNING = "running"
    ADVANCE = "advance"
    PROMOTE = "promote"
    ROLLBACK = "rollback"
    INCONCLUSIVE = "inconclusive"


class Look(Record):
    """One reading of the counters during a shift, and what the judge made of it.

    Attributes:
        seconds: since the shift began.
        share: basis points of live traffic that the canary had.
        stable: counts since the shift began.
        canary: the same.
        e_value: evidence against the canary, of all metrics together; the judge rolls back at `needed`.
        p_value: at most this probable without harm, whenever one looks.
        metrics: each metric's evidence of harm.
        harmless: each metric's evidence that the canary is within the present step's margins.
        culprits: the metrics that are shown to be worse.
        alarms: what is wrong with the counting.
        paused: whether someone wanted the release to stay where it is: only a rollback could end it.
        usage: of `stable` and `canary`, where the target says what they use.
    """

    seconds: float
    share: int
    stable: Counts
    canary: Counts
    e_value: float
    needed: float
    p_value: float = 1.0
    metrics: dict[str, float] = Field(default_factory=dict)
    harmless: dict[str, float] = Field(default_factory=dict)
    culprits: tuple[str, ...] = ()
    alarms: tuple[str, ...] = ()
    paused: bool = False
    usage: dict[str, Usage] = Field(default_factory=dict)
    verdict: Verdict
    reason: str


class Disagreement(Record):
    """One request that champion and challenger answered differently."""

    request_id: str
    request: str
    champion: str
    challenger: str


class Segment(Record):
    """A part of the compared requests; its true rate is `low` at least, with 95 %."""

    value: str
    pairs: int
    disagreements: int
    rate: float
    low: float


class ShadowReport(Record):
    """The paired comparison of mirrored answers with the champion's own.

    Attributes:
        pairs: requests that both answered.
        unmatched: copies whose original was not logged.
        disagreements: pairs whose answers differ by more than the tolerance, or where only one failed.
        errors: pairs that the challenger failed, or never answered, and the champion did not.
        rate: disagreements / pairs.
        limit: the largest rate that passes.
        e_value: evidence that the true rate is above the limit; the version is refused at `needed`.
        e_within: evidence that it is below the limit; the version passes at `needed_to_pass`. None in a report of an
            earlier version of Headgate, which passed by the rate alone; so is what was needed.
        latency_ratio: challenger's median latency over the champion's; None where they were not measured alike. It
            decides nothing.
        undecided: whether neither was shown in time.
        segments: where answers differ most, by the input that the release file names; the worst first, at most ten.
    """

    pairs: int
    unmatched: int
    disagreements: int
    errors: int
    rate: float
    limit: float
    e_value: float
    e_within: float | None = None
    needed: float | None = None
    needed_to_pass: float | None = None
    latency_ratio: float | None
    passed: bool
    undecided: bool = False
    reason: str
    examples: tuple[Disagreement, ...] = ()
    segments: tuple[Segment, ...] = ()


class Rollout(Record):
    """How the shift of live traffic went."""

    verdict: Verdict
    reason: str
    stable: str
    canary: str
    looks: int
    requests: int
    failures: int
    seconds: float
