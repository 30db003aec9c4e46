"""up, down, doctor."""

from __future__ import annotations

import os
import sys
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import click
import httpx

from headgate.cli.environment import use_stack
from headgate.cli.output import json_option, print_json, print_table, say
from headgate.errors import HeadgateError, HomeError
from headgate.home import Home
from headgate.stack import Ports, Supervisor
from headgate.stack.deployed import deploy_all, is_deployed, remember
from headgate.stack.ports import is_free, listener
from headgate.stack.programs import WORK_POOL, client_env, stack_programs
from headgate.stack.secrets import Secrets

if TYPE_CHECKING:
    from collections.abc import Callable

    from headgate.findings import Finding

_UP_SECONDS = 180.0


@click.command()
@click.option("--new-ports", is_flag=True, help="Forget the remembered ports and choose free ones.")
@json_option
def up(new_ports: bool, as_json: bool) -> None:  # noqa: FBT001
    """Start the local stack; what runs already is left alone."""
    home = Home.from_env().ensure()
    supervisor = Supervisor(home)
    if new_ports:
        supervisor.stop()
        home.stack_file.unlink(missing_ok=True)
    ports = Ports.choose(home)
    if not supervisor.is_up():
        if leftovers := supervisor.end_leftovers():
            say(f"ended {len(leftovers)} processes that a killed supervisord left behind")
        _require_ports(ports)
    supervisor.start()
    from deploy_targets.docker import start_containers
    from deploy_targets.envoy import Gateway

    gateway = Gateway(home.gateway, ports)
    gateway.prepare()
    for program in stack_programs(home, ports):
        supervisor.ensure(program)
    start_containers(home)
    _wait("gateway", gateway.is_up, supervisor)
    _wait("mlflow-server", lambda: answers(f"{ports.mlflow_url}/health"), supervisor)
    _wait("prefect-server", lambda: answers(f"{ports.prefect_url}/api/health"), supervisor)
    _wait("worker", lambda: _work_pool_is_online(ports), supervisor)
    _wait("receiver", lambda: answers(f"{ports.receiver_url}/health"), supervisor)
    env = client_env(home, ports)
    _connect(home, ports)
    if as_json:
        print_json({"ports": ports.model_dump(), "env": env})
        return
    print_table(
        f"local stack in {home.root}", ["program", "where"],
        [("gateway", f"{ports.gateway_url}/<endpoint>/invocations"), ("prefect-server", ports.prefect_url),
         ("mlflow-server", ports.mlflow_url), ("worker", f"work pool {WORK_POOL}"),
         ("receiver", f"{ports.receiver_url}/mlflow and /alertmanager"), ("guard", "watches the leases of releases")],
    )  # fmt: skip
    click.echo(f"To log models here:     export MLFLOW_TRACKING_URI={env['MLFLOW_TRACKING_URI']}")
    click.echo(f"To use Prefect's CLI:   export PREFECT_API_URL={env['PREFECT_API_URL']}")


@click.command()
def down() -> None:
    """Stop the local stack and every model that it serves; all state stays."""
    home = Home.from_env()
    if not home.root.exists():
        say("there is no local stack")
        return
    from deploy_targets.docker import stop_containers

    Supervisor(home).stop()
    stop_containers(home)
    say("the local stack is down; `headgate up` brings it and every endpoint back")


@click.command()
@click.option("--policy", type=click.Path(path_type=Path), help="Print what whoever releases this file needs at least.")
@json_option
def doctor(policy: Path | None, as_json: bool) -> None:  # noqa: FBT001
    """Find what is missing on this machine, each problem with its fix."""
    from headgate.doctor import examine

    if policy is not None:
        from deploy_targets import open_target
        from headgate.release_file import load_release

        target = load_release(policy).target
        needs = open_target(target).permissions()
        click.echo(needs or f"nothing: whoever may use this machine may release on {target.kind}")
        return
    home = Home.from_env()
    findings = [*examine(home), *_upkeep(home)]
    if as_json:
        print_json([finding.model_dump() for finding in findings])
    else:
        print_table(
            "doctor", ["", "subject", "finding", "fix"],
            [(f.severity, f.subject, f.problem, f.fix) for f in findings],
        )  # fmt: skip
    if any(finding.severity == "error" for finding in findings):
        sys.exit(1)


def _upkeep(home: Home) -> list[Finding]:
    """What should run by itself: schedules, workers, checks of watched endpoints."""
    from headgate.findings import Finding
    from registry.journal import open_journal
    from tasks.upkeep import findings

    try:
        with open_journal(home.journal_url) as journal:
            return findings(home, journal)
    except HeadgateError as error:
        return [Finding(severity="error", subject="journal", problem=error.message, fix=error.fix)]


def _connect(home: Home, ports: Ports) -> None:
    """Deploy the flows, say what events lead to, and have MLflow tell the receiver; all of it once."""
    from registry.webhooks import ensure_webhook

    ensure_webhook(ports.mlflow_url, f"{ports.receiver_url}/mlflow", Secrets.of(home).webhook)
    use_stack()
    if not is_deployed(home, ports.prefect_url):
        say("deploying the flows")
        deploy_all(ports.prefect_url)
        # The stack's own server, also where this shell works with another one.
        os.environ["PREFECT_API_URL"] = f"{ports.prefect_url}/api"
        from tasks.automations import apply_automations

        apply_automations()
        remember(home, ports.prefect_url)


def _require_ports(ports: Ports) -> None:
    """Refuse to start where another program has taken a remembered port."""
    for name, port in ports.model_dump().items():
        if not is_free(port):
            raise HomeError(
                f"port {port}, which the {name.replace('_', ' ')} has had so far, is taken by {listener(port)}",
                fix="stop that, or let other ports be chosen: headgate up --new-ports",
            )


def _wait(name: str, ready: Callable[[], bool], supervisor: Supervisor) -> None:
    say(f"waiting for {name}")
    deadline = time.monotonic() + _UP_SECONDS
    while not ready():
        state = supervisor.states().get(name)
        if state is None or state.has_ended or time.monotonic() > deadline:
            raise HomeError(
                f"{name} does not start ({state.state + ': ' + state.detail if state else 'gone'}); its log ends:\n"
                + supervisor.log_tail(name),
                fix=f"read {supervisor.log_file(name)}",
            )
        time.sleep(0.1)


def answers(url: str) -> bool:
    """Whether a server says that it is well."""
    try:
        return _client().get(url).is_success
    except httpx.HTTPError:
        return False


@cache
def _client() -> httpx.Client:
    """One for all questions: making one reads certificates, which takes longer than an answer."""
    return httpx.Client(timeout=2)


def _work_pool_is_online(ports: Ports) -> bool:
    try:
        reply = _client().get(f"{ports.prefect_url}/api/work_pools/{WORK_POOL}")
    except httpx.HTTPError:
        return False
    return reply.is_success and reply.json().get("status") == "READY"
