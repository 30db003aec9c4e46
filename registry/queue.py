"""The line before an endpoint: releases that wait for it, first come, first served.

A ticket is renewed while its holder waits, so that one whose process has died holds nobody up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from headgate import clock
from headgate.records import Record
from registry.database import again_after
from registry.journal import mapped, tickets
from registry.processes import is_known_dead, label, this_process

if TYPE_CHECKING:
    from registry.journal import Journal

TICKET_SECONDS = 15.0


class Ticket(Record):
    """A place in the line; `expires` is seconds since 1970."""

    endpoint: str
    number: int
    release_id: str
    holder: str
    expires: float

    @property
    def name(self) -> str:
        """The holder as people know it."""
        return label(self.holder)


@mapped
def waiting(journal: Journal, endpoint: str) -> list[Ticket]:
    """Who waits for an endpoint and still lives, the first one first."""
    alive = tickets.c.expires > clock.now()
    query = sa.select(tickets).where(tickets.c.endpoint == endpoint, alive).order_by(tickets.c.number)
    with journal.engine.connect() as connection:
        found = [Ticket(**row) for row in connection.execute(query).mappings()]
    return [ticket for ticket in found if not is_known_dead(ticket.holder)]


class Place:
    """One release's place in an endpoint's line.

    Args:
        journal: where the line is kept.
        endpoint: what is waited for.
        release_id: who waits.
    """

    def __init__(self, journal: Journal, endpoint: str, release_id: str) -> None:
        self._journal, self._endpoint, self._release_id = journal, endpoint, release_id
        self.number = self._take()

    @mapped
    # Two took the same number; the loser takes the next one.
    @again_after(sa.exc.IntegrityError)
    def _take(self) -> int:
        now = clock.now()
        with self._journal.writing() as connection:
            connection.execute(tickets.delete().where(tickets.c.expires < now))
            last = sa.select(sa.func.max(tickets.c.number)).where(tickets.c.endpoint == self._endpoint)
            number = int(connection.execute(last).scalar() or 0) + 1
            connection.execute(
                tickets.insert().values(
                    endpoint=self._endpoint, number=number, release_id=self._release_id, holder=this_process(),
                    expires=now + TICKET_SECONDS,
                )
            )  # fmt: skip
        return number

    @mapped
    def ahead(self) -> list[Ticket]:
        """Who comes before; asking renews the place."""
        with self._journal.writing() as connection:
            now = clock.now()
            in_time = tickets.c.expires >= now
            renewed = connection.execute(
                tickets.update().where(*self._mine(), in_time).values(expires=now + TICKET_SECONDS)
            )
        if not renewed.rowcount:
            # This process stood still for so long that others took it for dead.
            self.number = self._take()
        return [ticket for ticket in waiting(self._journal, self._endpoint) if ticket.number < self.number]

    @mapped
    def leave(self) -> None:
        """Give the place up."""
        with self._journal.writing() as connection:
            connection.execute(tickets.delete().where(*self._mine()))

    def _mine(self) -> tuple[sa.ColumnElement[bool], ...]:
        # A number may be given out again once its ticket has run out.
        ours = tickets.c.endpoint == self._endpoint, tickets.c.number == self.number
        return *ours, tickets.c.release_id == self._release_id
