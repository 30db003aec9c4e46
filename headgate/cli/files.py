"""init, validate, schema, plan."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click
import yaml

from headgate.cli.output import json_option, print_json, print_table, say
from headgate.errors import BadInputError, HeadgateError, SpecError
from headgate.plan import describe
from headgate.release_file import check_release, json_schema, load_release

if TYPE_CHECKING:
    from headgate.plan import Plan
    from headgate.spec import ReleaseSpec

_TEMPLATE = """\
# yaml-language-server: $schema={schema}
model: {model}                  # registered model in MLflow
artifact: {artifact}
target: {{kind: local}}
# What follows are the defaults.
gates:
  shadow: {{min_requests: 1000, max_duration: 10m, max_disagreement: 0.5%, tolerance: 0.05}}
strategy:
  kind: canary                  # or blue-green
  steps: [5%, 25%, 50%]
  min_requests: 1000
  min_duration: 3m
  max_duration: 60m
rollback: {{keep_warm: 1h}}
"""


@click.command()
@click.argument("artifact")
@click.option("--model", help="Name in MLflow; default: from the artifact.")
@click.option("--file", "path", type=click.Path(path_type=Path), default=Path("release.yaml"), show_default=True)
@click.option("--force", is_flag=True, help="Replace a file that exists.")
def init(artifact: str, model: str | None, path: Path, force: bool) -> None:  # noqa: FBT001
    """Write a release file for ARTIFACT: runs:/…, models:/… or the folder of a model."""
    if _exists(path) and not force:
        raise BadInputError(f"{path} exists", fix="choose another --file, or --force")
    if ":/" not in artifact and not is_folder(artifact):
        raise BadInputError(
            f"{artifact} is not a folder here, and not an address in MLflow",
            fix="give runs:/RUN_ID/NAME, models:/NAME/VERSION, models:/NAME@ALIAS, or the folder of a model",
        )
    name = model or _model_name(artifact)
    schema = path.with_name("release.schema.json").name
    given = artifact if ":/" in artifact else str(Path(artifact).absolute())
    text = _TEMPLATE.format(model=name, artifact=json.dumps(given), schema=schema)
    try:
        path.write_text(text, encoding="utf-8")
        spec = load_release(path)
        path.with_name(schema).write_text(json.dumps(json_schema(), indent=2) + "\n", encoding="utf-8")
    except (OSError, UnicodeEncodeError) as error:
        raise BadInputError(f"{path} cannot be written: {error}", fix="choose another --file") from error
    say(f"wrote {path}; next: headgate plan {path}, then headgate release {path}")
    _say_how_to_ask(spec)


def _say_how_to_ask(spec: ReleaseSpec) -> None:
    """Say what clients will call, with a whole request where the stack has an address and the model can be read."""
    from headgate.cli.environment import use_stack
    from headgate.cli.request import curl
    from headgate.stack import Ports

    path = f"/{spec.endpoint}/invocations"
    try:
        ports = Ports.remembered(use_stack(required=False, prefect=False))
    except HeadgateError:
        # `up` and `release` say what is wrong with the stack; a release file needs none.
        ports = None
    if ports is not None:
        with tempfile.TemporaryDirectory(prefix="headgate-init-") as folder:
            model = _model_files(spec.artifact, Path(folder))
            request = curl(ports.gateway_url + path, model) if model is not None else ""
        # A long example is a file, of which only a folder's stays.
        if request and "@request.json" not in request and folder not in request:
            say(f"clients will call {ports.gateway_url}{path}; once it is released, ask it: {request}")
            return
    say(f"clients will call …{path}; the release prints a whole request")


def _model_files(artifact: str, folder: Path) -> Path | None:
    """The folder with a model's input example and signature; None where the model cannot be had at once."""
    if ":/" not in artifact:
        return Path(artifact)
    import httpx

    from headgate.servers import PATIENT
    from images.artifact import IN_MLFLOW, request_files

    try:
        # MLflow's client would ask a server that is away again and again, for minutes.
        server = os.environ.get("MLFLOW_TRACKING_URI", "")
        if artifact.startswith(IN_MLFLOW) and server.startswith("http"):
            httpx.get(f"{server.rstrip('/')}/health", timeout=PATIENT)
        return request_files(artifact, folder)
    except (httpx.HTTPError, httpx.InvalidURL, HeadgateError):
        return None


