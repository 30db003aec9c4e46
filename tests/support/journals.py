"""A journal of each kind of database."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from headgate.stack.ports import HOST, free_port
from registry import Journal

if TYPE_CHECKING:
    from collections.abc import Iterator

PROCESSES = multiprocessing.get_context("forkserver")
"""Processes that have imported the journal when they start, and share no connection with this one."""
PROCESSES.set_forkserver_preload(["pytest", "registry.journal", "registry.queue"])


def find_postgres() -> Path | None:
    found = [*Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    on_path = shutil.which("initdb")
    return found[0].parent if found else (Path(on_path).parent if on_path else None)


@dataclass(frozen=True)
class Postgres:
    """A PostgreSQL server."""

    url: str
    control: list[str]
    options: str
    folder: Path

    def start(self) -> None:
        subprocess.run(
            [*self.control, "-o", self.options, "-l", str(self.folder / "log"), "start"], check=True, cwd=self.folder
        )

    def stop(self, how: str = "immediate") -> None:
        subprocess.run([*self.control, "-m", how, "stop"], check=True, cwd=self.folder)

    def create(self, *databases: str) -> None:
        """Make databases."""
        create_databases(self.url, *databases)


def create_databases(url: str, *names: str) -> None:
    """Make databases on a PostgreSQL server, whose address has no database."""
    engine = sa.create_engine(f"{url}/postgres", isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for name in names:
            connection.execute(sa.text(f"CREATE DATABASE {name}"))
    engine.dispose()


@contextmanager
def running_postgres(folder: Path) -> Iterator[Postgres]:
    """Start a PostgreSQL server whose data are in a folder; skips the test where there is none."""
    binaries = find_postgres()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    port = free_port(for_what="PostgreSQL")
    # PostgreSQL refuses to run as root.
    become = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    if become:
        shutil.chown(folder, "postgres")
        shared = Path(tempfile.gettempdir())
        for parent in (one for one in folder.parents if one.is_relative_to(shared) and one != shared):
            parent.chmod(0o755)
    data = str(folder / "data")
    made = [*become, str(binaries / "initdb"), "-D", data, "-U", "headgate", "--auth=trust"]
    subprocess.run(made, check=True, cwd=folder)
    options = f"-p {port} -c listen_addresses={HOST} -k {folder} -c fsync=off"
    control = [*become, str(binaries / "pg_ctl"), "-D", data, "-w"]
    server = Postgres(f"postgresql+psycopg://headgate@{HOST}:{port}", control, options, folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def postgres(tmp_path_factory):
    """The address of a PostgreSQL server of this session's own."""
    with running_postgres(tmp_path_factory.mktemp("postgres")) as server:
        yield server.url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'journal.db'}"
    server = request.getfixturevalue("postgres")
    name = f"j{time.time_ns()}"
    engine = sa.create_engine(f"{server}/postgres", isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return f"{server}/{name}"


@pytest.fixture
def journal(url):
    opened = Journal(url)
    yield opened
    opened.close()
