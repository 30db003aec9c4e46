"""export, import: an endpoint's history and aliases, as a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from headgate.cli.environment import use_stack
from headgate.cli.output import json_option, print_json, say
from headgate.errors import BadInputError, RegistryError
from headgate.home import Home, write_atomically

if TYPE_CHECKING:
    from headgate.spec import ReleaseSpec
    from registry import Journal, Versions


@click.command("export")
@click.argument("endpoint")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Default: ENDPOINT.jsonl.")
def export(endpoint: str, output: Path | None) -> None:
    """Write the history and the aliases of ENDPOINT to a file; nothing is changed."""
    home = use_stack(required=False, prefect=False).ensure()
    from registry.journal import open_journal
    from registry.portable import export_lines

    path = output or Path(f"{endpoint}.jsonl")
    with open_journal(home.journal_url) as journal:
        spec = _spec(journal, endpoint)
        text = "\n".join(export_lines(journal, endpoint, _aliases(home, spec) if spec else {}))
    try:
        write_atomically(path, f"{text}\n", mode=0o666)
    except OSError as error:
        raise BadInputError(f"{path} cannot be written: {error.strerror}", fix="--output another file") from error
    say(f"{text.count(chr(10))} rows of {endpoint} are in {path}")


@click.command("import")
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False))
@json_option
def import_(path: Path, as_json: bool) -> None:  # noqa: FBT001
    """Bring the history in PATH into this journal, and set the aliases in MLflow where it has the versions.

    What the journal has of it already stays; another history of the same endpoint is refused.
    """
    home = use_stack(required=False, prefect=False).ensure()
    from registry.journal import open_journal
    from registry.portable import import_rows, read_file

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise BadInputError(f"{path} cannot be read: {why}", fix="name a file of headgate export") from error
    header, rows = read_file(text.splitlines())
    with open_journal(home.journal_url) as journal:
        new = import_rows(journal, header, rows)
        problem = _set_champion(home, journal, header.endpoint)
    if as_json:
        print_json({"endpoint": header.endpoint, "rows": header.rows, "new": new, "aliases": problem or "set"})
        return
    click.echo(f"{header.endpoint}: {new} of {header.rows} rows are new; aliases: {problem or 'set'}")


def _spec(journal: Journal, endpoint: str) -> ReleaseSpec | None:
    from headgate.spec import ReleaseSpec
    from registry import history

    known = history.spec_of(journal, endpoint)
    return ReleaseSpec.model_validate(known) if known else None


def _versions(home: Home, spec: ReleaseSpec) -> Versions:
    from registry import Versions
    from tasks.job import tracking_uri

    return Versions(tracking_uri(home), spec.model, spec.endpoint)


def _aliases(home: Home, spec: ReleaseSpec) -> dict[str, int]:
    try:
        return _versions(home, spec).aliases()
    except (BadInputError, RegistryError) as error:
        say(f"without aliases: {error.message}")
        return {}


def _set_champion(home: Home, journal: Journal, endpoint: str) -> str:
    """Name the version that is live in the history, which may have another number here; why not, where it cannot be."""
    from registry import history

    spec, reign = _spec(journal, endpoint), history.champion(journal, endpoint)
    if spec is None or reign is None:
        return "nothing was ever live"
    try:
        versions = _versions(home, spec)
        found = versions.find(reign.revision.version.digest)
        if found is None:
            return f"MLflow has no version of {spec.model} with the image of {reign.revision.name}"
        versions.set_champion(found)
    except (BadInputError, RegistryError) as error:
        return error.message
    return ""
