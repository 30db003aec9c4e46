"""The journal: an append-only table of everything that happened to an endpoint, each row chained to the last.

SQLite (WAL) by default, PostgreSQL by URL. It needs neither Prefect nor MLflow, so a rollback works while
both are down. Every row of an endpoint carries the sha256 of the row before it: a changed past shows.
"""

from __future__ import annotations

import functools
import hashlib
import json
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import sqlalchemy as sa
from pydantic import Field

from headgate.errors import BadInputError, JournalChangedError, LeaseLostError, RegistryUnavailableError
from headgate.records import Record
from registry.database import again_after, open_engine
from registry.processes import label

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

SCHEMA_VERSION = 3
"""Of every row. An entry's evidence may have more in it than before without a new number; one that would be misread by
an earlier Headgate gets a new one, and `_entry` reads the old. Since 2 values of `runtime.env` are sealed, which an
earlier one would give to servers as they are. Since 3 an image names the package that serves it, which an earlier one
would start by another name."""

GENESIS = "0" * 64
"""What the first row of an endpoint has in the place of the hash of the row before."""
_P = ParamSpec("_P")
_R = TypeVar("_R")

metadata = sa.MetaData()

entries = sa.Table(
    "entries",
    metadata,
    sa.Column("endpoint", sa.String(64), primary_key=True),
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("release_id", sa.String(64), nullable=False),
    sa.Column("at", sa.String(40), nullable=False),
    sa.Column("kind", sa.String(20), nullable=False),
    sa.Column("what", sa.String(200), nullable=False),
    sa.Column("actor", sa.String(200), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("evidence", sa.Text, nullable=False),
    sa.Column("schema", sa.Integer, nullable=False),
    sa.Column("previous", sa.String(64), nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),
    sa.Index("entries_by_release", "release_id", "kind"),
    sa.Index("entries_by_kind", "endpoint", "kind", "seq"),
)

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("endpoint", sa.String(64), primary_key=True),
    sa.Column("holder", sa.String(200), nullable=False),
    sa.Column("release_id", sa.String(64), nullable=False),
    sa.Column("expires", sa.Float, nullable=False),
    sa.Column("fence", sa.Integer, nullable=False),
)

