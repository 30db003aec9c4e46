"""The prediction log of inference components, whose requests SageMaker does not capture: servers bring it to S3.

    PREFIX/ENDPOINT/REVISION/HOUR/*.arrows

as headgate_server/ship.py has it, which runs beside the server in each container.
"""

from __future__ import annotations

from datetime import UTC, timedelta
from functools import lru_cache
from io import BytesIO
from typing import TYPE_CHECKING

from deploy_targets import prediction_log
from deploy_targets.sagemaker.capture import Captures

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from deploy_targets.sagemaker.aws import Aws
    from headgate.records import Window

_HOUR = timedelta(hours=1)
_CLOCKS = timedelta(minutes=1)
"""By which the clocks of containers and of S3 may differ."""
_KEPT_FILES = 256


class ShippedCaptures(Captures):
    """What the containers of one endpoint wrote.

    Args:
        aws: the account.
        where: s3://bucket/prefix.
        endpoint: whose.
    """

    def __init__(self, aws: Aws, where: str, endpoint: str) -> None:
        super().__init__(aws, where, endpoint)
        # A file does not change once it is there.
        self._batches = lru_cache(maxsize=_KEPT_FILES)(self._batches_of)

    def rows(self, window: Window) -> Iterator[pa.RecordBatch]:
        """What was asked within a window, in batches of `prediction_log.SCHEMA`."""
        # What was sent together is in the hour of its first row.
        first = (window.start.astimezone(UTC) - _HOUR).strftime(prediction_log.SHIPPED_HOUR)
        last = window.end.astimezone(UTC).strftime(prediction_log.SHIPPED_HOUR) + "/~"
        for revision, folders in self._folders().items():
            for folder in folders:
                for found in self._files(folder, first, last, window.start - _CLOCKS):
                    written = self._batches(found["Key"], found["ETag"])
                    yield from prediction_log.rows(written, self._endpoint, revision, window)

    def _batches_of(self, key: str, _etag: str) -> tuple[pa.RecordBatch, ...]:
        # Its revision may have been retired meanwhile; and S3 has objects that stand for folders.
        found = self._aws.find("s3", "get_object", Bucket=self._bucket, Key=key) if key.endswith(".arrows") else None
        return tuple(prediction_log.batches(BytesIO(found["Body"].read()))) if found else ()
