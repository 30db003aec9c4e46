"""connect: what `headgate up` does for the local stack, for servers of one's own."""

from __future__ import annotations

import os
from pathlib import Path

import click

from headgate import clock
from headgate.cli.environment import read_prefect_settings
from headgate.cli.output import say
from headgate.cli.stack import answers
from headgate.errors import BadInputError, TargetUnavailableError
from headgate.limits import START, seconds_of
from headgate.stack.deployed import deploy_all, make_pool
from headgate.stack.programs import WORK_POOL


@click.command()
@click.option("--pool", default=WORK_POOL, show_default=True, help="The work pool whose workers carry flows out.")
@click.option(
    "--type", "kind", default="process", show_default=True,
    help="What the pool's workers start: process, or one of Prefect's such as kubernetes, where its package is there.",
)  # fmt: skip
@click.option(
    "--template", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="The pool's base job template."
)
@click.option("--receiver", default="", help="Where MLflow is to tell of versions, such as http://receiver:8000.")
def connect(pool: str, kind: str, template: Path | None, receiver: str) -> None:
    """Have servers of your own know the flows, what events lead to, and the receiver; may be run at any time.

    PREFECT_API_URL and MLFLOW_TRACKING_URI say where they are, HEADGATE_WEBHOOK_SECRET what MLflow signs with.
    """
    from registry.webhooks import ensure_webhook
    from tasks.automations import apply_automations
    from tasks.deployments import is_pool

    needed = ["PREFECT_API_URL", *(["MLFLOW_TRACKING_URI", "HEADGATE_WEBHOOK_SECRET"] if receiver else [])]
    if missing := [name for name in needed if not os.environ.get(name)]:
        raise BadInputError(
            f"{' and '.join(missing)} are not set, so there is nobody to connect",
            fix="set them to the servers' addresses, and the secret to that of the receiver",
        )
    read_prefect_settings()
    server = os.environ["PREFECT_API_URL"].removesuffix("/").removesuffix("/api")
    _wait_for("Prefect", f"{server}/api/health")
    if receiver:
        _wait_for("MLflow", f"{os.environ['MLFLOW_TRACKING_URI'].removesuffix('/')}/health")
    if not is_pool(pool, kind, template):
        say(f"making the work pool {pool}")
        make_pool(server, pool, kind, template)
    say("deploying the flows")
    deploy_all(server, None if (pool, kind) == (WORK_POOL, "process") else pool)
    apply_automations()
    if receiver:
        ensure_webhook(os.environ["MLFLOW_TRACKING_URI"], f"{receiver}/mlflow", os.environ["HEADGATE_WEBHOOK_SECRET"])
    say(f"{server} knows the flows; a worker: prefect worker start --pool {pool} --type {kind}")


def _wait_for(name: str, url: str) -> None:
    """Servers that are started together with this take a while."""
    deadline = clock.monotonic() + seconds_of(START)
    while not answers(url):
        if clock.monotonic() > deadline:
            raise TargetUnavailableError(
                f"{name} does not answer at {url}", fix=f"start it, and run this again; {START} says how long to wait"
            )
        clock.sleep(1)
