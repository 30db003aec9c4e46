"""Asking a version what clients asked another one: for a shadow comparison, or to see which of two is to blame."""

from __future__ import annotations

import zlib
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from headgate import clock
from headgate.errors import TargetUnavailableError
from headgate.records import Payload, Prediction, Window

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headgate.records import Revision
    from tasks.job import ReleaseJob

_AT_ONCE_SECONDS = 2.0
"""Of a replay, between two looks at whether it can be decided."""
_NO_ANSWER = 503
_ALL = 2**32


def ask_again(job: ReleaseJob, revision: str, asked: pa.RecordBatch, seconds: float) -> pa.RecordBatch:
    """The same requests, as another version answers them; fewer where it takes its time.

    Args:
        job: whose endpoint.
        revision: who is asked.
        asked: rows of a log.
        seconds: when they have passed, no further request is sent.

    Returns:
        The rows with that version's status, answer and latency; ids and times are those of the original requests.

    Raises:
        TargetUnavailableError: it cannot be reached.
    """
    replies, until = [], clock.monotonic() + seconds
    for body, kind in zip(asked["request"].to_pylist(), asked["content_type"].to_pylist(), strict=True):
        replies.append(job.target.invoke(job.endpoint, Payload(body=body, content_type=kind), revision))
        if clock.monotonic() > until:
            break
    return _answered(asked.slice(0, len(replies)), replies)


def _answered(asked: pa.RecordBatch, replies: list[Prediction]) -> pa.RecordBatch:
    columns = {
        "status": pa.array([reply.status for reply in replies], pa.int16()),
        "response": pa.array([reply.body for reply in replies], pa.binary()),
        "seconds": pa.array([reply.seconds for reply in replies], pa.float32()),
    }
    return pa.RecordBatch.from_arrays(
        [columns.get(name, asked[name]) for name in asked.schema.names], schema=asked.schema
    )


class Replay:
    """Copies of the champion's requests that are asked from here, where a platform cannot mirror them.

    Args:
        job: the release.
        champion: whose requests.
        challenger: who is asked them too.
        percent: the share of them, drawn by their ids.
    """

    def __init__(self, job: ReleaseJob, champion: Revision, challenger: Revision, percent: float) -> None:
        self._job, self._champion, self._challenger = job, champion.name, challenger.name
        self._below = round(percent * _ALL)
        self._seen: set[str] = set()
        self._read_from = datetime.now(UTC)

    def pairs(self, window: Window) -> Iterator[pa.RecordBatch]:
        """Rows as a mirroring platform would log them: what the champion answered, and what the challenger does.

        Those that there is no time to ask are left out on both sides.
        """
        until = clock.monotonic() + _AT_ONCE_SECONDS
        for batch in self._job.target.captured(self._job.endpoint, window):
            fresh = batch.filter(self._is_wanted(batch))
            for place in range(fresh.num_rows):
                if clock.monotonic() > until:
                    return
                row = fresh.slice(place, 1)
                self._seen.add(row["request_id"][0].as_py())
                yield row
                yield self._copy(row)

    def keep_up(self) -> bool:
        """Ask what was asked since this was made, as far as there is time, for a platform's own counts.

        Returns:
            Whether it could be; nothing is asked of a challenger that is not ready, as that would count as its
            failures.

        Raises:
            TargetUnavailableError: the platform does not answer.
        """
        state = self._job.target.observe(self._job.endpoint)
        seen = state.revisions.get(self._challenger) if state else None
        if seen is None or not seen.ready:
            return False
        now = datetime.now(UTC)
        for _ in self.pairs(Window(start=self._read_from, end=now)):
            # Nobody compares them one by one.
            continue
        # Rows come late; each reading goes back as far.
        self._read_from = max(self._read_from, now - timedelta(seconds=self._job.target.LOG_DELAY))
        return True

    def _is_wanted(self, batch: pa.RecordBatch) -> pa.Array:
        theirs = pc.and_(pc.equal(batch["revision"], self._champion), pc.invert(batch["mirrored"]))
        drawn = [
            key not in self._seen and zlib.crc32(key.encode()) < self._below for key in batch["request_id"].to_pylist()
        ]
        return pc.and_(theirs, pa.array(drawn, pa.bool_()))

    def _copy(self, row: pa.RecordBatch) -> pa.RecordBatch:
        try:
            answered = ask_again(self._job, self._challenger, row, 0)
        except TargetUnavailableError as error:
            lost = Prediction(status=_NO_ANSWER, body=error.message.encode(), request_id="", seconds=0)
            answered = _answered(row, [lost])
        columns = {"revision": pa.array([self._challenger]), "mirrored": pa.array([True])}
        return pa.RecordBatch.from_arrays(
            [columns.get(name, answered[name]) for name in answered.schema.names], schema=answered.schema
        )
