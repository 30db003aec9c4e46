"""init, validate, schema, plan."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
import yaml

from headgate.cli.output import json_option, print_json, print_table, say
from headgate.errors import BadInputError, SpecError
from headgate.release_file import json_schema, load_release

_TEMPLATE = """\
# yaml-language-server: $schema={schema}
model: {model}                  # registered model in MLflow
artifact: {artifact}
target: {{kind: local}}
gates:
  shadow: {{min_requests: 500, max_duration: 10m, max_disagreement: 5%, tolerance: 0.05}}
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
    if path.exists() and not force:
        raise BadInputError(f"{path} exists", fix="choose another --file, or --force")
    name = model or _model_name(artifact)
    schema = path.with_name("release.schema.json").name
    given = artifact if ":/" in artifact else str(Path(artifact).absolute())
    text = _TEMPLATE.format(model=name, artifact=json.dumps(given), schema=schema)
    path.write_text(text, encoding="utf-8")
    load_release(path)
    path.with_name(schema).write_text(json.dumps(json_schema(), indent=2) + "\n", encoding="utf-8")
    say(f"wrote {path}; next: headgate plan {path}, then headgate release {path}")


@click.command()
@click.argument("paths", type=click.Path(path_type=Path), nargs=-1)
@json_option
def validate(paths: tuple[Path, ...], as_json: bool) -> None:  # noqa: FBT001
    """Check release files, release.yaml by default; every problem of each at its line and column."""
    refused = []
    for path in paths or (Path("release.yaml"),):
        try:
            spec = load_release(path)
        except SpecError as error:
            refused.append(error)
            if as_json:
                print_json({"valid": False, "problems": [problem.model_dump() for problem in error.problems]})
            continue
        if as_json:
            print_json({"valid": True, "spec": spec.model_dump(mode="json")})
        else:
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
    """Show what a release would do; change nothing."""
    spec = load_release(path)
    from headgate.cli.environment import use_stack

    use_stack()
    from tasks.job import open_release
    from tasks.package import plan_manifests, plan_release

    with open_release(spec, "", "") as job:
        if manifests:
            click.echo(yaml.safe_dump_all(plan_manifests(job), sort_keys=False), nl=False)
            return
        planned = plan_release(job)
    if as_json:
        print_json(planned.model_dump(mode="json"))
    else:
        print_table(
            f"{planned.endpoint}, champion: {planned.champion}",
            ["step", "does", "gate"],
            [(step.name, step.does, step.gate) for step in planned.steps],
        )
        for step in planned.steps:
            if step.calls:
                say(f"{step.name} calls {', '.join(step.calls)}")
        for note in planned.notes:
            say(f"note: {note}")
        for problem in planned.problems:
            say(f"{problem.severity}: {problem.subject}: {problem.problem}; fix: {problem.fix}")
    if not planned.is_possible:
        sys.exit(BadInputError.exit_code)


def _model_name(artifact: str) -> str:
    if artifact.startswith("models:/"):
        return artifact.removeprefix("models:/").split("/")[0].split("@")[0]
    name = artifact.rstrip("/").rpartition("/")[2]
    return name or "model"
