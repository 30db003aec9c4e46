"""The stack's Prefect server: two transactions on SQLite that read first and write later."""

from __future__ import annotations

import asyncio

import pytest
import sqlalchemy as sa
from prefect.server.database.configurations import AioSqliteConfiguration

from tasks.prefect_server import lock_from_the_start


async def _two_at_once(url: str) -> list[object]:
    """What becomes of two transactions that count up, the second of which begins while the first is open."""
    database = AioSqliteConfiguration(url)
    engine = await database.engine()
    async with engine.begin() as connection:
        await connection.execute(sa.text("CREATE TABLE counter (value INTEGER)"))
        await connection.execute(sa.text("INSERT INTO counter VALUES (0)"))
    has_read = asyncio.Event()

    async def count(*, is_first: bool) -> None:
        if not is_first:
            await has_read.wait()
        async with await database.session(engine) as session, database.begin_transaction(session):
            value = (await session.execute(sa.text("SELECT value FROM counter"))).scalar_one()
            has_read.set()
            if is_first:
                # Long enough for the second one to be done, where it does not wait.
                await asyncio.sleep(0.3)
            await session.execute(sa.text("UPDATE counter SET value = :value"), {"value": value + 1})

    ended = await asyncio.gather(count(is_first=True), count(is_first=False), return_exceptions=True)
    async with await database.session(engine) as session:
        counted = (await session.execute(sa.text("SELECT value FROM counter"))).scalar_one()
    await engine.dispose()
    return [*ended, counted]


def test_as_prefect_has_it_one_of_two_transactions_fails(tmp_path):
    """The reason for the change: without this failure it can go."""
    first, second, counted = asyncio.run(_two_at_once(f"sqlite+aiosqlite:///{tmp_path}/prefect.db"))
    assert "database is locked" in str(first)
    assert (second, counted) == (None, 1)


def test_here_the_second_waits_for_the_first(tmp_path, monkeypatch):
    monkeypatch.setattr(AioSqliteConfiguration, "begin_transaction", AioSqliteConfiguration.begin_transaction)
    lock_from_the_start()
    assert asyncio.run(_two_at_once(f"sqlite+aiosqlite:///{tmp_path}/prefect.db")) == [None, None, 2]


@pytest.fixture(autouse=True)
def _no_settings(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
