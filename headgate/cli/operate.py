"""pause, resume, abort; approvals, approve, reject: acting on a release that another process carries out."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from headgate.cli.change import actor_option, print_result, reason_option, run_flow
from headgate.cli.environment import prefect_is_up, require_prefect, use_stack
from headgate.cli.output import json_option, print_json, say
from headgate.errors import BadInputError, HeadgateError
from headgate.home import Home

if TYPE_CHECKING:
    from collections.abc import Iterator

    from registry import Entry, Journal
    from tasks.approval import Request


@click.command()
@click.argument("endpoint")
@reason_option
@actor_option
def pause(endpoint: str, reason: str, actor: str) -> None:
    """Keep the release of ENDPOINT where it is; the judge goes on, and harm still takes it back."""
    _decide(endpoint, "pause", reason, actor)


@click.command()
@click.argument("endpoint")
@reason_option
@actor_option
def resume(endpoint: str, reason: str, actor: str) -> None:
    """Let the paused release of ENDPOINT go on."""
    _decide(endpoint, "resume", reason, actor)


@click.command()
@click.argument("endpoint")
@reason_option
@actor_option
@json_option
def abort(endpoint: str, reason: str, actor: str, as_json: bool) -> None:  # noqa: FBT001
    """Take back the release of ENDPOINT that is in flight; what is live stays live.

    Works while Prefect and MLflow are down.
    """
    from registry.orders import wait_for_end

    with _journal() as journal:
        # Asked first, and without Prefect, which takes seconds to import: clients wait for this.
        asked = _ask(journal, endpoint, "abort", reason, actor)
        result = wait_for_end(journal, asked)
    if result is None:
        # No process holds it, or it waits for an approval: it is taken back here.
        use_stack(required=False)
        from flows.abort import abort as abort_flow

        result = run_flow((abort_flow if prefect_is_up() else abort_flow.fn)(endpoint, reason, actor, asked.release_id))
    print_result(result, as_json=as_json)


@click.command()
@json_option
def approvals(as_json: bool) -> None:  # noqa: FBT001
    """Show what waits for an approval."""
    use_stack()
    from tasks.approval import open_requests

    with _journal() as journal:
        requests = open_requests(journal)
    if as_json:
        print_json([request.model_dump(mode="json") for request in requests])
        return
    for request in requests:
        click.echo(
            f"{request.release_id}: before {request.before}, image {request.digest[:19]}, "
            f"until {request.expires_at:%F %T %Z}\n  {request.url}"
        )
    if not requests:
        click.echo("nothing waits for approval")


@click.command()
@click.argument("release_id")
@reason_option
@actor_option
def approve(release_id: str, reason: str, actor: str) -> None:
    """Approve the release that `headgate approvals` shows as RELEASE_ID."""
    _answer(release_id, approved=True, reason=reason, actor=actor)


@click.command()
@click.argument("release_id")
@reason_option
@actor_option
def reject(release_id: str, reason: str, actor: str) -> None:
    """Reject the release that `headgate approvals` shows as RELEASE_ID; everything is put back."""
    _answer(release_id, approved=False, reason=reason, actor=actor)


def _answer(release_id: str, *, approved: bool, reason: str, actor: str) -> None:
    use_stack()
    require_prefect()
    from headgate.actor import whoami
    from tasks.approval import answer, open_requests

    with _journal() as journal:
        requests = open_requests(journal)
    found: Request | None = next((request for request in requests if request.release_id == release_id), None)
    if found is None:
        waiting = ", ".join(request.release_id for request in requests) or "none does"
        raise BadInputError(f"{release_id} does not wait for an approval", fix=f"those that wait: {waiting}")
    problem = answer(found, approved=approved, approver=actor or whoami(), reason=reason)
    if problem:
        raise HeadgateError(f"the Prefect server did not take the answer: {problem}", fix=f"open {found.url}")
    done = "approved: it goes on" if approved else "rejected: everything is put back"
    say(f"{release_id} is {done} as soon as a worker takes it up; headgate status {found.endpoint}")


def _decide(endpoint: str, what: str, reason: str, actor: str) -> None:
    with _journal() as journal:
        asked = _ask(journal, endpoint, what, reason, actor)
    say(f"{asked.release_id} is to {what}; headgate status {endpoint}")


def _ask(journal: Journal, endpoint: str, what: str, reason: str, actor: str) -> Entry:
    from headgate.actor import whoami
    from registry.orders import ask, require_in_flight

    flight = require_in_flight(journal, endpoint)
    return ask(journal, endpoint, flight.release_id, what, reason, actor or whoami())


@contextmanager
def _journal() -> Iterator[Journal]:
    from registry.journal import open_journal

    with open_journal(Home.from_env().ensure().journal_url) as journal:
        yield journal
