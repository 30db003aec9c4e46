"""up, down, doctor."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import click
import httpx

from headgate import clock
from headgate.cli.environment import use_stack
from headgate.cli.output import json_option, print_json, print_table, say
from headgate.cli.progress import SHOW_SECONDS
from headgate.errors import HeadgateError, HomeError, RevisionFailedError
from headgate.home import Home
from headgate.limits import START, seconds_of
from headgate.servers import MLFLOW, PREFECT, OwnServers, own_servers, require_answers
from headgate.sign_in import VARIABLES, PrefectSignIn
from headgate.stack import Ports, Supervisor
from headgate.stack.deployed import deploy_all, is_deployed, remember
from headgate.stack.ports import is_free, listener
from headgate.stack.programs import STACK, WORK_POOL, client_env, stack_programs
from headgate.stack.secrets import Secrets

if TYPE_CHECKING:
    from collections.abc import Callable

    from deploy_targets.envoy import Gateway
    from headgate.findings import Finding


@click.command()
@click.option("--new-ports", is_flag=True, help="Forget the remembered ports and choose free ones.")
@json_option
def up(new_ports: bool, as_json: bool) -> None:  # noqa: FBT001
    """Start the local stack; what runs already is left alone.

    Where PREFECT_API_URL and MLFLOW_TRACKING_URI name servers of your own, these are used, and only the gateway and the
    guard are started.
    """
    home = Home.from_env().ensure()
    if had := home.tighten():
        say(f"{home.root} is readable by its owner only from now on (it had mode {had})")
    own = own_servers(Ports.remembered(home))
    require_answers(own)
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
    programs = stack_programs(home, ports, prefect=own.prefect, mlflow=own.mlflow)
    _say_own(own, {program.name for program in programs}, set(supervisor.states()))
    for program in programs:
        supervisor.ensure(program)
    try:
        start_containers(home)
    except RevisionFailedError as problem:
        say(f"not every container was started: {problem}")
    _wait_for_all({program.name for program in programs}, gateway, ports, Secrets.of(home), supervisor)
    env = client_env(home, ports, prefect=own.prefect, mlflow=own.mlflow)
    _connect(home, ports, own)
    if as_json:
        # Such output is kept in logs; `headgate env` has the passwords.
        shown = {name: value for name, value in env.items() if name not in VARIABLES}
        print_json({"ports": ports.model_dump(), "env": shown})
        return
    _say_where(home, ports, own)


def _say_where(home: Home, ports: Ports, own: OwnServers) -> None:
    """Print where each program is, and how to sign in."""
    where = {
        "gateway": f"{ports.gateway_url}/<endpoint>/invocations",
        "prefect-server": own.prefect or ports.prefect_url,
        "mlflow-server": own.mlflow or ports.mlflow_url,
        "worker": f"work pool {WORK_POOL}" if not own.prefect else "yours",
        "receiver": f"{ports.receiver_url}/mlflow and /alertmanager" if not own.mlflow else "yours",
        "guard": "watches the leases of releases",
        "engine": "carries out flow runs and commands" if not own.prefect else "not used",
    }
    print_table(f"local stack in {home.root}", ["program", "where"], list(where.items()))
    click.echo('To log models here, and to use Prefect\'s CLI:  eval "$(headgate env)"    (addresses and passwords)')
    click.echo("To see the pages, with what signs in:           headgate open mlflow, headgate open prefect")


def _say_own(own: OwnServers, started: set[str], running: set[str]) -> None:
    """Say which servers are used in place of the stack's own, and what of these runs nevertheless."""
    for variable, url in ((PREFECT, own.prefect), (MLFLOW, own.mlflow)):
        if url:
            say(f"{variable} names {url}, which is used; headgate connect has it know Headgate")
    if needless := [name for name in STACK if name in running and name not in started]:
        say(f"{', '.join(needless)} run here from before, and are not used: headgate down, then headgate up, ends them")


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


def _connect(home: Home, ports: Ports, own: OwnServers) -> None:
    """Deploy the flows, say what events lead to, and have MLflow tell the receiver, on the stack's own servers."""
    from registry.webhooks import ensure_webhook

    use_stack()
    if not own.mlflow:
        ensure_webhook(ports.mlflow_url, f"{ports.receiver_url}/mlflow", Secrets.of(home).webhook)
    if not own.prefect and not is_deployed(home, ports.prefect_url):
        say("deploying the flows")
        deploy_all(ports.prefect_url)
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


def _wait_for_all(started: set[str], gateway: Gateway, ports: Ports, secrets: Secrets, supervisor: Supervisor) -> None:
    """Return once every program that was started is ready.

    Raises:
        HomeError: one does not start.
    """
    ready = {
        "gateway": gateway.is_up,
        "mlflow-server": lambda: answers(f"{ports.mlflow_url}/health"),
        "prefect-server": lambda: answers(f"{ports.prefect_url}/api/health"),
        "worker": lambda: _work_pool_is_online(ports, secrets),
        "receiver": lambda: answers(f"{ports.receiver_url}/health"),
    }
    began = clock.monotonic()
    for name in [name for name in ready if name in started]:
        _wait(name, ready[name], supervisor, began)


def _wait(name: str, ready: Callable[[], bool], supervisor: Supervisor, began: float) -> None:
    said, limit = clock.monotonic(), seconds_of(START)
    while not ready():
        now = clock.monotonic()
        state = supervisor.states().get(name)
        if state is None or state.has_ended or now > began + limit:
            raise HomeError(
                f"{name} does not start ({state.state + ': ' + state.detail if state else 'gone'}); its log ends:\n"
                + supervisor.log_tail(name),
                fix=f"read {supervisor.log_file(name)}; {START} says how long to wait",
            )
        if now - said >= SHOW_SECONDS:
            said = now
            say(f"waiting for {name}, for {now - began:.0f} s so far, at most {limit:g} s")
        clock.sleep(0.1)
    say(f"{name} is ready after {clock.monotonic() - began:.1f} s")


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


def _work_pool_is_online(ports: Ports, secrets: Secrets) -> bool:
    api = f"{ports.prefect_url}/api"
    try:
        reply = _client().get(f"{api}/work_pools/{WORK_POOL}", auth=PrefectSignIn(api, secrets.prefect_sign_in))
    except httpx.HTTPError:
        return False
    return reply.is_success and reply.json().get("status") == "READY"
