"""Ending a release that another process carries out, or that none does any more."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from headgate.errors import HeadgateError, NotApprovedError, RolledBackError
from headgate.phases import Phase
from registry import Kind
from registry.lease import holder
from registry.orders import ABORT, ask, wait_for_end
from tasks.approval import cancel_run
from tasks.report import conclude
from tasks.step import run
from tasks.undo import undo

if TYPE_CHECKING:
    from headgate.records import ReleaseResult
    from registry.history import InFlight
    from tasks.job import ReleaseJob


def end_release(job: ReleaseJob, reason: str) -> ReleaseResult:
    """Have a release in flight taken back: by its process, or here where it has none.

    Args:
        job: the release, in the name of who wants it ended.
        reason: why.

    Raises:
        TimedOutError: its process does not obey.
    """
    asked = ask(job.journal, job.endpoint, job.release_id, ABORT, reason, job.actor)
    ended = wait_for_end(job.journal, asked)
    if ended is not None:
        return ended
    held = holder(job.journal, job.endpoint)
    error = RolledBackError(f"{job.actor} took it back: {reason}")
    return undo_abandoned(job, error, held.flow_run if held else "")


def undo_abandoned(job: ReleaseJob, error: HeadgateError, suspended: str = "") -> ReleaseResult:
    """Put everything back for a release that no process carries out.

    Args:
        job: the release.
        error: what it ends with.
        suspended: the flow run that waits for an approval, if one does; it is cancelled.
    """
    began = time.monotonic()
    with job.hold(unpark=True):
        run(undo, job, error.message)
        result = run(conclude, job, error, began)
    if suspended and (problem := cancel_run(suspended)):
        job.write(Kind.NOTE, "run not cancelled", f"flow run {suspended}: {problem}")
    return result


def why_abandoned(flight: InFlight, *, waited_for: str, late: bool) -> HeadgateError | None:
    """What an abandoned release ends with; None for one that waits for a person by right.

    Args:
        flight: the release.
        waited_for: the step whose approval it waited for, if it did.
        late: whether the time for that is over.
    """
    if flight.phase is Phase.HELD:
        return None
    if waited_for and late:
        return NotApprovedError(f"nobody approved it before {waited_for} in time")
    if waited_for:
        return RolledBackError(f"its run was ended while it waited for approval before {waited_for}")
    return RolledBackError(f"its process ended while it was {flight.phase}")
