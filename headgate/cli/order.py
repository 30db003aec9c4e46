"""reconcile, guard: what keeps endpoints in order when the process that changed them is gone."""

from __future__ import annotations

import logging
import signal
import threading

import click

from headgate.cli.change import actor_option, print_result, run_flow
from headgate.cli.environment import prefect_is_up, use_stack
from headgate.cli.output import json_option, print_json
from headgate.cli.progress import Progress


@click.command()
@click.argument("endpoint", default="")
@click.option("--dry-run", is_flag=True, help="Only show what would be done.")
@actor_option
@json_option
def reconcile(endpoint: str, dry_run: bool, actor: str, as_json: bool) -> None:  # noqa: FBT001
    """Put in order what nobody is at work on, at ENDPOINT or everywhere; works while Prefect is down.

    Releases whose process died, traffic or revisions that were changed by hand, aliases and reports that MLflow was
    away for, and what was left behind.
    """
    use_stack(required=False)
    from flows.reconcile import reconcile as reconcile_flow
    from tasks import job

    with Progress() as progress:
        job.listeners.append(progress.show)
        call = reconcile_flow if prefect_is_up() else reconcile_flow.fn
        found = run_flow(call(endpoint, actor, dry_run))
    if as_json:
        print_json([one.model_dump(mode="json") for one in found])
        return
    for one in found:
        remedy = one.remedy or "for a person to decide"
        click.echo(f"{one.endpoint or 'this machine'}: {one.problem}")
        click.echo(f"  {'would be: ' if dry_run and one.remedy else ''}{remedy}")
        if one.result is not None:
            print_result(one.result, as_json=False)
    if not found:
        click.echo("everything is in order")


@click.command()
@click.option("--once", is_flag=True, help="Look once, settle what is found, and end.")
@actor_option
def guard(once: bool, actor: str) -> None:  # noqa: FBT001
    """Watch for releases that lose their process, and end them at once; needs neither Prefect nor MLflow.

    `headgate up` runs one. Any number may run, on any machine that reaches the journal and the target.
    """
    home = use_stack(required=False).ensure()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    from registry.journal import open_journal
    from tasks.guard import Guard

    with open_journal(home.journal_url) as journal:
        watching = Guard(home, journal, actor)
        if once:
            for endpoint in watching.look():
                click.echo(endpoint)
            watching.finish()
            watching.close()
            return
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        watching.run(stop)
