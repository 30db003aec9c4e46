"""End releases that nobody carries out any more: whose process died, run was cancelled or approval expired."""

from __future__ import annotations

import contextlib
import time
from datetime import UTC, datetime

from prefect import flow
from pydantic import ValidationError

from headgate.actor import whoami
from headgate.errors import EndpointBusyError, HeadgateError
from headgate.home import Home
from headgate.records import ReleaseResult
from headgate.spec import ReleaseSpec
from registry import Journal, history
from registry.journal import open_journal
from registry.lease import LEASE_SECONDS, Holder, holder
from tasks.approval import open_requests, run_is_over
from tasks.ending import undo_abandoned, why_abandoned
from tasks.job import ReleaseJob
from tasks.step import run
from tasks.undo import expired, retire_expired

_ASK_SECONDS = 1.0


@flow(name="reconcile", flow_run_name="reconcile")
async def reconcile(endpoint: str = "", actor: str = "") -> list[ReleaseResult]:
    """Put endpoints back on their champion whose release has no living holder.

    A held release stays: it waits for a person. What is no longer kept warm is removed.

    Args:
        endpoint: only this one; all by default.
        actor: in whose name; `reconcile` by default.

    Returns:
        How each release that was found has ended.

    Raises:
        HeadgateError: some endpoints could not be put in order; the others were.
    """
    home = Home.from_env().ensure()
    ended: list[ReleaseResult] = []
    problems: list[str] = []
    with open_journal(home.journal_url) as journal:
        names = [endpoint] if endpoint else journal.endpoints()
        for name in names:
            try:
                result = _reconcile(home, journal, name, actor or f"reconcile ({whoami()})")
            except (HeadgateError, ValidationError) as error:
                # The others are not to wait for this one.
                problems.append(f"{name}: {str(error).splitlines()[0]}")
            else:
                ended += [result] if result is not None else []
    if problems:
        raise HeadgateError(f"not all endpoints are in order: {'; '.join(problems)}", fix="headgate status")
    return ended


def _reconcile(home: Home, journal: Journal, endpoint: str, actor: str) -> ReleaseResult | None:
    flight = history.in_flight(journal, endpoint)
    spec = history.spec_of(journal, endpoint)
    if spec is None:
        return None
    release_id = flight.release_id if flight else "reconcile"
    job = ReleaseJob(home, journal, ReleaseSpec.model_validate(spec), release_id, actor)
    if flight is None:
        if expired(job, job.spec.rollback.keep_warm):
            # Who holds it sees to it.
            with contextlib.suppress(EndpointBusyError), job.hold():
                run(retire_expired, job, job.spec.rollback.keep_warm)
        return None
    asked = [request for request in open_requests(journal) if request.release_id == flight.release_id]
    late = bool(asked) and asked[-1].expires_at <= datetime.now(UTC)
    if asked and not late and not run_is_over(asked[-1].flow_run):
        return None
    held = _dead_or_alive(journal, endpoint)
    current = history.in_flight(journal, endpoint)
    error = why_abandoned(flight, waited_for=asked[-1].before if asked else "", late=late)
    is_held = held is not None and not held.flow_run
    if is_held or error is None or current is None or current.release_id != flight.release_id:
        return None
    return undo_abandoned(job, error)


def _dead_or_alive(journal: Journal, endpoint: str) -> Holder | None:
    """Who holds the endpoint, once it is clear whether that process lives: a lease that is renewed has a living one."""
    first = holder(journal, endpoint)
    deadline = time.monotonic() + LEASE_SECONDS
    while first is not None and not first.flow_run and time.monotonic() < deadline:
        time.sleep(_ASK_SECONDS)
        now = holder(journal, endpoint)
        if now is None or now.fence != first.fence or now.expires > first.expires:
            return now
    return holder(journal, endpoint)
