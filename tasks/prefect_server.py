"""Start the stack's Prefect server, whose SQLite transactions wait: `python -P -m tasks.prefect_server start …`.

A transaction of SQLite that reads first and writes later fails at once if another one has written in between
(SQLITE_BUSY_SNAPSHOT, "database is locked"); it cannot wait. Prefect's server begins its transactions in this way. It
tries an event four times within a second, then puts it aside, and the automation that waits for it never starts. Here
each transaction takes the write lock when it begins, and waits up to a minute for it.

Source: https://www.sqlite.org/lang_transaction.html, section 2.2; Prefect 3.8, server/database/configurations.py and
server/utilities/messaging/memory.py.
"""

from __future__ import annotations

import runpy
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from prefect.server.database.configurations import AioSqliteConfiguration

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction


def lock_from_the_start() -> None:
    """Have every transaction of Prefect's server on SQLite take the write lock when it begins."""
    begin = AioSqliteConfiguration.begin_transaction

    @asynccontextmanager
    async def begin_transaction(
        self: AioSqliteConfiguration, session: AsyncSession, with_for_update: bool = False  # noqa: ARG001, FBT001, FBT002
    ) -> AsyncGenerator[AsyncSessionTransaction, None]:  # fmt: skip
        async with begin(self, session, with_for_update=True) as transaction:
            yield transaction

    AioSqliteConfiguration.begin_transaction = begin_transaction  # type: ignore[method-assign]


if __name__ == "__main__":
    lock_from_the_start()
    sys.argv = ["prefect", "server", *sys.argv[1:]]
    runpy.run_module("prefect", run_name="__main__", alter_sys=True)
