"""How a release gets its endpoint: not in a freeze window, not past others that wait, one at a time."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from headgate import clock
from headgate.errors import BadInputError, EndpointBusyError, FrozenError
from headgate.operating import frozen_until
from registry import Kind, history
from registry.queue import Place, waiting
from tasks.step import can_suspend, log

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headgate.spec import ReleaseSpec
    from tasks.job import ReleaseJob

_ASK_SECONDS = 0.5
_HOUSEKEEPING_SECONDS = 60.0
"""A check of a busy machine may last as long."""
_OVERRIDDEN = "freeze overridden"


def require_worker(spec: ReleaseSpec) -> None:
    """Approvals need a run that can end and be started again.

    Raises:
        BadInputError: this one cannot.
    """
    if spec.approvals and not can_suspend():
        raise BadInputError(
            f"{spec.endpoint} has approvals, and a release that waits for one is suspended: no process can wait for it",
            fix="run it on a worker: headgate release --watch, or prefect deployment run release/local",
        )


@contextmanager
def hold_in_turn(job: ReleaseJob, override_freeze: str) -> Iterator[None]:
    """Hold the endpoint, once nothing forbids it and nobody is before us, and begin.

    Args:
        job: the release; one that has begun goes on without waiting for its turn.
        override_freeze: why it may begin in a freeze window.

    Raises:
        FrozenError: a freeze window forbids it.
        EndpointBusyError: another release has the endpoint, and the file says not to wait.
    """
    if job.phase() is not None:
        with job.hold():
            job.begin()
            _override(job, override_freeze)
            yield
        return
    if not override_freeze.strip():
        check_freeze(job)
    with ExitStack() as held:
        if job.spec.when_busy == "queue":
            _wait_for_turn(job, held)
        else:
            _refuse_to_overtake(job)
            _hold_soon(job, held)
        job.begin()
        _override(job, override_freeze)
        yield


def check_freeze(job: ReleaseJob) -> None:
    """Refuse in a freeze window: before a release begins, and before clients see it, which may be days later.

    Raises:
        FrozenError: it is one, and nobody has said why this release may.
    """
    frozen = frozen_until(job.spec.freeze, datetime.now(UTC))
    decided = job.journal.read(job.endpoint, kinds=(Kind.DECISION,), release_id=job.release_id)
    if frozen is None or any(row.what == _OVERRIDDEN for row in decided):
        return
    window, end = frozen
    why = f" ({window.reason})" if window.reason else ""
    raise FrozenError(
        f"{job.endpoint} is frozen until {end:%a %F %H:%M} {window.timezone}{why}",
        fix='wait, or in an emergency: headgate release --override-freeze "why"',
    )


def _override(job: ReleaseJob, reason: str) -> None:
    if reason.strip():
        job.write(Kind.DECISION, _OVERRIDDEN, reason)


def _refuse_to_overtake(job: ReleaseJob) -> None:
    line = waiting(job.journal, job.endpoint)
    if line:
        raise EndpointBusyError(
            f"{len(line)} release(s) wait for {job.endpoint}, the first is {line[0].release_id} ({line[0].name})",
            fix="wait too, with when_busy: queue, or release later",
        )


def _hold_soon(job: ReleaseJob, held: ExitStack) -> None:
    """Hold the endpoint, at once; only what keeps it in order, and is over in a moment, is waited for."""
    deadline = clock.monotonic() + _HOUSEKEEPING_SECONDS
    while True:
        try:
            held.enter_context(job.hold())
        except EndpointBusyError:
            if history.in_flight(job.journal, job.endpoint) is not None or clock.monotonic() > deadline:
                raise
            clock.sleep(_ASK_SECONDS)
        else:
            return


def _wait_for_turn(job: ReleaseJob, held: ExitStack) -> None:
    """Take a place in the line, and the endpoint when it is ours; the place is given up in any case."""
    place, said = Place(job.journal, job.endpoint, job.release_id), ""
    try:
        while True:
            before = [ticket.release_id for ticket in place.ahead()]
            other = history.in_flight(job.journal, job.endpoint)
            names = [*([other.release_id] if other else []), *before]
            if not names:
                try:
                    held.enter_context(job.hold())
                except EndpointBusyError as busy:
                    # A rollback, or a check, that is over in a moment.
                    names = [busy.message]
                else:
                    return
            if (waits := f"{job.release_id} waits for {', '.join(names)}") != said:
                said = waits
                log(waits)
            clock.sleep(_ASK_SECONDS)
    finally:
        place.leave()
