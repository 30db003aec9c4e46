"""The prediction log from SageMaker's data capture: JSON lines in S3, a folder for each variant and hour.

    PREFIX/ENDPOINT/VARIANT/yyyy/mm/dd/hh/*.jsonl

Source: https://docs.aws.amazon.com/sagemaker/latest/dg/model-monitor-data-capture-endpoint.html. A line has bodies and
an id, no status and no latency: an answer that is there was a 200, and latencies come from CloudWatch alone.
"""

from __future__ import annotations

import base64
from datetime import datetime, timedelta
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import orjson

from deploy_targets.copies import Row, batches
from headgate.errors import TargetError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pyarrow as pa

    from deploy_targets.copies import Copies
    from deploy_targets.sagemaker.aws import Aws
    from headgate.records import Window

_HOUR = "%Y/%m/%d/%H"
_LATE = timedelta(minutes=5)
_OK, _FAILED = 200, 500
_KEPT_FILES = 256


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

    def read(self, window: Window, copies: Mapping[str, Copies], mirrored: str | None) -> Iterator[pa.RecordBatch]:
        """Rows within a window, in batches of `SCHEMA`; `seconds` is not known.

        Args:
            window: of times.
            copies: which revisions received copies, and when.
            mirrored: the one that receives some now.
        """
        rows = {name: partial(self._rows, folders, window) for name, folders in self._folders().items()}
        yield from batches(self._endpoint, rows, window, copies, mirrored)

    def remove(self, revision: str) -> None:
        """Remove what was written of a revision."""
        keys = [
            found["Key"]
            for folder in self._folders().get(revision, ())
            for found in self._aws.pages("s3", "list_objects_v2", "Contents", Bucket=self._bucket, Prefix=folder)
        ]
        for start in range(0, len(keys), 1000):
            some = [{"Key": key} for key in keys[start : start + 1000]]
            self._aws.call("s3", "delete_objects", Bucket=self._bucket, Delete={"Objects": some, "Quiet": True})

    def _folders(self) -> dict[str, list[str]]:
        """Each revision's: those of its variant."""
        return {name: [f"{self._prefix}{name}/"] for name in self._inside(self._prefix)}

    def _inside(self, folder: str) -> list[str]:
        found = self._aws.pages(
            "s3", "list_objects_v2", "CommonPrefixes", Bucket=self._bucket, Prefix=folder, Delimiter="/"
        )
        return sorted(one["Prefix"].rstrip("/").rpartition("/")[2] for one in found)

    def _rows(self, folders: Sequence[str], window: Window) -> Iterator[Row]:
        # A file may be named after the hour in which its first row fell. Hours sort as their names do.
        first, last = f"{window.start - _LATE:{_HOUR}}", f"{window.end:{_HOUR}}/~"
        for folder in folders:
            for found in self._files(folder, first, last, window.start.replace(microsecond=0)):
                rows = self._read(found["Key"], found["ETag"])
                yield from (row for row in rows if window.start <= row.time < window.end)

    def _files(self, folder: str, first: str, last: str, since: datetime) -> Iterator[dict[str, Any]]:
        """What lies in a folder between two names, and was written since then."""
        listed = self._aws.pages(
            "s3", "list_objects_v2", "Contents", Bucket=self._bucket, Prefix=folder, StartAfter=folder + first
        )
        for found in listed:
            if found["Key"] > folder + last:
                return
            if found["LastModified"] >= since:
                yield found

    def _read_file(self, key: str, _etag: str) -> tuple[Row, ...]:
        found = self._aws.find("s3", "get_object", Bucket=self._bucket, Key=key)
        lines = found["Body"].read().splitlines() if found else []
        return tuple(_row(line, f"s3://{self._bucket}/{key}") for line in lines if line.strip())


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
