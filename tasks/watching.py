"""Having a worker carry out a release, and watching it through its history."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Protocol

from headgate import clock, errors
from headgate.errors import (
    HeadgateError,
    NotKnownError,
    RegistryUnavailableError,
    TargetUnavailableError,
    TimedOutError,
)
from headgate.home import Home
from headgate.phases import Outcome
from headgate.records import ReleaseResult
from registry import history
from registry.history import OUTCOME
from registry.journal import open_journal
from tasks.deployments import state_of, submit

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

    from prefect.client.schemas.objects import State

    from headgate.spec import ReleaseSpec
    from registry import Entry, Journal

_POLL_SECONDS = 0.25
_ASK_SECONDS = 2.0
_RECONCILE_SECONDS = 90.0
_AWAY_SECONDS = 600.0
"""How long the journal is waited for once the flow run has ended, or the release should have."""
_ENDINGS: dict[Outcome, type[HeadgateError]] = {
    Outcome.REJECTED: errors.RejectedError, Outcome.ROLLED_BACK: errors.RolledBackError,
    Outcome.HELD: errors.TimedOutError, Outcome.FAILED: HeadgateError,
}  # fmt: skip


class Shows(Protocol):
    """Shows people a release."""

    def show(self, entry: Entry) -> None:
        """Show a row of its history."""

    def tell(self, message: str) -> None:
        """Show what is not in its history."""


def carry_out(
    spec: ReleaseSpec, parameters: Mapping[str, str], deployment: str, shows: Shows, timeout: float | None
) -> ReleaseResult:
    """Run a release on a worker and watch it to its end, also while the journal does not answer.

    Args:
        spec: the release file.
        parameters: of the flow, with `release_id`.
        deployment: such as release/local.
        shows: every row of its history.
        timeout: seconds to watch it for.

    Raises:
        HeadgateError: what it ended with; TimedOutError where it goes on after `timeout`, NotKnownError where the
            journal does not answer by the time that the release may take.
    """
    with open_journal(Home.from_env().ensure().journal_url) as journal:
        # A release that is resumed has rows already; they are no news.
        known = journal.read(spec.endpoint, release_id=parameters["release_id"], newest=1)
        run = submit(deployment, {"spec": spec.model_dump(mode="json"), **parameters})
        watching = _Watching(journal, spec, parameters["release_id"], run, known[-1].seq if known else 0, shows)
        while (result := watching.look(timeout)) is None:
            clock.sleep(_POLL_SECONDS)
    return _as_it_ended(result)


class _Watching:
    """Reads the rows of a release, and asks Prefect after its flow run.

    Args:
        journal: where its rows are written.
        spec: the release file.
        release_id: the release's.
        run: the flow run's id.
        seen: the number of the last row that is no news.
        shows: the others.
    """

    def __init__(
        self, journal: Journal, spec: ReleaseSpec, release_id: str, run: UUID, seen: int, shows: Shows
    ) -> None:
        self._journal, self._spec, self._release_id, self._run = journal, spec, release_id, run
        self._seen, self._shows = seen, shows
        self._began = self._asked = clock.monotonic()
        self._over: float | None = None
        self._away: float | None = None

    def look(self, timeout: float | None) -> ReleaseResult | None:
        """Return how the release ended; None while it goes on."""
        patience = _RECONCILE_SECONDS
        try:
            if (ended := self._read()) is not None:
                return ended
            if self._over is not None:
                patience = _patience(self._journal, self._spec.endpoint, self._release_id)
            if self._away is not None:
                self._shows.tell("the journal answers again")
                self._away = None
        except RegistryUnavailableError as error:
            if self._away is None:
                self._shows.tell(f"{error.message}\nthe release goes on, and this command waits for the journal")
                self._away = clock.monotonic()
        self._go_on(clock.monotonic(), timeout, patience)
        return None

    def _read(self) -> ReleaseResult | None:
        rows = self._journal.read(self._spec.endpoint, release_id=self._release_id, after=self._seen)
        for row in rows:
            self._shows.show(row)
            self._seen = row.seq
        ended = [row for row in rows if row.what == OUTCOME]
        return ReleaseResult.model_validate(ended[-1].evidence["result"]) if ended else None

    def _go_on(self, now: float, timeout: float | None, patience: float) -> None:
        """Raise why watching ends before the release has an outcome, where it does."""
        if now - self._asked > _ASK_SECONDS:
            self._asked = now
            self._over = (self._over or now) if _is_over(self._run) else None
        is_late = timeout is not None and now - self._began > timeout
        if self._away is not None:
            ends = min(self._over or now, self._began + _longest(self._spec)) + _AWAY_SECONDS
            if is_late or now > max(ends, self._away + _AWAY_SECONDS):
                raise NotKnownError(
                    f"how release {self._release_id} ends is not known: "
                    f"the journal has not answered for {now - self._away:.0f} s",
                    fix=f"once it answers: headgate status {self._spec.endpoint}; the release may go on",
                )
            return
        if self._over is not None and now - self._over > patience:
            _refuse_ended(state_of(self._run))
        if is_late:
            raise TimedOutError(
                f"release {self._release_id} goes on after {timeout:g} s",
                fix=f"headgate status {self._spec.endpoint}",
            )


def _longest(spec: ReleaseSpec) -> float:
    """Return how many seconds a release may take by its file, with an hour for all that has no limit there."""
    waits = [spec.strategy.max_duration, *(approval.expires for approval in spec.approvals)]
    if spec.gates.shadow is not None:
        waits.append(spec.gates.shadow.max_duration)
    return 3600.0 + sum(waits)


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
