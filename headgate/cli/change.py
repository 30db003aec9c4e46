"""release, promote, rollback, monitor."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from headgate.actor import whoami
from headgate.cli.environment import prefect_is_up, require_prefect, use_stack
from headgate.cli.output import json_option, print_json, print_table, say
from headgate.cli.progress import Progress
from headgate.cli.request import request_of
from headgate.errors import BadInputError, HeadgateError, NotKnownError, RegistryUnavailableError
from headgate.release_file import load_release

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from headgate.home import Home
    from headgate.records import ReleaseResult

_T = TypeVar("_T")


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def run_flow(flow_run: Coroutine[Any, Any, _T]) -> _T:
    """Run a flow. Ctrl-C takes a release back at once; asyncio's own handling would wait for its end."""
    signal.signal(signal.SIGINT, _interrupt)
    return asyncio.run(flow_run)


file_argument = click.argument("path", type=click.Path(path_type=Path), default=Path("release.yaml"))
actor_option = click.option("--actor", default="", help="Who is acting; default: HEADGATE_ACTOR, or the user.")
reason_option = click.option("--reason", required=True, help="Why; it is written into the history.")


@click.command()
@file_argument
@click.option("--release-id", default="", help="Resume this release; one that is not known begins with this id.")
@click.option("--override-freeze", default="", help="In an emergency: why it may begin in a freeze window.")
@click.option("--watch", is_flag=True, help="Have a Prefect worker carry it out, and watch it from here.")
@click.option("--deployment", envvar="HEADGATE_DEPLOYMENT", default="local", help="Which one, with --watch.")
@click.option("--timeout", type=float, default=0.0, help="Watch for at most so many seconds; the release goes on.")
@actor_option
@json_option
def release(
    path: Path, release_id: str, override_freeze: str, watch: bool, deployment: str, timeout: float, actor: str,  # noqa: FBT001
    as_json: bool,  # noqa: FBT001
) -> None:  # fmt: skip
    """Release the model that PATH describes.

    The last line on stdout with --json is the result. Exit codes: 0 promoted, 1 failed, 2 bad input,
    3 rejected by a gate or a person, 4 rolled back by the judge or a person, 5 undecided or still going on,
    6 not known, as the journal does not answer; the release may go on.
    """
    spec = load_release(path)
    home = use_stack()
    require_prefect()
    from tasks import job

    run_id = release_id or job.new_id(spec.endpoint)
    say(f"release {run_id}")
    if spec.approvals and not watch:
        say("it has approvals, for which no process can wait: a worker carries it out")
    try:
        with Progress() as progress:
            if watch or spec.approvals:
                from tasks.watching import carry_out

                given = {"release_id": run_id, "actor": actor or whoami(), "override_freeze": override_freeze}
                result = carry_out(spec, given, f"release/{deployment}", progress, timeout or None)
            else:
                from flows.release import release as release_flow

                job.listeners.append(progress.show)
                result = run_flow(release_flow(spec, run_id, actor, override_freeze=override_freeze))
    except HeadgateError as error:
        known = _result_of(home, run_id)
        if known is not None:
            print_result(known, as_json=as_json)
        elif as_json and isinstance(error, NotKnownError):
            print_json({
                "release_id": run_id, "endpoint": spec.endpoint, "outcome": "unknown", "reason": error.message,
            })  # fmt: skip
        raise
    print_result(result, as_json=as_json)


def _result_of(home: Home, release_id: str) -> ReleaseResult | None:
    """Return how a release ended; None where it has not, or where the journal does not answer."""
    from registry.journal import open_journal
    from tasks.report import result_of

    try:
        with open_journal(home.journal_url) as journal:
            return result_of(journal, release_id)
    except RegistryUnavailableError:
        return None


@click.command()
@click.argument("endpoint")
@reason_option
@actor_option
@json_option
def promote(endpoint: str, reason: str, actor: str, as_json: bool) -> None:  # noqa: FBT001
    """Promote the held release of ENDPOINT."""
    use_stack()
    require_prefect()
    from flows.promote import promote as promote_flow
    from tasks import job

    with Progress() as progress:
        job.listeners.append(progress.show)
        result = run_flow(promote_flow(endpoint, reason, actor))
    print_result(result, as_json=as_json)


@click.command()
@click.argument("endpoint")
@reason_option
@click.option("--to", "version", type=int, help="A version that was live before; default: the one before this.")
@actor_option
@json_option
def rollback(endpoint: str, reason: str, version: int | None, actor: str, as_json: bool) -> None:  # noqa: FBT001
    """Go back to the version before, or end the release of ENDPOINT that is in flight.

    Works while Prefect and MLflow are down.
    """
    use_stack(required=False)
    from flows.rollback import rollback as rollback_flow
    from tasks import job

    call = rollback_flow
    if not prefect_is_up():
        say("the Prefect server does not answer, or refuses the sign-in: rolling back without it")
        call = rollback_flow.fn  # type: ignore[assignment]
    with Progress() as progress:
        job.listeners.append(progress.show)
        result = run_flow(call(endpoint, reason, version, actor))
    print_result(result, as_json=as_json)


@click.command()
@click.argument("path", metavar="PATH", required=False, type=click.Path(path_type=Path))
@click.option("--all", "every", is_flag=True, help="Check every endpoint that is watched.")
@json_option
def monitor(path: Path | None, every: bool, as_json: bool) -> None:  # noqa: FBT001
    """Check the endpoint of PATH for drift; roll back where the file says so."""
    if (path is None) == (not every):
        raise BadInputError("name a release file, or give --all", fix="headgate monitor release.yaml")
    spec = load_release(path) if path is not None else None
    use_stack()
    require_prefect()
    if spec is None:
        _monitor_all(as_json=as_json)
        return
    from flows.monitor import monitor as monitor_flow
    from tasks import job

    with Progress() as progress:
        job.listeners.append(progress.show)
        report = run_flow(monitor_flow(spec))
    if as_json:
        print_json(report.model_dump(mode="json"))
    else:
        click.echo(
            f"{report.endpoint} v{report.version}: {report.reason}" + (" - triggered" if report.triggered else "")
        )
        for said in (report.quality, report.attribution):
            if said is not None:
                click.echo(said.reason)


def _monitor_all(*, as_json: bool) -> None:
    from flows.monitor_all import monitor_all

    made = monitor_all()
    if as_json:
        print_json([one.model_dump() for one in made])
    else:
        print_table("checks", ["endpoint", "state", "why"], [(one.endpoint, one.state, one.reason) for one in made])


def print_result(result: ReleaseResult, *, as_json: bool) -> None:
    """How a release or a rollback ended, on stdout."""
    if as_json:
        print_json(result.model_dump(mode="json"))
        return
    version = f" v{result.version}" if result.version else ""
    live = f"v{result.champion} is live at {result.url}" if result.champion else "nothing is live"
    click.echo(f"{result.endpoint}{version} {result.outcome}: {result.reason}")
    click.echo(
        f"{live}; {result.seconds:.1f} s, of which {result.waited:.1f} s waiting; report: {result.report or 'none'}"
    )
    if result.champion and (request := request_of(result.endpoint, result.url)):
        click.echo(f"to ask it: {request}")
