"""What commands print: results on stdout, everything else on stderr; tables for people, JSON for machines."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Self

import click
from rich.console import Console
from rich.table import Table

from headgate.records import Verdict
from headgate.units import BASIS_POINTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from registry import Entry

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")

_COLOURS = {"phase": "cyan", "live": "green", "decision": "yellow", "note": "dim", "check": "magenta"}


def print_json(content: Any) -> None:  # noqa: ANN401
    """One JSON document on stdout, on one line."""
    click.echo(json.dumps(content, default=str))


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table on stdout."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for place, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=place == 0)
    for row in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row))
    Console(soft_wrap=False).print(table)


def say(message: str) -> None:
    """A line for people, on stderr."""
    click.echo(message, err=True)


class Progress:
    """Shows a release while it runs: a live line on a terminal, plain lines elsewhere."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._status = self._console.status("") if self._console.is_terminal else None
        self._last_shown = ""
        self._last_reason = ""

    def __enter__(self) -> Self:
        if self._status:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status:
            self._status.stop()

    def show(self, entry: Entry) -> None:
        """Show one row of the journal."""
        if entry.kind == "look":
            self._look(entry)
            return
        stamp = entry.at.astimezone().strftime("%H:%M:%S")
        # The same reason ends a look, a release and its outcome; once is enough to read.
        reason = entry.reason.removesuffix(self._last_reason).rstrip(": ")
        self._last_reason = entry.reason or self._last_reason
        text = f"{entry.what}: {reason}" if reason else entry.what
        colour = _COLOURS.get(entry.kind, "default")
        self._console.print(f"[dim]{stamp}[/] [{colour}]{entry.kind:>8}[/] ", end="")
        self._console.print(text, markup=False)

    def _look(self, entry: Entry) -> None:
        share = entry.evidence["share"] / BASIS_POINTS * 100
        if self._status:
            self._status.update(f"{share:g}% {entry.reason}")
        # Without a terminal, one line a step is enough to follow.
        if entry.what != Verdict.RUNNING or (not self._status and self._last_shown != str(share)):
            stamp = entry.at.astimezone().strftime("%H:%M:%S")
            self._console.print(f"[dim]{stamp}[/]     look ", end="")
            self._console.print(entry.reason, markup=False)
            self._last_reason = entry.reason
        self._last_shown = str(share)
