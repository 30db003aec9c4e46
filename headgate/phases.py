"""The phases of a release, which of them may follow which, and how each release can end.

    started → packaged → registered → deployed → smoked → shadowed → shifting → promoted → (done)
        │         │           │           │         ├─────────┼──────────┼─► held ─► promoted
        └─────────┴───────────┴───────────┴─────────┴─────────┴──────────┴─► undoing ─► undone

A first release has no champion to compare with: it goes from `smoked` straight to `promoted`. One whose
content is live already goes there from `deployed`.
A release that is neither `promoted` nor `undone` is in flight; an endpoint has at most one.
"""

from __future__ import annotations

import itertools
from enum import StrEnum


class Phase(StrEnum):
    """What a release has reached; the journal stores each one as it is entered."""

    STARTED = "started"
    """The endpoint is held; nothing was made yet."""
    PACKAGED = "packaged"
    """The image exists."""
    REGISTERED = "registered"
    """The version exists and is `challenger`."""
    DEPLOYED = "deployed"
    """The revision is ready at 0 %."""
    SMOKED = "smoked"
    """The revision answered its examples."""
    SHADOWED = "shadowed"
    """The paired comparison passed, or was left out."""
    SHIFTING = "shifting"
    """Live traffic is split, and the judge looks once a second."""
    HELD = "held"
    """The shadow gate or the judge could not decide in time; traffic stays until someone promotes or rolls back."""
    PROMOTED = "promoted"
    """The challenger has all traffic and is `champion`."""
    UNDOING = "undoing"
    """Traffic goes back to the champion and the candidate is being removed."""
    UNDONE = "undone"
    """Nothing of the candidate is left, and the champion has all traffic."""


class Outcome(StrEnum):
    """How a release ended."""

    PROMOTED = "promoted"
    REJECTED = "rejected"
    ROLLED_BACK = "rolled back"
    HELD = "held"
    FAILED = "failed"


EXIT_CODES: dict[Outcome, int] = {
    Outcome.PROMOTED: 0,
    Outcome.FAILED: 1,
    Outcome.REJECTED: 3,
    Outcome.ROLLED_BACK: 4,
    Outcome.HELD: 5,
}
"""What the command line returns for each outcome; 2 is bad input, before any release exists."""

_FORWARD = [
    Phase.STARTED,
    Phase.PACKAGED,
    Phase.REGISTERED,
    Phase.DEPLOYED,
    Phase.SMOKED,
    Phase.SHADOWED,
    Phase.SHIFTING,
]

NEXT: dict[Phase, frozenset[Phase]] = {
    **{phase: frozenset({following, Phase.UNDOING}) for phase, following in itertools.pairwise(_FORWARD)},
    # The same content is live already: there is nothing to compare.
    Phase.DEPLOYED: frozenset({Phase.SMOKED, Phase.PROMOTED, Phase.UNDOING}),
    # A first release has nothing to be compared with.
    Phase.SMOKED: frozenset({Phase.SHADOWED, Phase.HELD, Phase.PROMOTED, Phase.UNDOING}),
    Phase.SHIFTING: frozenset({Phase.PROMOTED, Phase.HELD, Phase.UNDOING}),
    # A held release that is resumed goes on looking, or is compared again.
    Phase.HELD: frozenset({Phase.SMOKED, Phase.SHIFTING, Phase.PROMOTED, Phase.UNDOING}),
    Phase.UNDOING: frozenset({Phase.UNDONE}),
    Phase.PROMOTED: frozenset(),
    Phase.UNDONE: frozenset(),
}
"""Which phases may follow a phase. Entering the same phase again is a resumed step, and allowed."""

LEAVES: dict[Phase, str] = {
    Phase.PACKAGED: "an image, or a bundle and its environment: shared, by content, and never taken back",
    Phase.REGISTERED: "a version, which stays, and the alias `challenger`",
    Phase.DEPLOYED: "a revision",
    Phase.SHADOWED: "copies of requests, while the comparison is made",
    Phase.SHIFTING: "traffic on the revision",
}
"""What each phase leaves behind once it was begun; what is not here leaves nothing. It is taken back from the last to
the first (tasks/undo.py): clients first, then what they no longer need, then what people look at."""

ENDED = frozenset({Phase.PROMOTED, Phase.UNDONE})
"""A release in one of these no longer holds its endpoint."""


def may_enter(current: Phase | None, following: Phase) -> bool:
    """Whether a release in `current` (None: not begun) may enter `following`."""
    if current is None:
        return following is Phase.STARTED
    return following is current or following in NEXT[current]


def is_behind(current: Phase | None, phase: Phase) -> bool:
    """Whether a release in `current` has yet to reach `phase`; a resumed one passes by what it had reached."""
    if current is Phase.HELD:
        current = Phase.SHADOWED
    if current not in _FORWARD or phase not in _FORWARD:
        return current is not phase
    return _FORWARD.index(current) < _FORWARD.index(phase)
