"""A journal of each kind of database."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from headgate.stack.ports import HOST, free_port
from registry import Journal


def find_postgres() -> Path | None:
    found = [*Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    on_path = shutil.which("initdb")
    return found[0].parent if found else (Path(on_path).parent if on_path else None)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory):
    """A PostgreSQL server of this session's own."""
    binaries = find_postgres()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    folder, port = tmp_path_factory.mktemp("postgres"), free_port(for_what="PostgreSQL")
    # PostgreSQL refuses to run as root.
    become = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    if become:
        shutil.chown(folder, "postgres")
        shared = Path(tempfile.gettempdir())
        for parent in (one for one in folder.parents if one.is_relative_to(shared) and one != shared):
            parent.chmod(0o755)
    data = folder / "data"
    subprocess.run([*become, binaries / "initdb", "-D", data, "-U", "headgate", "--auth=trust"], check=True, cwd=folder)
    options = f"-p {port} -c listen_addresses={HOST} -k {folder} -c fsync=off"
    control = [*become, binaries / "pg_ctl", "-D", data, "-w"]
    subprocess.run([*control, "-o", options, "-l", folder / "log", "start"], check=True, cwd=folder)
    yield f"postgresql+psycopg://headgate@{HOST}:{port}"
    subprocess.run([*control, "-m", "immediate", "stop"], check=True, cwd=folder)


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
