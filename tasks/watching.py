"""Having a worker carry out a release, and watching it through its history."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

from headgate import errors
from headgate.errors import HeadgateError, TimedOutError
from headgate.home import Home
from headgate.phases import Outcome
from registry.journal import open_journal
from registry.orders import OUTCOME
from tasks.deployments import state_of, submit
from tasks.report import result_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from prefect.client.schemas.objects import State

    from headgate.records import ReleaseResult
    from headgate.spec import ReleaseSpec
    from registry import Entry

_POLL_SECONDS = 0.25
_ASK_SECONDS = 2.0
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
    run = submit(deployment, {"spec": spec.model_dump(mode="json"), **parameters})
    release_id, seen, asked = parameters["release_id"], 0, time.monotonic()
    deadline = time.monotonic() + timeout if timeout else None
    with open_journal(Home.from_env().ensure().journal_url) as journal:
        while True:
            rows = journal.read(spec.endpoint, release_id=release_id, after=seen)
            for row in rows:
                show(row)
                seen = row.seq
            if any(row.what == OUTCOME for row in rows):
                result = result_of(journal, release_id)
                assert result is not None  # noqa: S101 - its row was just read
                return _as_it_ended(result)
            if time.monotonic() - asked > _ASK_SECONDS:
                asked = time.monotonic()
                _refuse_ended(state_of(run))
            if deadline is not None and asked > deadline:
                raise TimedOutError(
                    f"release {release_id} goes on after {timeout:g} s", fix=f"headgate status {spec.endpoint}"
                )
            time.sleep(_POLL_SECONDS)


def _as_it_ended(result: ReleaseResult) -> ReleaseResult:
    kind = _ENDINGS.get(result.outcome)
    if kind is not None:
        raise kind(result.reason, fix=f"headgate history {result.endpoint} --all; report: {result.report}")
    return result


def _refuse_ended(state: State[Any] | None) -> None:
    """Raise what a run ended with that wrote no outcome: it was refused before it began, or its process died."""
    if state is None or not state.is_final() or state.is_completed():
        return
    # Prefect writes `…: SpecError: message`; the class says which exit code it is.
    found = re.search(r"(?:^|[ .:])([A-Z]\w+Error): (.*)", state.message or "", re.DOTALL)
    kind = getattr(errors, found[1], None) if found else None
    message = found[2] if found else f"the flow run is {state.name}: {state.message}"
    if isinstance(kind, type) and issubclass(kind, HeadgateError):
        said, _, fix = message.partition("\n  fix: ")
        raise kind(said, fix=fix)
    raise HeadgateError(message, fix="its log is in the Prefect UI; headgate reconcile puts back what it left")
