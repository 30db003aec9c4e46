"""The prediction log from SageMaker's data capture: JSON lines in S3, a folder for each variant and hour.

    PREFIX/ENDPOINT/VARIANT/yyyy/mm/dd/hh/*.jsonl

Source: https://docs.aws.amazon.com/sagemaker/latest/dg/model-monitor-data-capture-endpoint.html. A line has bodies and
an id, no status and no latency: an answer that is there was a 200, and latencies come from CloudWatch alone.
"""

from __future__ import annotations

import base64
from collections import defaultdict
from datetime import datetime, timedelta
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
import pyarrow as pa

from deploy_targets.prediction_log import SCHEMA
from headgate.errors import TargetError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from deploy_targets.sagemaker.aws import Aws
    from headgate.records import Window

_HOUR = timedelta(hours=1)
_LATE = timedelta(minutes=5)
_OK, _FAILED = 200, 500
_KEPT_FILES = 256
_ROWS = 2000


class Copies(NamedTuple):
    """When a revision received copies of live requests; `end` is None while it still does."""

    start: datetime
    end: datetime | None

    def has(self, moment: datetime) -> bool:
        """Whether what it received then was a copy."""
        return self.start <= moment and (self.end is None or moment < self.end)

    def meets(self, window: Window) -> bool:
        """Whether it received any within a window."""
        return self.start < window.end and (self.end is None or self.end > window.start)


class Row(NamedTuple):
    """One captured request."""

    request_id: str
    time: datetime
    status: int
    content_type: str
    request: bytes
    response: bytes


class Captures:
    """What SageMaker wrote of one endpoint.

    Args:
        aws: the account.
        where: s3://bucket/prefix.
        endpoint: whose.
    """

    def __init__(self, aws: Aws, where: str, endpoint: str) -> None:
        self._aws, self._endpoint = aws, endpoint
        self._bucket, _, prefix = where.removeprefix("s3://").partition("/")
        self._prefix = f"{prefix.rstrip('/')}/{endpoint}/".lstrip("/")
        # A file does not change once it is there.
        self._read = lru_cache(maxsize=_KEPT_FILES)(self._read_file)

    def read(self, window: Window, copies: Mapping[str, Copies]) -> Iterator[pa.RecordBatch]:
        """Rows within a window, in batches of `SCHEMA`; `seconds` is not known.

        Args:
            window: of times.
            copies: which revisions received copies of live requests, and when.
        """
        revisions = self._revisions()
        if not any(name in copies and copies[name].meets(window) for name in revisions):
            for name in revisions:
                yield from self._batches(name, self._rows(name, window), mirrored=False)
            return
        rows = {name: list(self._rows(name, window)) for name in revisions}
        until = _until_when_both_are_there(rows, copies, window)
        originals = _Originals()
        for name, found in rows.items():
            live = [row for row in found if not _is_copy(name, row, copies)]
            originals.add(live)
            yield from self._batches(name, [row for row in live if row.time <= until], mirrored=False)
        for name, found in rows.items():
            made = [row for row in found if row.time <= until and _is_copy(name, row, copies)]
            yield from self._batches(name, map(originals.named, made), mirrored=True)

    def remove(self, revision: str) -> None:
        """Remove what was written of a revision."""
        keys = [
            found["Key"]
            for found in self._aws.pages(
                "s3", "list_objects_v2", "Contents", Bucket=self._bucket, Prefix=f"{self._prefix}{revision}/"
            )
        ]
        for start in range(0, len(keys), 1000):
            some = [{"Key": key} for key in keys[start : start + 1000]]
            self._aws.call("s3", "delete_objects", Bucket=self._bucket, Delete={"Objects": some, "Quiet": True})

    def _revisions(self) -> list[str]:
        folders = self._aws.pages(
            "s3", "list_objects_v2", "CommonPrefixes", Bucket=self._bucket, Prefix=self._prefix, Delimiter="/"
        )
        return sorted(found["Prefix"].rstrip("/").rpartition("/")[2] for found in folders)

    def _rows(self, revision: str, window: Window) -> Iterator[Row]:
        # A file may be named after the hour in which its first row fell.
        hour = (window.start - _LATE).replace(minute=0, second=0, microsecond=0)
        while hour <= window.end:
            folder = f"{self._prefix}{revision}/{hour:%Y/%m/%d/%H}/"
            for found in self._aws.pages("s3", "list_objects_v2", "Contents", Bucket=self._bucket, Prefix=folder):
                if found["LastModified"] >= window.start.replace(microsecond=0):
                    rows = self._read(found["Key"], found["ETag"])
                    yield from (row for row in rows if window.start <= row.time < window.end)
            hour += _HOUR

    def _read_file(self, key: str, _etag: str) -> tuple[Row, ...]:
        found = self._aws.find("s3", "get_object", Bucket=self._bucket, Key=key)
        lines = found["Body"].read().splitlines() if found else []
        return tuple(_row(line, f"s3://{self._bucket}/{key}") for line in lines if line.strip())

    def _batches(self, revision: str, rows: Iterable[Row], *, mirrored: bool) -> Iterator[pa.RecordBatch]:
        walk = iter(rows)
        while some := list(islice(walk, _ROWS)):
            columns = {name: [getattr(row, name) for row in some] for name in Row._fields}
            columns |= {
                "seconds": [None] * len(some), "mirrored": [mirrored] * len(some),
                "endpoint": [self._endpoint] * len(some), "revision": [revision] * len(some),
            }  # fmt: skip
            yield pa.RecordBatch.from_pydict(columns, schema=SCHEMA)


