"""status, history, completion."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import get_completion_class

from headgate.cli.output import json_option, print_json, print_table
from headgate.errors import HeadgateError
from headgate.home import Home
from headgate.stack import Ports, Supervisor
from headgate.stack.programs import STACK

if TYPE_CHECKING:
    from headgate.records import EndpointState
    from registry import Journal


@click.command()
@click.argument("endpoint", required=False)
@json_option
def status(endpoint: str | None, as_json: bool) -> None:  # noqa: FBT001
    """Show the local stack, what is live, and what is in flight."""
    from registry.journal import open_journal

    home = Home.from_env().ensure()
    with open_journal(home.journal_url) as journal:
        known = [endpoint] if endpoint else journal.endpoints()
        content = {
            "stack": _stack(home), "upkeep": _upkeep(home, journal),
            "endpoints": [_endpoint(journal, name) for name in known],
        }  # fmt: skip
    if as_json:
        print_json(content)
        return
    print_table(
        f"local stack in {home.root}", ["program", "state", "where"],
        [(row["program"], row["state"], row["where"]) for row in content["stack"]],
    )  # fmt: skip
    for finding in content["upkeep"]:
        click.echo(f"{finding['severity']}: {finding['subject']} {finding['problem']}\n  fix: {finding['fix']}")
    for row in content["endpoints"]:
        live = row["champion"]
        title = f"{row['endpoint']}: " + (f"{live['version']} since {live['since']}" if live else "nothing is live")
        print_table(
            title, ["revision", "weight", "mirror", "ready"],
            [(r["name"], f"{r['weight'] / 100:g}%", r["mirror"], r["ready"] or r["detail"]) for r in row["revisions"]],
        )  # fmt: skip
        if row["url"]:
            click.echo(f"  {row['url']}")
        if row["in_flight"]:
            flight = row["in_flight"]
            held = f", held by {row['holder']}" if row["holder"] else ", held by nobody"
            paused = ", paused" if flight["paused"] else ""
            click.echo(f"  release {flight['release_id']} is {flight['phase']}{paused} since {flight['since']}{held}")
        for wait in row["approvals"]:
            click.echo(f"  it waits for approval before {wait['before']}, until {wait['expires_at']}: {wait['url']}")
        for number, release_id in enumerate(row["queue"], start=1):
            click.echo(f"  {number}. in line: {release_id}")
        if row["problem"]:
            click.echo(f"  {row['problem']}")


@click.command()
@click.argument("endpoint")
@click.option("--all", "everything", is_flag=True, help="Every row, not only what was live.")
@json_option
def history(endpoint: str, everything: bool, as_json: bool) -> None:  # noqa: FBT001
    """Show what was live on ENDPOINT, from when to when, who or what changed it, and why."""
    from registry import history as past
    from registry.journal import open_journal

    home = Home.from_env().ensure()
    with open_journal(home.journal_url) as journal:
        rows = journal.verify(endpoint)
        if everything:
            entries = journal.read(endpoint)
            if as_json:
                print_json([entry.model_dump(mode="json") for entry in entries])
                return
            print_table(
                f"{endpoint}: {rows} rows, every hash matches", ["time (UTC)", "what", "who", "why"],
                [(f"{e.at:%F %T}", e.what, e.actor, e.reason) for e in past.narrative(entries)],
            )  # fmt: skip
            return
        reigns = past.reigns(journal, endpoint)
    if as_json:
        print_json([reign.model_dump(mode="json") for reign in reigns])
        return
    print_table(
        f"{endpoint}: {rows} rows, every hash matches", ["version", "from (UTC)", "until (UTC)", "by", "why"],
        [
            (r.revision.version, f"{r.since:%F %T}", f"{r.until:%F %T}" if r.until else "now", r.actor, r.reason)
            for r in reigns
        ],
    )  # fmt: skip


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of SHELL; put it where the shell reads it."""
    from headgate.cli import cli

    complete = get_completion_class(shell)
    if complete is None:
        raise HeadgateError(f"no completion for {shell}")
    click.echo(complete(cli, {}, "headgate", "_HEADGATE_COMPLETE").source())


def _stack(home: Home) -> list[dict[str, Any]]:
    ports = Ports.remembered(home)
    if ports is None:
        return []
    states = Supervisor(home).states()
    where = {
        "gateway": ports.gateway_url,
        "prefect-server": ports.prefect_url,
        "mlflow-server": ports.mlflow_url,
    }
    return [
        {
            "program": name,
            "state": states[name].state if name in states else "DOWN",
            "where": where.get(name, ""),
        }
        for name in STACK
    ]


def _upkeep(home: Home, journal: Journal) -> list[dict[str, Any]]:
    """What should run by itself and does not."""
    from tasks.upkeep import findings

    return [one.model_dump() for one in findings(home, journal) if one.severity != "ok"]


def _endpoint(journal: Journal, endpoint: str) -> dict[str, Any]:
    from deploy_targets import open_target
    from headgate.spec import ReleaseSpec
    from registry import history as past
    from registry.lease import holder
    from registry.queue import waiting

    spec = past.spec_of(journal, endpoint)
    state: EndpointState | None = None
    problem = ""
    if spec is None:
        problem = "no such endpoint"
    else:
        try:
            state = open_target(ReleaseSpec.model_validate(spec).target).observe(endpoint)
        except HeadgateError as error:
            problem = error.message
    reign, flight, held = (
        past.champion(journal, endpoint),
        past.in_flight(journal, endpoint),
        holder(journal, endpoint),
    )
    traffic = state.traffic if state else None
    return {
        "endpoint": endpoint,
        "url": state.url if state else "",
        "champion": {"version": str(reign.revision.version), "revision": reign.revision.name,
                     "since": _ago(reign.since)} if reign else None,
        "in_flight": {"release_id": flight.release_id, "phase": flight.phase, "since": _ago(flight.since),
                      "paused": past.is_paused(journal, endpoint, flight.release_id)} if flight else None,
        "approvals": past.open_approvals(journal, endpoint),
        "queue": [ticket.release_id for ticket in waiting(journal, endpoint)],
        "holder": held.name if held else None,
        "revisions": [
            {"name": name, "ready": seen.ready, "detail": seen.detail,
             "weight": traffic.weight(name) if traffic else 0,
             "mirror": bool(traffic and traffic.mirror and traffic.mirror.revision == name)}
            for name, seen in (state.revisions if state else {}).items()
        ],
        "problem": problem,
    }  # fmt: skip


def _ago(moment: datetime) -> str:
    seconds = int((datetime.now(UTC) - moment).total_seconds())
    return f"{moment:%F %T} UTC ({seconds // 3600} h {seconds % 3600 // 60} min ago)"
