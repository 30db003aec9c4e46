"""labels: what was right, told later."""

from __future__ import annotations

import os
from pathlib import Path

import click

from headgate.cli.environment import use_stack
from headgate.cli.output import say
from headgate.errors import BadInputError


@click.command()
@click.argument("endpoint")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--database-env", help="Instead of a file: the environment variable that holds a database's URL.")
@click.option("--query", help="What it is asked; it gives the columns request_id, label and perhaps row.")
def labels(endpoint: str, file: Path | None, database_env: str | None, query: str | None) -> None:
    """Tell what the right answers to requests of ENDPOINT were.

    FILE is CSV, Parquet or JSON lines with the columns request_id, label and, where a request had several records,
    row (from 0). Labels that were told before are told for nothing; of two for one answer the later one counts.
    """
    if (file is None) == (query is None) or (query is None) != (database_env is None):
        raise BadInputError("name a file, or --database-env and --query", fix="headgate labels --help")
    url = os.environ.get(database_env) if database_env else ""
    if url is None:
        raise BadInputError(f"--database-env is {database_env}, and that variable is not set", fix="export it")
    home = use_stack(prefect=False)
    from monitoring.truth import labels_from_file, labels_from_query
    from registry.journal import open_journal
    from tasks.truth import add_labels

    table = labels_from_file(file) if file is not None else labels_from_query(url, query or "")
    with open_journal(home.journal_url) as journal:
        new = add_labels(home, journal, endpoint, table)
    known = "" if new else "; these were told before"
    say(f"{new} labels of {endpoint} are kept{known}; headgate monitor holds answers against them")
