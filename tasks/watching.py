"""Having a worker carry out a release, and watching it through its history."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

from headgate import errors
from headgate.errors import HeadgateError, TargetUnavailableError, TimedOutError
from headgate.home import Home
from headgate.phases import Outcome
from headgate.records import ReleaseResult
from registry import history
from registry.history import OUTCOME
from registry.journal import open_journal
from tasks.deployments import state_of, submit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from uuid import UUID

    from prefect.client.schemas.objects import State

    from headgate.spec import ReleaseSpec
    from registry import Entry, Journal

_POLL_SECONDS = 0.25
_ASK_SECONDS = 2.0
_RECONCILE_SECONDS = 90.0
_ENDINGS: dict[Outcome, type[HeadgateError]] = {
    Outcome.REJECTED: errors.RejectedError, Outcome.ROLLED_BACK: errors.RolledBackError,
    Outcome.HELD: errors.TimedOutError, Outcome.FAILED: HeadgateError,
}  # fmt: skip


def carry_out(
    spec: ReleaseSpec, parameters: Mapping[str, str], deployment: str, show: Callable[[Entry], None],
    timeout: float | None,
) -> ReleaseResult:  # fmt: skip
    """Run a release on a worker and watch it to its end.

    Args:
        spec: the release file.
        parameters: of the flow, with `release_id`.
        deployment: such as release/local.
        show: called with every row of its history.
        timeout: seconds to watch it for.

    Raises:
        HeadgateError: what it ended with; TimedOutError where it goes on after `timeout`.
    """
    release_id = parameters["release_id"]
    with open_journal(Home.from_env().ensure().journal_url) as journal:
        # A release that is resumed has rows already; they are no news.
        known = journal.read(spec.endpoint, release_id=release_id, newest=1)
        seen = known[-1].seq if known else 0
        run = submit(deployment, {"spec": spec.model_dump(mode="json"), **parameters})
        began = asked = time.monotonic()
        over: float | None = None
        while True:
            rows = journal.read(spec.endpoint, release_id=release_id, after=seen)
            for row in rows:
                show(row)
                seen = row.seq
            ended = [row for row in rows if row.what == OUTCOME]
            if ended:
                return _as_it_ended(ReleaseResult.model_validate(ended[-1].evidence["result"]))
            now = time.monotonic()
            if now - asked > _ASK_SECONDS:
                asked = now
                over = (over or now) if _is_over(run) else None
            if over is not None and now - over > _patience(journal, spec.endpoint, release_id):
                _refuse_ended(state_of(run))
            if timeout is not None and now - began > timeout:
                raise TimedOutError(
                    f"release {release_id} goes on after {timeout:g} s", fix=f"headgate status {spec.endpoint}"
                )
            time.sleep(_POLL_SECONDS)


def _is_over(run: UUID) -> bool:
    try:
        state = state_of(run)
    except TargetUnavailableError:
        # A server that is being started again; the release does not need it to go on.
        return False
    return state is None or state.is_final()


def _patience(journal: Journal, endpoint: str, release_id: str) -> float:
    """Seconds in which the outcome may still come: somebody puts back a release whose run has ended without it."""
    flight = history.in_flight(journal, endpoint)
    return _RECONCILE_SECONDS if flight is not None and flight.release_id == release_id else _ASK_SECONDS


def _as_it_ended(result: ReleaseResult) -> ReleaseResult:
    kind = _ENDINGS.get(result.outcome)
    if kind is not None:
        raise kind(result.reason, fix=f"headgate history {result.endpoint} --all; report: {result.report}")
    return result


def _refuse_ended(state: State[Any] | None) -> None:
    """Raise what a run ended with that wrote no outcome: it was refused before it began, or its process died."""
    if state is None or state.is_completed():
        raise HeadgateError(
            "the flow run has ended, but the journal here has nothing of its release",
            fix="set HEADGATE_JOURNAL_URL to the worker's journal",
        )
    # Prefect writes `…: SpecError: message`; the class says which exit code it is.
    found = re.search(r"(?:^|[ .:])([A-Z]\w+Error): (.*)", state.message or "", re.DOTALL)
    kind = getattr(errors, found[1], None) if found else None
    message = found[2] if found else f"the flow run is {state.name}: {state.message}"
    if isinstance(kind, type) and issubclass(kind, HeadgateError):
        said, _, fix = message.partition("\n  fix: ")
        raise kind(said, fix=fix)
    raise HeadgateError(message, fix="its log is in the Prefect UI; headgate reconcile puts back what it left")
