"""The prediction log from Azure's data collector: JSON lines in the workspace's own storage.

    modelDataCollector/ENDPOINT/DEPLOYMENT/{request,response}/yyyy/MM/dd/HH/*.jsonl

A line is a CloudEvent with one body. A request and its answer are two lines of two files, with the same `xrequestid`,
and neither a status nor a latency: an answer that is there was a 200, and one that has not come after minutes was none.
https://learn.microsoft.com/azure/machine-learning/how-to-collect-production-data
"""

from __future__ import annotations

import base64
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

from azure.core.exceptions import AzureError, ClientAuthenticationError, ResourceNotFoundError
from azure.storage.blob import ContainerClient

from deploy_targets.copies import Row, batches
from deploy_targets.logged import JSON, parsed, written
from headgate.errors import TargetError, TargetUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import pyarrow as pa
    from azure.storage.blob import BlobProperties

    from deploy_targets.azure_ml.arm import Arm
    from deploy_targets.copies import Copies
    from headgate.records import Window

_HOUR = timedelta(hours=1)
_LATE = timedelta(minutes=5)
"""The collector's files come this late at most."""
_OK, _FAILED = 200, 500
_KEPT_FILES = 256
_ROOT = "modelDataCollector"
_STORE = "workspaceblobstore"
"""The datastore that every workspace has."""


class Line(NamedTuple):
    """One body."""

    request_id: str
    time: datetime
    content_type: str
    body: bytes


def collector(sample: float) -> dict[str, Any]:
    """A deployment's `dataCollector`, for whole requests and answers.

    Args:
        sample: the share of requests that are kept.
    """
    collection = {"dataCollectionMode": "Enabled", "samplingRate": sample}
    return {"collections": {"request": dict(collection), "response": dict(collection)}, "rollingRate": "Hour"}


class Captures:
    """What the collector wrote of one endpoint.

    Args:
        arm: the workspace.
        storage: where its account is reached; empty for its own name.
        endpoint: whose.
    """

    def __init__(self, arm: Arm, storage: str, endpoint: str) -> None:
        self._arm, self._storage, self._endpoint = arm, storage, endpoint
        self._opened: ContainerClient | None = None
        # A file grows, and has another tag then.
        self._read = lru_cache(maxsize=_KEPT_FILES)(self._read_file)

    def read(
        self, window: Window, deployments: Iterable[str], copies: Mapping[str, Copies], mirrored: str | None
    ) -> Iterator[pa.RecordBatch]:
        """Rows within a window, in batches of `SCHEMA`; `seconds` is not known.

        Args:
            window: of times.
            deployments: whose rows.
            copies: which of them received copies, and when.
            mirrored: the one that receives some now.
        """
        rows = {name: partial(self._rows, name, window) for name in deployments}
        yield from batches(self._endpoint, rows, window, copies, mirrored)

    def remove(self, deployment: str) -> None:
        """Remove what was written of a deployment."""
        for found in self._listed(f"{deployment}/"):
            with self._asked("delete"):
                self._container.delete_blob(found.name)

    @property
    def _container(self) -> ContainerClient:
        if self._opened is None:
            store = self._arm.call("GET", f"{self._arm.workspace}/datastores/{_STORE}")["properties"]
            url = self._storage or f"{store.get('protocol', 'https')}://{store['accountName']}.blob.{store['endpoint']}"
            self._opened = ContainerClient(url, store["containerName"], credential=self._arm.credential)
        return self._opened

    def _rows(self, deployment: str, window: Window) -> Iterator[Row]:
        # The requests first: an answer that is written meanwhile is there then.
        asked = list(self._lines(deployment, "request", window))
        answers = {line.request_id: line.body for line in self._lines(deployment, "response", window)}
        given_up = datetime.now(UTC) - _LATE
        for line in asked:
            answer = answers.get(line.request_id)
            if window.start <= line.time < window.end and (answer is not None or line.time < given_up):
                yield Row(
                    request_id=line.request_id, time=line.time, status=_OK if answer is not None else _FAILED,
                    content_type=line.content_type, request=line.body, response=answer or b"",
                )  # fmt: skip

    def _lines(self, deployment: str, collection: str, window: Window) -> Iterator[Line]:
        # A file may be named after the hour in which its first line fell, and an answer comes after its request.
        hour = (window.start - _LATE).replace(minute=0, second=0, microsecond=0)
        while hour <= window.end + _LATE:
            for found in self._listed(f"{deployment}/{collection}/{hour:%Y/%m/%d/%H}/"):
                yield from self._read(found.name, found.etag)
            hour += _HOUR

    def _listed(self, folder: str) -> list[BlobProperties]:
        with self._asked("list"):
            return list(self._container.list_blobs(name_starts_with=f"{_ROOT}/{self._endpoint}/{folder}"))

    def _read_file(self, name: str, _etag: str) -> tuple[Line, ...]:
        with self._asked("get"):
            try:
                content = self._container.download_blob(name).readall()
            except ResourceNotFoundError:
                # It went meanwhile, as old ones do.
                return ()
        return tuple(_line(line, name) for line in content.splitlines() if line.strip())

    @contextmanager
    def _asked(self, what: str) -> Iterator[None]:
        """One call to the storage, with our errors for its."""
        try:
            with self._arm.around(f"blobs.{what}"):
                yield
        except ClientAuthenticationError as error:
            raise TargetError(
                f"Azure does not allow reading what was collected: {error.message}",
                fix="give the caller Storage Blob Data Contributor on the workspace's storage",
            ) from error
        except AzureError as error:
            raise TargetUnavailableError(
                f"Azure's storage does not answer: {error.message}", fix="try again"
            ) from error


def _line(text: bytes, where: str) -> Line:
    try:
        event = parsed(text)
        return Line(
            request_id=event.get("xrequestid") or event["id"], time=datetime.fromisoformat(event["time"]),
            content_type=event.get("datacontenttype", JSON), body=_body(event),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TargetError(
            f"{where} has a line that the data collector did not write: {error!r}",
            fix="nothing else may write there: remove that line",
        ) from error


def _body(event: Mapping[str, Any]) -> bytes:
    if "data_base64" in event:
        return base64.b64decode(event["data_base64"])
    data = event["data"]
    return data.encode() if isinstance(data, str) else written(data)
