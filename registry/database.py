"""Open the journal's database: SQLite or PostgreSQL, through SQLAlchemy."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import sqlalchemy as sa
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_random_exponential

from headgate.errors import BadInputError
from headgate.installation import install_command

if TYPE_CHECKING:
    from collections.abc import Callable

CONFLICT_SECONDS = 10.0
"""How long a write is tried again that another process was ahead of: many writers of one endpoint, and a slow database,
make one lose more often than any small number of times."""

_P = ParamSpec("_P")
_R = TypeVar("_R")


def again_after(*conflicts: type[Exception]) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Carry a transaction out again where another process was ahead of it, for `CONFLICT_SECONDS` at most.

    Args:
        conflicts: what the database raises then; the last one is raised where the time is over.
    """
    return retry(
        retry=retry_if_exception_type(conflicts), stop=stop_after_delay(CONFLICT_SECONDS),
        wait=wait_random_exponential(multiplier=0.01, max=0.5), reraise=True,
    )  # fmt: skip


def open_engine(url: str) -> sa.Engine:
    """Return the database's engine; nothing is contacted yet.

    Raises:
        BadInputError: the URL cannot be read, or its driver is not installed. The message leaves out the URL, which may
            hold a password.
    """
    try:
        engine = sa.create_engine(url, pool_pre_ping=True)
    except ImportError as error:
        raise BadInputError(
            f"HEADGATE_JOURNAL_URL needs {error.name}, which is not installed"
            if error.name
            else f"HEADGATE_JOURNAL_URL needs a driver that does not load: {str(error).splitlines()[0]}",
            fix=f"write it as postgresql+psycopg://user:password@host/name, and run: {install_command('postgresql')}",
        ) from error
    except sa.exc.ArgumentError as error:
        raise BadInputError(
            "HEADGATE_JOURNAL_URL is not a database URL that SQLAlchemy can read",
            fix="write it as postgresql+psycopg://user:password@host/database, or sqlite:////path/journal.db",
        ) from error
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "do_connect", _for_its_owner_alone)
        sa.event.listen(engine, "connect", _configure_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _for_its_owner_alone(_dialect: Any, _record: object, where: list[str], _options: object) -> None:  # noqa: ANN401
    """Make a new file of mode 0600 before SQLite makes one by the umask; its -wal and -shm get the mode that it has."""
    path = Path(where[0])
    if where[0] != ":memory:" and path.parent.is_dir() and not path.exists() and os.access(path.parent, os.W_OK):
        path.touch(mode=0o600)


def _begin_sqlite(connection: sa.Connection) -> None:
    # A transaction that reads first and writes then would find the database locked by another such.
    writes = connection.get_execution_options().get("writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _configure_sqlite(connection: Any, _record: object) -> None:  # noqa: ANN401
    # Transactions begin where SQLAlchemy says so (the `begin` listener), not at the driver's first write.
    connection.isolation_level = None
    connection.execute("PRAGMA busy_timeout=10000")
    _use_wal(connection)
    connection.execute("PRAGMA synchronous=NORMAL")


@retry(
    # SQLite does not wait for this one lock: two processes that open a new file at once both want to switch it.
    retry=retry_if_exception_type(sqlite3.OperationalError),
    stop=stop_after_delay(10),
    wait=wait_random_exponential(multiplier=0.01, max=0.2),
    reraise=True,
)
def _use_wal(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
