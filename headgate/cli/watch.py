"""watch, unwatch, automations: what runs by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from headgate.cli.change import actor_option, file_argument
from headgate.cli.environment import require_prefect, use_stack
from headgate.cli.output import json_option, print_json, print_table, say
from headgate.errors import BadInputError
from headgate.release_file import load_release

if TYPE_CHECKING:
    from pathlib import Path

    from headgate.monitor import Monitor


@click.command()
@file_argument
@click.option("--no-schedule", is_flag=True, help="It is checked with all others, by headgate monitor --all.")
@actor_option
def watch(path: Path, no_schedule: bool, actor: str) -> None:  # noqa: FBT001
    """Check the endpoint of PATH by its schedule, and release by its `release_when`, from now on.

    Watching it again takes the file as it is then.
    """
    spec = load_release(path)
    if spec.monitor is None and spec.release_when is None:
        raise BadInputError(
            f"{path} has neither monitor nor release_when: there is nothing to watch", fix="add `monitor: {}`"
        )
    home = use_stack()
    require_prefect()
    from headgate.actor import whoami
    from registry.journal import open_journal
    from registry.watches import watch as remember
    from tasks.deployments import schedule_monitor, unschedule_monitor

    with open_journal(home.journal_url) as journal:
        remember(journal, spec, actor or whoami(), scheduled=not no_schedule)
    if no_schedule:
        unschedule_monitor(spec.endpoint)
        say(f"{spec.endpoint} is checked whenever all are: headgate monitor --all")
    elif schedule_monitor(spec) and spec.monitor:
        _say_when_checked(spec.endpoint, spec.monitor)
    if spec.release_when is not None:
        said = f"the alias {spec.release_when.alias}" if spec.release_when.alias else f"the tag {spec.release_when.tag}"
        say(f"a version of {spec.model} is released to {spec.endpoint} when it gets {said}")


def _say_when_checked(endpoint: str, monitor: Monitor) -> None:
    """Say when the first check is due, once the Prefect server has made a run of it."""
    from tasks.deployments import first_check

    schedule = f"schedule {monitor.schedule}, {monitor.timezone}"
    due = first_check(endpoint)
    if due is None:
        say(f"warning: {endpoint} has a schedule ({schedule}), but the Prefect server has made no run of it: its "
            "scheduler may fail\n  fix: headgate doctor")  # fmt: skip
    else:
        say(f"{endpoint} is watched; the next check is at {due:%F %H:%M} UTC ({schedule})")


@click.command()
@click.argument("endpoint")
@actor_option
def unwatch(endpoint: str, actor: str) -> None:
    """Neither check ENDPOINT nor release to it by itself any more."""
    home = use_stack()
    require_prefect()
    from headgate.actor import whoami
    from registry.journal import open_journal
    from registry.watches import unwatch as forget
    from registry.watches import watched
    from tasks.deployments import unschedule_monitor

    with open_journal(home.journal_url) as journal:
        if endpoint not in watched(journal):
            raise BadInputError(f"{endpoint} is not watched", fix=f"watched: {', '.join(watched(journal)) or 'none'}")
        unschedule_monitor(endpoint)
        forget(journal, endpoint, actor or whoami())
    say(f"{endpoint} is no longer watched")


@click.command()
@click.argument("action", type=click.Choice(["list", "apply"]), default="list")
@click.option("--notify", default="", help="A Prefect notification block that is told of failed releases: TYPE/NAME.")
@json_option
def automations(action: str, notify: str, as_json: bool) -> None:  # noqa: FBT001
    """Show Headgate's automations on the Prefect server, or `apply` them."""
    use_stack()
    require_prefect()
    from tasks.automations import apply_automations, list_automations

    if action == "apply":
        rows = [(name, done, "") for name, done in apply_automations(notify=notify)]
    else:
        rows = [(name, "on" if enabled else "off", text) for name, enabled, text in list_automations()]
    if as_json:
        print_json([{"name": name, "state": state, "description": text} for name, state, text in rows])
    else:
        print_table("automations", ["name", "state", "does"], rows)
