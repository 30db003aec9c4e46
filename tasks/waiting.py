"""What a step waits for, written into the history while it waits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headgate import clock
from registry import Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from tasks.job import Job

_FIRST_SECONDS = 5.0
_PART = 0.02
"""A wait of hours is written down every some minutes."""


class Waiting:
    """Writes it down: the first time after some seconds, then less and less often.

    Args:
        job: whose history.
        what: which step waits.
    """

    def __init__(self, job: Job, what: str) -> None:
        self._job, self._what = job, what
        self._began = self._written = clock.monotonic()

    def tell(self, said: Callable[[], str]) -> None:
        """Write what is waited for, where it is time to.

        Args:
            said: words it; called only where they are written.
        """
        now = clock.monotonic()
        if now - self._written >= max(_FIRST_SECONDS, (now - self._began) * _PART):
            self._written = now
            self._job.write(Kind.WAIT, self._what, said())
