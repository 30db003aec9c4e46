"""The lease: one process at a time may change an endpoint, and one that lost it is told so.

The clock that counts is that of the machines that hold leases; they must agree to within a few seconds.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from typing import TYPE_CHECKING, Self

import sqlalchemy as sa

from headgate.errors import EndpointBusyError, LeaseLostError, RegistryUnavailableError
from headgate.records import Record
from registry.journal import Journal, check_fence, leases, mapped

if TYPE_CHECKING:
    from types import TracebackType

logger = logging.getLogger(__name__)

LEASE_SECONDS = 30.0


class Holder(Record):
    """Who holds an endpoint, as `status` shows it; `expires` is seconds since 1970."""

    endpoint: str
    holder: str
    release_id: str
    expires: float
    fence: int

    @property
    def is_live(self) -> bool:
        """Whether the lease has not run out."""
        return self.expires > time.time()


def this_process() -> str:
    """How this process is named in a lease."""
    return f"{socket.gethostname()}:{os.getpid()}"


class Lease:
    """Hold an endpoint for as long as the `with` block runs; a thread renews it.

    Args:
        journal: where the lease is kept.
        endpoint: what is held.
        release_id: on whose behalf.
        seconds: how long it lasts when this process dies.
    """

    def __init__(self, journal: Journal, endpoint: str, release_id: str, *, seconds: float = LEASE_SECONDS) -> None:
        self._journal = journal
        self._endpoint = endpoint
        self._release_id = release_id
        self._seconds = seconds
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.fence = 0
        self.lost: str | None = None

    def __enter__(self) -> Self:
        self.fence = self._take()
        self._thread = threading.Thread(target=self._renew, name=f"lease-{self._endpoint}", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join()
        self._release()

    @mapped
    def check(self) -> None:
        """Ask the journal whether the endpoint is still ours; called before every change of traffic.

        Raises:
            LeaseLostError: it is not.
        """
        if self.lost:
            raise LeaseLostError(self.lost, fix="see headgate status; this process must not go on")
        with self._journal.engine.connect() as connection:
            check_fence(connection, self._endpoint, self.fence)

    @mapped
    def _take(self) -> int:
        now = time.time()
        with self._journal.writing() as connection:
            query = sa.select(leases).where(leases.c.endpoint == self._endpoint)
            current = connection.execute(query.with_for_update()).mappings().one_or_none()
            if current is not None and current["expires"] > now:
                raise EndpointBusyError(
                    f"{self._endpoint} is held by {current['holder']} for release {current['release_id']}, "
                    f"for another {current['expires'] - now:.0f} s unless it renews",
                    fix="wait for it (headgate status), or take it back: headgate rollback",
                )
            fence = (current["fence"] if current is not None else 0) + 1
            values = {
                "endpoint": self._endpoint, "holder": this_process(), "release_id": self._release_id,
                "expires": now + self._seconds, "fence": fence,
            }  # fmt: skip
            try:
                if current is None:
                    connection.execute(leases.insert().values(values))
                else:
                    connection.execute(leases.update().where(leases.c.endpoint == self._endpoint).values(values))
            except sa.exc.IntegrityError as error:
                raise EndpointBusyError(f"{self._endpoint} was taken by another process just now") from error
        return fence

    def _renew(self) -> None:
        while not self._stop.wait(self._seconds / 3):
            try:
                if not self._extend(time.time() + self._seconds):
                    self.lost = f"the lease on {self._endpoint} was taken over"
                    return
            except RegistryUnavailableError as error:
                logger.warning("the lease on %s is not renewed, trying again: %s", self._endpoint, error.message)

    def _release(self) -> None:
        self._extend(0.0)

    @mapped
    def _extend(self, expires: float) -> bool:
        with self._journal.writing() as connection:
            done = connection.execute(
                leases.update()
                .where(leases.c.endpoint == self._endpoint, leases.c.fence == self.fence)
                .values(expires=expires)
            )
        return done.rowcount == 1


@mapped
def holder(journal: Journal, endpoint: str) -> Holder | None:
    """Who holds an endpoint now, or None."""
    with journal.engine.connect() as connection:
        row = connection.execute(sa.select(leases).where(leases.c.endpoint == endpoint)).mappings().one_or_none()
    held = Holder(**row) if row is not None else None
    return held if held is not None and held.is_live else None