class _Originals:
    """Live requests, to name their copies after.

    Whether SageMaker gives a copy its original's id is not documented. Where it does not, the original is the one with
    the same body that is nearest in time, which is the same question to ask of both versions.
    """

    def __init__(self) -> None:
        self._ids: set[str] = set()
        self._by_body: defaultdict[bytes, list[Row]] = defaultdict(list)

    def add(self, rows: Iterable[Row]) -> None:
        """Take live requests."""
        for row in rows:
            self._ids.add(row.request_id)
            self._by_body[row.request].append(row)

    def named(self, copy: Row) -> Row:
        """A copy with its original's id; as it is where there is none."""
        alike = self._by_body.get(copy.request)
        if copy.request_id in self._ids or not alike:
            return copy
        nearest = min(alike, key=lambda row: abs(row.time - copy.time))
        alike.remove(nearest)
        return copy._replace(request_id=nearest.request_id)


def _is_copy(revision: str, row: Row, copies: Mapping[str, Copies]) -> bool:
    return revision in copies and copies[revision].has(row.time)


def _until_when_both_are_there(
    rows: Mapping[str, Sequence[Row]], copies: Mapping[str, Copies], window: Window
) -> datetime:
    """Files come late, one variant's before another's; a copy that is late shall not look like one that was lost."""
    until = window.end
    for name, made in copies.items():
        if made.end is None and made.meets(window):
            others = [row.time for other, found in rows.items() for row in found if other != name]
            until = min(until, max((row.time for row in rows.get(name, ())), default=window.start))
            until = min(until, max(others, default=window.start))
    return until


def _row(line: bytes, where: str) -> Row:
    try:
        read = orjson.loads(line)
        data, about = read["captureData"], read["eventMetadata"]
        asked, answered = data["endpointInput"], data.get("endpointOutput")
        return Row(
            request_id=about.get("inferenceId") or about["eventId"],
            time=datetime.fromisoformat(about["inferenceTime"]), status=_OK if answered else _FAILED,
            content_type=asked.get("observedContentType", ""), request=_body(asked),
            response=_body(answered) if answered else b"",
        )  # fmt: skip
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise TargetError(
            f"{where} has a line that is no capture of SageMaker's: {error!r}",
            fix="nothing else may write there; take another target.captures",
        ) from error


def _body(captured: Mapping[str, Any]) -> bytes:
    text = captured["data"]
    return base64.b64decode(text) if captured.get("encoding") == "BASE64" else str(text).encode()