@click.command()
@click.argument("paths", type=click.Path(path_type=Path), nargs=-1)
@json_option
def validate(paths: tuple[Path, ...], as_json: bool) -> None:  # noqa: FBT001
    """Check release files, release.yaml by default; every problem of each at its line and column."""
    refused = []
    for path in paths or (Path("release.yaml"),):
        try:
            spec, warnings = check_release(path)
        except SpecError as error:
            refused.append(error)
            if as_json:
                print_json({"valid": False, "problems": [problem.model_dump() for problem in error.problems]})
            continue
        if as_json:
            told = [problem.model_dump() for problem in warnings]
            print_json({"valid": True, "spec": spec.model_dump(mode="json"), "warnings": told})
        else:
            for problem in warnings:
                say(f"warning: {path}:{problem}")
            click.echo(f"{path} is valid: {spec.model} to {spec.endpoint} on {spec.target.kind}")
    for earlier in refused[:-1]:
        say(f"headgate: {earlier}")
    if refused:
        raise refused[-1]


@click.command()
def schema() -> None:
    """Print the JSON Schema of release files."""
    click.echo(json.dumps(json_schema(), indent=2))


@click.command()
@click.argument("path", type=click.Path(path_type=Path), default=Path("release.yaml"))
@click.option("--manifests", is_flag=True, help="Print what it would apply to a cluster, for review or for git.")
@json_option
def plan(path: Path, manifests: bool, as_json: bool) -> None:  # noqa: FBT001
    """Show what a release would do; change nothing.

    The artifact is fetched, read and scanned as a release does it. Exits with 2 where something would refuse it.
    """
    spec, warnings = check_release(path)
    from headgate.cli.environment import use_stack

    use_stack(required=False, prefect=False)
    from tasks.foresee import foresee, open_plan
    from tasks.package import plan_manifests

    with open_plan(spec) as job:
        if manifests:
            click.echo(yaml.safe_dump_all(plan_manifests(job), sort_keys=False), nl=False)
            return
        planned = foresee(job, [problem.as_warning() for problem in warnings])
    if as_json:
        print_json(planned.model_dump(mode="json"))
    else:
        _show(planned)
    if not planned.is_possible:
        sys.exit(BadInputError.exit_code)


def _show(planned: Plan) -> None:
    """Print a plan for people."""
    print_table(
        f"{planned.endpoint}, champion: {planned.champion}",
        ["step", "does", "gate"],
        [(step.name, step.does, step.gate) for step in planned.steps],
    )
    if planned.content is not None:
        for what, says in describe(planned.content):
            click.echo(f"{what}: {says}")
    click.echo(f"time: {planned.estimate}")
    for step in planned.steps:
        if step.calls:
            say(f"{step.name} calls {', '.join(step.calls)}")
    for note in planned.notes:
        say(f"note: {note}")
    for problem in planned.problems:
        say(
            f"{problem.severity}: {problem.subject}: {problem.problem}"
            + (f"; fix: {problem.fix}" if problem.fix else "")
        )


def is_folder(path: str) -> bool:
    """Whether a text names a folder that can be looked at; a name that no file can have is none."""
    try:
        return Path(path).is_dir()
    except OSError:
        return False


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        raise BadInputError(f"{path} cannot be written: {error.strerror}", fix="choose another --file") from error


def _model_name(artifact: str) -> str:
    if artifact.startswith("models:/"):
        return artifact.removeprefix("models:/").split("/")[0].split("@")[0]
    name = artifact.rstrip("/").rpartition("/")[2]
    return name or "model"
