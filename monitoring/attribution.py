"""Whose doing it is that a window drifted: the version's, or that of its inputs, which would hit any version.

The version before is asked what the champion was asked, and each one's answers are held against those that it used to
give. Going back helps where the champion fails more of them, or where its answers moved and those of the version before
did not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pyarrow.compute as pc

from headgate.health import Attribution
from monitoring.drift.distance import distance
from monitoring.drift.profile import profile, profile_like
from monitoring.judge.paired import mcnemar_e_value
from monitoring.predictions.typed import OUTPUT

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from headgate.monitor import Drift

_FAILED = 300
_LEAST_RATE = 0.001
"""The least that `distance` knows what chance reaches for."""


class Answers(NamedTuple):
    """What a version answers.

    Attributes:
        name: the version's, for people.
        now: its rows of the requests in question (monitoring/predictions/typed.py).
        usual: the columns of the answers that it used to give, by name; none where that is not known.
    """

    name: str
    now: pa.Table
    usual: dict[str, pa.ChunkedArray]


def attribute(champion: Answers, earlier: Answers, drift: Drift) -> Attribution:
    """Decide whether going back would help.

    Args:
        champion: the version that is live.
        earlier: the one to go back to, asked the same.
        drift: the limits; those of columns hold for parts of the answer too.
    """
    ours, theirs = _failures(champion.now), _failures(earlier.now)
    asked = len(ours)
    only_ours, only_theirs = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    for cause, more, less in (("version", only_ours, only_theirs), ("inputs", only_theirs, only_ours)):
        # Asked the same, that one fails more often by chance is as rare as a false alarm may be.
        if mcnemar_e_value(more, less) >= 1 / drift.false_alarms:
            says = f"of the same {asked} requests {champion.name} fails {ours.sum()}, {earlier.name} {theirs.sum()}"
            return Attribution(cause=cause, asked=asked, reason=says)
    # Two versions of one task answer alike, so that one's past serves where the other has none.
    norms = (champion.usual or earlier.usual, earlier.usual or champion.usual)
    # What chance lets pass for a move of the version before would keep clients on one whose answers are off.
    rates = (drift.false_alarms, max(drift.false_alarms / 10, _LEAST_RATE))
    moved = [
        _moved(answers.now, norm, drift, rate)
        for answers, norm, rate in zip((champion, earlier), norms, rates, strict=True)
    ]
    if moved[0] is None or moved[1] is None:
        why = "nothing is known of what either used to answer" if not any(norms) else "there are no answers to compare"
        return Attribution(cause="unknown", asked=asked, reason=why)
    says = f"{champion.name}'s answers {_says(moved[0])}"
    if not moved[0].by:
        return Attribution(cause="inputs", asked=asked, reason=f"{says}, whatever became of its inputs")
    says += f"; asked the same {asked} requests, those of {earlier.name} {_says(moved[1])}"
    return Attribution(cause="inputs" if moved[1].by else "version", asked=asked, reason=says)


class _Moved(NamedTuple):
    """The part of the answers that moved furthest; `by` is its distance, or 0 where none moved."""

    name: str
    by: float
    needed: float


def _moved(now: pa.Table, usual: dict[str, pa.ChunkedArray], drift: Drift, rate: float) -> _Moved | None:
    furthest: _Moved | None = None
    for name, before in usual.items():
        known = profile(before)
        stored = OUTPUT + name
        if isinstance(known, str) or stored not in now.column_names:
            continue
        seen = profile_like(now[stored], known)
        if isinstance(seen, str) or not seen.used:
            continue
        found = distance(known, seen, rate)
        needed = max(drift.thresholds.get(name, drift.threshold), found.chance)
        by = found.value if found.value >= needed else 0.0
        if furthest is None or by > furthest.by:
            furthest = _Moved(name, by, needed)
    return furthest


def _says(moved: _Moved) -> str:
    return f"moved by {moved.by:.2g} ({moved.needed:.2g} is much)" if moved.by else "are what they used to be"


def _failures(table: pa.Table) -> NDArray[np.bool_]:
    """Which requests failed, in the order in which both versions were asked."""
    first = table.filter(pc.equal(table["row"], 0))
    failed: NDArray[np.bool_] = first["status"].to_numpy() >= _FAILED
    return failed
