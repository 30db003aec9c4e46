"""The lease: one process at a time may change an endpoint, and one that lost it is told so.

The clock that counts is that of the machines that hold leases; they must agree to within a few seconds.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Self

import sqlalchemy as sa

from headgate import clock
from headgate.errors import EndpointBusyError, LeaseLostError, RegistryUnavailableError
from headgate.limits import LEASE, seconds_of
from headgate.records import Record
from registry.journal import Journal, check_fence, leases, mapped
from registry.processes import is_known_dead, label, this_process

if TYPE_CHECKING:
    from types import TracebackType

logger = logging.getLogger(__name__)

_FENCES_BEGAN = 1_577_836_800
"""2020-01-01: a first number that no earlier lease of an endpoint can have had, whatever became of the journal."""

_PARKED = "flow run "
"""How the holder of a parked lease is named, followed by the run's id."""
_IN_RUN = "@"
"""Stands between a process and the run that it carries out: one that dies at once has written it nowhere else."""


class Holder(Record):
    """Who holds an endpoint, as `status` shows it; `expires` is seconds since 1970."""

    endpoint: str
    holder: str
    release_id: str
    expires: float
    fence: int

    @property
    def is_live(self) -> bool:
        """Whether the lease has not run out, and its process is not known to have ended."""
        return self.expires > clock.now() and not is_known_dead(self.holder.partition(_IN_RUN)[0])

    @property
    def name(self) -> str:
        """The holder as people know it."""
        return label(self.holder.partition(_IN_RUN)[0])

    @property
    def in_run(self) -> str:
        """The flow run that the process which holds it carries out; empty where it carries out none."""
        return self.holder.partition(_IN_RUN)[2]

    @property
    def flow_run(self) -> str:
        """The suspended flow run that the endpoint is kept for; empty where a process holds it."""
        return self.holder.removeprefix(_PARKED) if self.holder.startswith(_PARKED) else ""


def lease_seconds() -> float:
    """How long a lease lasts whose holder cannot be seen to have ended: HEADGATE_LEASE_SECONDS, or 30.

    Raises:
        BadInputError: that is no number of seconds, or out of bounds.
    """
    return seconds_of(LEASE)


class Lease:
    """Hold an endpoint for as long as the `with` block runs; a thread renews it.

    Args:
        journal: where the lease is kept.
        endpoint: what is held.
        release_id: on whose behalf.
        seconds: how long it lasts when this process dies out of sight; `lease_seconds` by default.
        unpark: take a parked lease from whatever release it is kept for, not only from this one.
        in_run: the id of the flow run that this process carries out, if there is one.
    """

    def __init__(
        self, journal: Journal, endpoint: str, release_id: str, *, seconds: float | None = None, unpark: bool = False,
        in_run: str = "",
    ) -> None:  # fmt: skip
        self._journal = journal
        self._endpoint = endpoint
        self._release_id = release_id
        self._seconds = seconds or lease_seconds()
        self._unpark = unpark
        self._in_run = f"{_IN_RUN}{in_run}" if in_run else ""
        self._parked: tuple[str, float] | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.fence = 0
        self.taken_from: Holder | None = None
        """Who held it last and did not let go of it: a process that died, or stands still and may go on."""
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

    def park(self, flow_run: str, until: float) -> None:
        """Keep the endpoint, once this block ends, for a suspended flow run: no process renews it.

        Args:
            flow_run: the run's id.
            until: seconds since 1970, from which on anybody may take the endpoint.
        """
        self._parked = f"{_PARKED}{flow_run}", until

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
        now = clock.now()
        with self._journal.writing() as connection:
            query = sa.select(leases).where(leases.c.endpoint == self._endpoint)
            row = connection.execute(query.with_for_update()).mappings().one_or_none()
            current = Holder(**row) if row is not None else None
            if current is not None and current.is_live and not self._may_unpark(current):
                raise EndpointBusyError(
                    f"{self._endpoint} is held by {current.name} for release {current.release_id}, "
                    f"for another {current.expires - now:.0f} s unless it renews",
                    fix="wait for it (headgate status), or take it back: headgate rollback",
                )
            if current is not None and current.expires and not current.flow_run:
                self.taken_from = current
            # Higher than what any target has seen, also where the journal is an older one that was restored.
            fence = max((current.fence if current is not None else 0) + 1, int(now) - _FENCES_BEGAN)
            values = {
                "endpoint": self._endpoint, "holder": this_process() + self._in_run, "release_id": self._release_id,
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

    def _may_unpark(self, current: Holder) -> bool:
        return bool(current.flow_run) and (self._unpark or current.release_id == self._release_id)

    def _renew(self) -> None:
        while not self._stop.wait(self._seconds / 3):
            try:
                if not self._extend(clock.now() + self._seconds):
                    self.lost = f"the lease on {self._endpoint} was taken over"
                    return
            except RegistryUnavailableError as error:
                logger.warning("the lease on %s is not renewed, trying again: %s", self._endpoint, error.message)

    def _release(self) -> None:
        if self._parked is None:
            self._extend(0.0)
        else:
            holder, until = self._parked
            self._extend(until, holder=holder)

    @mapped
    def _extend(self, expires: float, **changes: str) -> bool:
        with self._journal.writing() as connection:
            done = connection.execute(
                leases.update()
                .where(leases.c.endpoint == self._endpoint, leases.c.fence == self.fence)
                .values(expires=expires, **changes)
            )
        return done.rowcount == 1


@mapped
def holder(journal: Journal, endpoint: str) -> Holder | None:
    """Who holds an endpoint now, or None."""
    with journal.engine.connect() as connection:
        row = connection.execute(sa.select(leases).where(leases.c.endpoint == endpoint)).mappings().one_or_none()
    held = Holder(**row) if row is not None else None
    return held if held is not None and held.is_live else None


@mapped
def holders(journal: Journal) -> dict[str, Holder]:
    """Who holds each endpoint, or held it and never let go: then it is not live."""
    with journal.engine.connect() as connection:
        rows = connection.execute(sa.select(leases).where(leases.c.expires > 0)).mappings()
        return {row["endpoint"]: Holder(**row) for row in rows}
