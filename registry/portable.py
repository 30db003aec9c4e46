"""An endpoint's history as a file: a backup, or the way to another journal. Its chain of hashes comes along.

JSON Lines. The first line says what it is; each other line is a row as it is stored:

    {"headgate": "endpoint", "format": 1, "endpoint": "wine", "rows": 214, "head": "<hash of the last>", "aliases": {…}}
    {"endpoint": "wine", "seq": 1, "kind": "phase", "what": "started", …, "previous": "000…", "hash": "…"}
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from pydantic import Field

from headgate.errors import BadInputError, JournalChangedError
from headgate.records import Record
from registry.endpoints import require_endpoint
from registry.journal import GENESIS, chain_breaks_at, check_schema, entries, mapped
from registry.lease import Lease

if TYPE_CHECKING:
    from collections.abc import Iterable

    from registry.journal import Journal

FORMAT = 1
_BATCH = 1000


class Header(Record):
    """The first line of a file; `aliases` is what MLflow showed, the version of each role."""

    headgate: str = "endpoint"
    format: int = FORMAT
    endpoint: str
    rows: int
    head: str
    aliases: dict[str, int] = Field(default_factory=dict)


def export_lines(journal: Journal, endpoint: str, aliases: dict[str, int]) -> list[str]:
    """The lines of an endpoint's file.

    Raises:
        BadInputError: the journal has no such endpoint.
        JournalChangedError: its history does not match its hashes; a backup of it would only hide that.
    """
    require_endpoint(journal, endpoint)
    stored = journal.verified(endpoint)
    header = Header(endpoint=endpoint, rows=len(stored), head=stored[-1]["hash"], aliases=aliases)
    encode = json.JSONEncoder(sort_keys=True).encode
    return [header.model_dump_json(), *map(encode, stored)]


def read_file(lines: Iterable[str]) -> tuple[Header, list[dict[str, Any]]]:
    """Read a file, and check it against its own hashes.

    Raises:
        BadInputError: it is no such file, or was written by a later Headgate.
        JournalChangedError: a row was changed, or some are missing.
    """
    try:
        documents = [json.loads(line) for line in lines if line.strip()]
        header = Header.model_validate(documents[0])
    except (ValueError, IndexError) as error:
        raise BadInputError(
            f"this is no exported history: {str(error).splitlines()[0]}", fix="name a file of headgate export"
        ) from error
    if header.format > FORMAT:
        raise BadInputError(
            f"the file has format {header.format}, and this Headgate reads up to {FORMAT}", fix="upgrade Headgate"
        )
    rows = documents[1:]
    for number, row in enumerate(rows, start=1):
        _check_row(row, number, header.endpoint)
    broken = chain_breaks_at(rows, GENESIS, 1)
    if broken is None and (len(rows) != header.rows or (rows and rows[-1]["hash"] != header.head)):
        broken = len(rows) + 1
    if broken is not None:
        raise JournalChangedError(
            f"row {broken} of {header.rows} in the file of {header.endpoint} is missing or does not match its hash",
            fix="take the file of another backup",
        )
    return header, rows


def _check_row(row: Any, number: int, endpoint: str) -> None:  # noqa: ANN401 - whatever the line held
    """Refuse what is no row, or has not the columns of one."""
    fix = "name a file of headgate export"
    is_row = isinstance(row, dict) and isinstance(row.get("schema"), int) and row.get("endpoint") == endpoint
    if not is_row:
        raise BadInputError(f"line {number + 1} is no row of {endpoint}'s history", fix=fix)
    check_schema({"seq": number, **row})
    if odd := set(row) ^ {column.name for column in entries.columns}:
        raise BadInputError(f"line {number + 1} lacks, or should not have, {', '.join(sorted(odd))}", fix=fix)


@mapped
def import_rows(journal: Journal, header: Header, rows: list[dict[str, Any]]) -> int:
    """Bring a history into a journal; what it has of it already stays.

    Args:
        journal: where to.
        header: the file's first line.
        rows: the others, as `read_file` checked them.

    Returns:
        How many rows were new.

    Raises:
        BadInputError: the journal has another history of that endpoint.
        EndpointBusyError: a process is at work on the endpoint.
    """
    with Lease(journal, header.endpoint, "import"):
        query = sa.select(entries.c.hash).where(entries.c.endpoint == header.endpoint).order_by(entries.c.seq)
        with journal.writing() as connection:
            known = list(connection.execute(query).scalars())
            shared = min(len(known), len(rows))
            if known[:shared] != [row["hash"] for row in rows[:shared]]:
                differs = next(place for place in range(shared) if known[place] != rows[place]["hash"])
                raise BadInputError(
                    f"the journal has another history of {header.endpoint}: they differ from row {differs + 1} on",
                    fix="import it into another journal: HEADGATE_JOURNAL_URL, or HEADGATE_HOME",
                )
            new = rows[len(known) :]
            for place in range(0, len(new), _BATCH):
                connection.execute(entries.insert(), new[place : place + _BATCH])
    return len(new)
