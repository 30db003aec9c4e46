"""status, history, completion."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import get_completion_class

from headgate.cli.failing import failing
from headgate.cli.output import json_option, print_json, print_table
from headgate.cli.request import request_to
from headgate.errors import HeadgateError
from headgate.home import Home
from headgate.servers import own_servers
from headgate.stack import Ports, Supervisor
from headgate.stack.programs import STACK, replaced

if TYPE_CHECKING:
    from headgate.records import EndpointState
    from registry import Journal


@click.command()
@click.argument("endpoint", required=False)
@json_option
def status(endpoint: str | None, as_json: bool) -> None:  # noqa: FBT001
    """Show the local stack, what is live, and what is in flight.

    The exit code is 1 where something that should serve does not: a program of the stack, or a revision that has an
    endpoint's traffic.
    """
    from registry.endpoints import require_endpoint
    from registry.journal import open_journal

    home = Home.from_env().ensure()
    with open_journal(home.journal_url) as journal:
        if endpoint:
            require_endpoint(journal, endpoint)
        known = [endpoint] if endpoint else journal.endpoints()
        content = {
            "stack": _stack(home), "upkeep": _upkeep(home, journal),
            "endpoints": [_endpoint(journal, name) for name in known],
        }  # fmt: skip
    broken = failing(content["stack"], content["endpoints"], should_run=Supervisor(home).should_run())
    content["failing"] = [one.model_dump() for one in broken]
    if as_json:
        print_json(content)
    else:
        _print(home, content)
    if broken:
        sys.exit(1)


def _print(home: Home, content: dict[str, Any]) -> None:
    """Print all of it for people."""
    if any(row["state"] != "DOWN" for row in content["stack"]):
        print_table(
            f"local stack in {home.root}", ["program", "state", "where"],
            [(row["program"], row["state"], row["where"]) for row in content["stack"]],
        )  # fmt: skip
    else:
        click.echo(f"the local stack in {home.root} is not up: headgate up")
    for finding in [*content["failing"], *content["upkeep"]]:
        click.echo(f"{finding['severity']}: {finding['subject']} {finding['problem']}\n  fix: {finding['fix']}")
    for row in content["endpoints"]:
        _show(row)


def _show(row: dict[str, Any]) -> None:
    """Print an endpoint for people."""
    live = row["champion"]
    title = f"{row['endpoint']}: " + (f"{live['version']} since {live['since']}" if live else "nothing is live")
    print_table(
        title, ["revision", "weight", "gets copies", "ready"],
        [
            (r["name"], f"{r['weight'] / 100:g}%", "yes" if r["mirror"] else "no", "yes" if r["ready"] else r["detail"])
            for r in row["revisions"]
        ],
    )  # fmt: skip
    if row["url"]:
        click.echo(f"  {row['url']}")
    if row["request"]:
        click.echo(f"  to ask it: {row['request']}")
    if row["in_flight"]:
        flight = row["in_flight"]
        held = f", held by {row['holder']}" if row["holder"] else ", no process holds it"
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
    from registry.endpoints import require_endpoint
    from registry.journal import open_journal

    home = Home.from_env().ensure()
    with open_journal(home.journal_url) as journal:
        require_endpoint(journal, endpoint)
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
    try:
        click.echo(complete(cli, {}, "headgate", "_HEADGATE_COMPLETE").source())
    except OSError as error:
        # Bash is asked for its version.
        raise HeadgateError(f"{shell} cannot be asked for its version: {error}", fix=f"install {shell}") from error


def _stack(home: Home) -> list[dict[str, Any]]:
    ports = Ports.remembered(home)
    if ports is None:
        return []
    states, own = Supervisor(home).states(), own_servers(ports)
    where = {
        "gateway": ports.gateway_url,
        "prefect-server": own.prefect or ports.prefect_url,
        "mlflow-server": own.mlflow or ports.mlflow_url,
    }
    instead = replaced(prefect=own.prefect, mlflow=own.mlflow)
    absent = {name: "YOURS" if name in instead else "DOWN" for name in STACK}
    return [
        {"program": name, "state": states[name].state if name in states else absent[name], "where": where.get(name, "")}
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
    from registry.endpoints import require_release_file
    from registry.lease import holder
    from registry.queue import waiting

    state: EndpointState | None = None
    problem = ""
    try:
        spec = ReleaseSpec.model_validate(require_release_file(journal, endpoint))
        state = open_target(spec.target).observe(endpoint)
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
        "request": request_to(journal, endpoint, state.url) if state and state.url else "",
        "champion": {"version": str(reign.revision.version), "revision": reign.revision.name,
                     "since": _ago(reign.since)} if reign else None,
        "in_flight": {"release_id": flight.release_id, "phase": flight.phase, "since": _ago(flight.since),
                      "paused": past.is_paused(journal, endpoint, flight.release_id)} if flight else None,
        "approvals": past.open_approvals(journal, endpoint),
        "queue": [ticket.release_id for ticket in waiting(journal, endpoint)],
        "holder": held.name if held else None,
        "revisions": [
            {"name": name, "ready": seen.ready, "detail": seen.detail, "address": seen.address,
             "weight": traffic.weight(name) if traffic else 0,
             "mirror": bool(traffic and traffic.mirror and traffic.mirror.revision == name)}
            for name, seen in (state.revisions if state else {}).items()
        ],
        "problem": problem,
    }  # fmt: skip


def _ago(moment: datetime) -> str:
    seconds = int((datetime.now(UTC) - moment).total_seconds())
    return f"{moment:%F %T} UTC ({seconds // 3600} h {seconds % 3600 // 60} min ago)"
