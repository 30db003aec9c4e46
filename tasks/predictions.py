"""What an endpoint answered: taken over from its target's log, read back, and kept when a revision goes."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from filelock import FileLock

from headgate.errors import MonitorError
from monitoring.predictions import Predictions, PredictionStore
from monitoring.predictions.store import SETTLE
from tasks.step import log

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headgate.home import Home
    from headgate.records import Revision, Window
    from headgate.spec import ReleaseSpec
    from tasks.job import ReleaseJob


def store_of(home: Home, spec: ReleaseSpec, log_delay: float = 0) -> PredictionStore:
    """Where the predictions of a release file's endpoint are kept.

    Args:
        home: this machine's state.
        spec: the release file.
        log_delay: seconds after which a row is in its target's log.

    Raises:
        BadInputError: capture.store cannot be opened.
    """
    settle = max(SETTLE, timedelta(seconds=log_delay))
    return PredictionStore(spec.capture.store or str(home.predictions), spec.endpoint, settle)


def _store(job: ReleaseJob) -> PredictionStore:
    return store_of(job.home, job.spec, job.target.LOG_DELAY)


def predictions(job: ReleaseJob, revision: Revision, window: Window, *, copies: bool = False) -> Predictions:
    """A revision's rows of a window, after the store has taken over what the log has.

    Args:
        job: the check.
        revision: whose.
        window: their time.
        copies: also answers to mirrored requests.
    """
    store, captured = _store(job), partial(job.target.captured, job.endpoint)
    with _alone(job):
        try:
            store.take(captured, datetime.now(UTC), timedelta(seconds=job.spec.capture.retention))
            return Predictions(store, captured, revision.name, window, copies=copies)
        except MonitorError as error:
            log(f"the window is read from the log alone: {error.message}")
            return Predictions(None, captured, revision.name, window, copies=copies)


def keep_log(job: ReleaseJob, revision: str) -> None:
    """Take over a revision's log to its last row, before it goes with the revision.

    Raises:
        HeadgateError: it cannot be read, or not be kept.
    """
    store, captured = _store(job), partial(job.target.captured, job.endpoint)
    with _alone(job):
        now = datetime.now(UTC)
        store.take(captured, now, timedelta(seconds=job.spec.capture.retention))
        store.rescue(captured, revision, now)


@contextmanager
def _alone(job: ReleaseJob) -> Iterator[None]:
    """Two who take over the same log would keep its rows twice."""
    job.home.predictions.mkdir(exist_ok=True)
    with FileLock(job.home.predictions / f".{job.endpoint}.lock"):
        yield