tickets = sa.Table(
    "tickets",
    metadata,
    sa.Column("endpoint", sa.String(64), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("release_id", sa.String(64), nullable=False),
    sa.Column("holder", sa.String(200), nullable=False),
    sa.Column("expires", sa.Float, nullable=False),
)

deliveries = sa.Table(
    "deliveries",
    metadata,
    sa.Column("id", sa.String(200), primary_key=True),
    sa.Column("at", sa.Float, nullable=False),
)


class Kind(StrEnum):
    """What sort of thing a row tells."""

    PHASE = "phase"
    """A release entered a phase; `what` is the phase."""
    LIVE = "live"
    """A version took all of the endpoint's traffic; `what` is its revision."""
    DECISION = "decision"
    """A gate, the judge, the monitor or a person decided; `what` names it."""
    LOOK = "look"
    """One reading of the counters during a shift."""
    STATE = "state"
    """The judge's state after a look, so that a release that was cut short does not replay all earlier looks."""
    WAIT = "wait"
    """What a gate waits for, how far it is, and for how long; at most one in some seconds."""
    CHECK = "check"
    """One drift check."""
    NOTE = "note"
    """Something worth knowing, such as an expired lease taken over."""


class Entry(Record):
    """One row. `evidence` holds records as JSON; `at` is UTC."""

    endpoint: str
    seq: int = 0
    release_id: str
    at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    kind: Kind
    what: str
    actor: str
    reason: str = ""
    evidence: dict[str, Any] = Field(default_factory=dict)


def mapped(call: Callable[_P, _R]) -> Callable[_P, _R]:
    """Turn the driver's errors into ours, at the boundary."""

    @functools.wraps(call)
    def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return call(*args, **kwargs)
        except sa.exc.OperationalError as error:
            raise RegistryUnavailableError(
                f"the journal does not answer: {error.orig}", fix="check HEADGATE_JOURNAL_URL, or the disk"
            ) from error

    return wrapper


class Journal:
    """The table of entries.

    Args:
        url: SQLAlchemy's URL, such as `sqlite:///journal.db` or `postgresql+psycopg://…`.
    """

    def __init__(self, url: str) -> None:
        self.engine = open_engine(url)
        self._create()

    @mapped
    # Another process made the tables between the look and the making; the next look finds them.
    @again_after(sa.exc.IntegrityError, sa.exc.ProgrammingError)
    def _create(self) -> None:
        with self.writing() as connection:
            metadata.create_all(connection)

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction that may write; SQLite lets one in at a time."""
        with self.engine.connect().execution_options(writes=True) as connection, connection.begin():
            yield connection

    def close(self) -> None:
        """Give the connections back."""
        self.engine.dispose()

    @mapped
    # Two writers took the same number; the loser reads the new last row and goes on.
    @again_after(sa.exc.IntegrityError)
    def append(self, entry: Entry, *, fence: int | None = None) -> Entry:
        """Write a row.

        Args:
            entry: what happened; its `seq` is given here.
            fence: the fencing number of the writer's lease, where only its holder may write.

        Raises:
            LeaseLostError: another process has taken the endpoint over since.
        """
        with self.writing() as connection:
            if fence is not None:
                check_fence(connection, entry.endpoint, fence)
            last = connection.execute(
                sa.select(entries.c.seq, entries.c.hash)
                .where(entries.c.endpoint == entry.endpoint).order_by(entries.c.seq.desc()).limit(1)
            ).one_or_none()  # fmt: skip
            numbered = entry.model_copy(update={"seq": last.seq + 1 if last else 1})
            row = _row(numbered, last.hash if last else GENESIS)
            connection.execute(entries.insert().values(row))
        return numbered

    @mapped
    def read(
        self,
        endpoint: str,
        *,
        kinds: tuple[Kind, ...] = (),
        what: str = "",
        release_id: str | None = None,
        after: int = 0,
        newest: int | None = None,
    ) -> list[Entry]:
        """Rows of an endpoint, oldest first; `newest` keeps only the last so many."""
        query = sa.select(entries).where(entries.c.endpoint == endpoint, entries.c.seq > after)
        if kinds:
            query = query.where(entries.c.kind.in_([kind.value for kind in kinds]))
        if what:
            query = query.where(entries.c.what == what)
        if release_id is not None:
            query = query.where(entries.c.release_id == release_id)
        query = query.order_by(entries.c.seq.desc())
        if newest is not None:
            query = query.limit(newest)
        with self.engine.connect() as connection:
            rows = connection.execute(query).mappings().all()
        return [_entry(dict(row)) for row in reversed(rows)]

    @mapped
    def counts(self, kinds: tuple[Kind, ...]) -> dict[tuple[str, str, str], int]:
        """How many rows there are of some kinds, by endpoint, kind and what they say."""
        columns = (entries.c.endpoint, entries.c.kind, entries.c.what)
        query = (
            sa.select(*columns, sa.func.count()).where(entries.c.kind.in_([kind.value for kind in kinds]))
            .group_by(*columns)
        )  # fmt: skip
        with self.engine.connect() as connection:
            return {(row[0], row[1], row[2]): row[3] for row in connection.execute(query)}

    @mapped
    def newest_of_each(self, kind: Kind, what: str = "") -> list[Entry]:
        """The last row of a kind, of every endpoint that has one; only those that say `what`, where it is given."""
        wanted = sa.and_(entries.c.kind == kind.value, *([entries.c.what == what] if what else []))
        last = (
            sa.select(entries.c.endpoint, sa.func.max(entries.c.seq).label("seq"))
            .where(wanted).group_by(entries.c.endpoint).subquery()
        )  # fmt: skip
        query = sa.select(entries).join(
            last, sa.and_(entries.c.endpoint == last.c.endpoint, entries.c.seq == last.c.seq)
        )
        with self.engine.connect() as connection:
            return [_entry(dict(row)) for row in connection.execute(query).mappings()]

    @mapped
    def endpoints(self) -> list[str]:
        """Every endpoint that has rows."""
        with self.engine.connect() as connection:
            return list(
                connection.execute(sa.select(entries.c.endpoint).distinct().order_by(entries.c.endpoint)).scalars()
            )

    @mapped
    def find_release(self, release_id: str) -> list[Entry]:
        """The rows of one release, whatever its endpoint."""
        query = sa.select(entries).where(entries.c.release_id == release_id).order_by(entries.c.seq)
        with self.engine.connect() as connection:
            return [_entry(dict(row)) for row in connection.execute(query).mappings()]

    def verify(self, endpoint: str) -> int:
        """Return how many rows there are, after each was held against its hash and its place. See `verified`."""
        return len(self.verified(endpoint))

    @mapped
    def verified(self, endpoint: str) -> list[dict[str, Any]]:
        """Read every row as it is stored, and check it against its hash and its place; oldest first.

        Raises:
            JournalChangedError: a row was changed, removed or put in.
        """
        query = sa.select(entries).where(entries.c.endpoint == endpoint).order_by(entries.c.seq)
        with self.engine.connect() as connection:
            rows = [dict(row) for row in connection.execute(query).mappings()]
        broken = chain_breaks_at(rows, GENESIS, 1)
        if broken is not None:
            raise JournalChangedError(
                f"row {broken} of {endpoint}'s history does not match its hash",
                fix="restore the journal from a backup; everything up to the row before is intact",
            )
        return rows


def chain_breaks_at(rows: Iterable[dict[str, Any]], previous: str, first: int) -> int | None:
    """The number of the first stored row that does not match its hash or its place; None where all do."""
    for number, row in enumerate(rows, start=first):
        if row.get("seq") != number or row.get("previous") != previous or row.get("hash") != _hash(row):
            return number
        previous = row["hash"]
    return None


def check_schema(row: dict[str, Any]) -> None:
    """Refuse a row that a later Headgate wrote, instead of misreading it.

    Raises:
        BadInputError: it is one.
    """
    if row["schema"] > SCHEMA_VERSION:
        raise BadInputError(
            f"row {row['seq']} of {row['endpoint']} has schema {row['schema']}, and this Headgate reads up to "
            f"{SCHEMA_VERSION}",
            fix="upgrade Headgate on this machine",
        )


def check_fence(connection: sa.Connection, endpoint: str, fence: int) -> None:
    """Refuse a writer whose lease was taken over."""
    current = connection.execute(
        sa.select(leases.c.fence, leases.c.holder).where(leases.c.endpoint == endpoint)
    ).one_or_none()
    if current is None or current.fence != fence:
        holder = label(current.holder) if current else "nobody"
        raise LeaseLostError(
            f"{endpoint} is held by {holder} now (fence {current.fence if current else '-'}, ours was {fence})",
            fix="see headgate status; this process must not go on",
        )


@contextmanager
def open_journal(url: str) -> Iterator[Journal]:
    """A journal that is closed again."""
    journal = Journal(url)
    try:
        yield journal
    finally:
        journal.close()


def _row(entry: Entry, previous: str) -> dict[str, Any]:
    row = {
        "endpoint": entry.endpoint,
        "seq": entry.seq,
        "release_id": entry.release_id,
        "at": entry.at.astimezone(UTC).isoformat(),
        "kind": entry.kind.value,
        "what": entry.what,
        "actor": entry.actor,
        "reason": entry.reason,
        "evidence": json.dumps(entry.evidence, sort_keys=True),
        "schema": SCHEMA_VERSION,
        "previous": previous,
    }
    return {**row, "hash": _hash(row)}


def _entry(row: dict[str, Any]) -> Entry:
    check_schema(row)
    return Entry(
        evidence=json.loads(row["evidence"]),
        **{name: row[name] for name in ("endpoint", "seq", "release_id", "at", "kind", "what", "actor", "reason")},
    )


def _hash(row: dict[str, Any]) -> str:
    content = {name: value for name, value in row.items() if name != "hash"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
