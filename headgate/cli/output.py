"""What commands print: results on stdout, everything else on stderr; tables for people, JSON for machines."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from headgate.errors import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")

_WIDEST = 10_000


def print_json(content: Any) -> None:  # noqa: ANN401
    """One JSON document on stdout, on one line."""
    click.echo(json.dumps(content, default=str))


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table on stdout."""
    title = printable(title)
    cells = [["" if cell is None else printable(str(cell)) for cell in row] for row in rows]
    table = Table()
    for column in columns:
        table.add_column(column, no_wrap=True)
    for row in cells:
        table.add_row(*row)
    console, needed = Console(), Console(width=_WIDEST).measure(table).maximum
    if console.is_terminal and needed > console.width:
        # A broken line cannot be copied, so each cell gets one of its own, which the terminal wraps.
        click.echo(title)
        for row in cells:
            shown = [f"{column}: {cell}" for column, cell in zip(columns[1:], row[1:], strict=True) if cell]
            click.echo("\n  ".join([row[0], *shown]))
        return
    # A file, or a pipe, has no width. A title of the table itself would be wrapped at the table's.
    wide = Console(width=max(console.width, needed))
    wide.print(title, style="bold", markup=False, soft_wrap=True)
    wide.print(table)


def say(message: str) -> None:
    """A line for people, on stderr."""
    click.echo(printable(message), err=True)
