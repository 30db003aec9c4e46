"""What someone asks of the process that carries out a release: rows of its history, which it reads while it works."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headgate import clock
from headgate.errors import NothingToRollBackError, TimedOutError
from headgate.records import ReleaseResult
from registry.endpoints import require_endpoint
from registry.history import OUTCOME, in_flight
from registry.journal import Entry, Kind
from registry.lease import holder

if TYPE_CHECKING:
    from registry.history import InFlight
    from registry.journal import Journal
    from registry.lease import Holder

ABORT, PAUSE, RESUME = "abort", "pause", "resume"
"""To take the release back, to stay where it is, to go on."""

_END_SECONDS = 120.0
_POLL_SECONDS = 0.05


def require_in_flight(journal: Journal, endpoint: str) -> InFlight:
    """The release of an endpoint that has not ended.

    Raises:
        BadInputError: there is no such endpoint.
        NothingToRollBackError: there is no release.
    """
    require_endpoint(journal, endpoint)
    flight = in_flight(journal, endpoint)
    if flight is None:
        raise NothingToRollBackError(
            f"no release of {endpoint} is in flight", fix="headgate status; to go back a version: headgate rollback"
        )
    return flight


def ask(journal: Journal, endpoint: str, release_id: str, what: str, reason: str, actor: str) -> Entry:
    """Ask for something: ABORT, PAUSE or RESUME."""
    row = Entry(
        endpoint=endpoint, release_id=release_id, kind=Kind.DECISION, what=what, actor=actor, reason=reason
    )  # fmt: skip
    return journal.append(row)


def _process_of(journal: Journal, asked: Entry) -> Holder | None:
    """The process that carries the release out; another release may have the endpoint by now."""
    held = holder(journal, asked.endpoint)
    is_its = held is not None and held.release_id == asked.release_id and not held.flow_run
    return held if is_its else None


def wait_for_end(journal: Journal, asked: Entry) -> ReleaseResult | None:
    """Wait until no process holds the endpoint for that release any more.

    Args:
        journal: where to look.
        asked: the order to end.

    Returns:
        How its process ended the release since; None where no process did, or one waits for an approval.

    Raises:
        TimedOutError: the process does not obey.
    """
    deadline = clock.monotonic() + _END_SECONDS
    while (held := _process_of(journal, asked)) is not None:
        if clock.monotonic() > deadline:
            raise TimedOutError(
                f"release {asked.release_id} of {asked.endpoint} was not taken back within {_END_SECONDS:g} s; "
                f"{held.name} holds it",
                fix="it obeys at its next step: see headgate status; else end that process, and try again",
            )
        clock.sleep(_POLL_SECONDS)
    rows = journal.read(asked.endpoint, release_id=asked.release_id, after=asked.seq)
    ended = [row for row in rows if row.what == OUTCOME]
    return ReleaseResult.model_validate(ended[-1].evidence["result"]) if ended else None
