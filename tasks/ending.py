"""Ending what another process began and does not carry out any more: a release, a promotion, a rollback.

Everything here works without Prefect and without MLflow. It is called by people's orders (abort, rollback), by
`reconcile`, and by the guard.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from headgate import clock
from headgate.errors import HeadgateError, NotApprovedError, RolledBackError
from headgate.phases import ENDED, Phase
from headgate.records import Revision
from registry import Kind, history
from registry.lease import holder
from registry.orders import ABORT, ask, wait_for_end
from tasks.approval import cancel_run
from tasks.deployments import LOCAL, submit
from tasks.report import conclude, error_of, outcome_of, result_of
from tasks.rollback import go_back
from tasks.shift import promote
from tasks.step import run
from tasks.undo import give_all_traffic, retire_expired, undo

if TYPE_CHECKING:
    from headgate.records import ReleaseResult
    from registry import Entry, Journal
    from registry.history import InFlight
    from tasks.job import ReleaseJob

HANDED_OVER = "handed over"
"""The note that a new run is to go on with a release."""

_HANDOVER = timedelta(minutes=2)
"""How long a new run may take to begin; Prefect's worker needs some ten seconds."""
_HANDOVERS = 3


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
    result = undo_abandoned(job, RolledBackError(f"{job.actor} took it back: {reason}"))
    if held is not None and held.flow_run and (problem := cancel_run(held.flow_run)):
        job.write(Kind.NOTE, "run not cancelled", f"flow run {held.flow_run}: {problem}")
    return result


def undo_abandoned(job: ReleaseJob, error: HeadgateError) -> ReleaseResult:
    """Put everything back for a release that no process carries out; one that is live already is promoted.

    Args:
        job: the release.
        error: what it ends with.
    """
    began = clock.monotonic()
    with job.hold(unpark=True):
        if job.phase() in ENDED:
            # The guard was quicker.
            return result_of(job.journal, job.release_id) or run(conclude, job, error_of(job), began)
        return _end(job, error, began)


def settle_release(job: ReleaseJob, seen: InFlight, error: HeadgateError) -> ReleaseResult | None:
    """End an abandoned release as its file wants it: taken back, or handed to a new run.

    Args:
        job: the release.
        seen: how it was when it was found to be abandoned; one that has gone on since is not.
        error: what it ends with where it is taken back.

    Returns:
        How it ended; None where it goes on, or another process was faster.
    """
    began = clock.monotonic()
    with job.hold(unpark=True):
        if history.in_flight(job.journal, job.endpoint) != seen:
            return None
        if _may_go_on(job, seen) and _hand_over(job):
            return None
        return _end(job, error, began)


def settle_result(job: ReleaseJob) -> ReleaseResult | None:
    """Write down how a release ended whose process died between its last change and that."""
    began = clock.monotonic()
    with job.hold():
        if history.unconcluded(job.journal, job.endpoint) != job.release_id:
            return None
        run(retire_expired, job, job.spec.rollback.keep_warm)
        return run(conclude, job, error_of(job), began)


def settle_rollback(job: ReleaseJob, decided: Entry) -> None:
    """Carry a rollback out whose process died on the way."""
    with job.hold():
        current = history.unfinished_rollback(job.journal, job.endpoint)
        if current is not None and current.seq == decided.seq:
            reigns = history.reigns(job.journal, job.endpoint)
            earlier = next(reign for reign in reversed(reigns) if reign.revision.name == decided.evidence["to"])
            go_back(job, decided, earlier.revision)


def put_in_order(job: ReleaseJob, error: BaseException, reason: str) -> BaseException | None:
    """End a release that is held and failed with an error.

    Args:
        job: the release.
        error: what happened.
        reason: how the history calls it.

    Returns:
        What the release ended with: the error, or why it could not be put back; None where its version was live by
        then, and stays.
    """
    try:
        if _finish_promotion(job):
            return None
        run(undo, job, reason, outcome_of(error))
    except HeadgateError as problem:
        return problem
    return error


def why_abandoned(journal: Journal, flight: InFlight, endpoint: str) -> HeadgateError | None:
    """What a release without a living holder ends with; None while it waits for something by right.

    That is a person who promotes what is held, or approves; or the run that it was handed to.
    """
    if flight.phase is Phase.HELD and not history.is_promotion_decided(journal, endpoint, flight.release_id):
        return None
    now = datetime.now(UTC)
    for request in history.open_approvals(journal, endpoint):
        if datetime.fromisoformat(request["expires_at"]) > now:
            return None
        return NotApprovedError(f"nobody approved it before {request['before']} in time")
    handed = _handed_over(journal, endpoint, flight.release_id)
    if handed and handed[-1].at + _HANDOVER > now and flight.since < handed[-1].at:
        return None
    return RolledBackError(f"its process ended while it was {flight.phase}")


def _end(job: ReleaseJob, error: HeadgateError, began: float) -> ReleaseResult:
    if _finish_promotion(job):
        run(retire_expired, job, job.spec.rollback.keep_warm)
        return run(conclude, job, None, began)
    # One that was being undone ends with what that began with.
    error = error_of(job) or error
    run(undo, job, error.message, outcome_of(error))
    return run(conclude, job, error, began)


def _finish_promotion(job: ReleaseJob) -> bool:
    """Promote what is live already, or was to be by somebody's decision; whether it was."""
    reign, phase = history.champion(job.journal, job.endpoint), job.phase()
    if phase in {Phase.PROMOTED, Phase.UNDOING}:
        return phase is Phase.PROMOTED
    if reign is not None and reign.release_id == job.release_id:
        run(promote, job, reign.revision, reign.reason)
        return True
    if phase is Phase.HELD and history.is_promotion_decided(job.journal, job.endpoint, job.release_id):
        run(promote, job, challenger_of(job), "a person decided it")
        return True
    return False


def challenger_of(job: ReleaseJob) -> Revision:
    """The revision that a release has deployed."""
    rows = job.journal.read(job.endpoint, kinds=(Kind.PHASE,), release_id=job.release_id)
    deployed = next(row for row in rows if row.what == Phase.DEPLOYED)
    return Revision.model_validate(deployed.evidence["revision"])


def _may_go_on(job: ReleaseJob, flight: InFlight) -> bool:
    handed = _handed_over(job.journal, job.endpoint, job.release_id)
    asked = job.journal.read(job.endpoint, kinds=(Kind.DECISION,), release_id=job.release_id)
    is_wanted = job.spec.when_abandoned == "resume" and not any(row.what == ABORT for row in asked)
    return is_wanted and flight.phase not in {Phase.UNDOING, Phase.HELD} and len(handed) < _HANDOVERS


def _hand_over(job: ReleaseJob) -> bool:
    """Put clients on the champion, as nobody judges until the new run does, and have a worker go on."""
    champion = job.champion
    if champion is not None:
        give_all_traffic(job, champion)
    name = f"release/{os.environ.get('HEADGATE_DEPLOYMENT') or LOCAL}"
    given = {"spec": job.spec.model_dump(mode="json"), "release_id": job.release_id, "actor": job.actor}
    try:
        new_run = submit(name, given)
    except HeadgateError as problem:
        job.write(Kind.NOTE, "not handed over", problem.message)
        return False
    job.write(Kind.NOTE, HANDED_OVER, f"{name} goes on with it, as flow run {new_run}")
    return True


def _handed_over(journal: Journal, endpoint: str, release_id: str) -> list[Entry]:
    rows = journal.read(endpoint, kinds=(Kind.NOTE,), release_id=release_id)
    return [row for row in rows if row.what == HANDED_OVER]
