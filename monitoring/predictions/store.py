"""Predictions kept as Parquet, in a folder or any object store that fsspec knows.

    endpoint=wine/date=2026-11-25/revision=v3-1f2e3d4c/1405-0.parquet

A file has what one revision answered within five minutes from 14:05 on, typed (monitoring/predictions/typed.py).
`taken.json` beside the dates says until when the log was taken over; what is newer is read from the log itself. So each
request is parsed once, a file is written once and whole, and a take that was cut short is made again from where the
last one ended.

A log goes with its revision. What it has that was not taken over is rescued first, into `1405-rescued0.parquet`.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from headgate.errors import BadInputError, MonitorError
from headgate.records import Window
from monitoring.predictions.typed import typed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Captured = Callable[[Window], Iterable[pa.RecordBatch]]

SLOT = timedelta(minutes=5)
SETTLE = timedelta(seconds=10)
"""Rows reach the log, and the log its readers, within this time of their answer."""
_HELD_BYTES = 128 * 2**20
_TAKEN = "taken.json"
_RESCUED = "rescued"


def store_errors(*more: type[Exception]) -> tuple[type[Exception], ...]:
    """What a file system may raise: OSError, and what the packages of object stores that are loaded raise instead."""
    named = (
        ("botocore.exceptions", "BotoCoreError"), ("botocore.exceptions", "ClientError"),
        ("google.auth.exceptions", "GoogleAuthError"), ("azure.core.exceptions", "AzureError"),
    )  # fmt: skip
    loaded = [(sys.modules.get(module), name) for module, name in named]
    return *more, OSError, *(getattr(module, name) for module, name in loaded if module is not None)


class Stored(NamedTuple):
    """A file, the first moment of its five minutes, and whether it was rescued from a log that was to go."""

    path: str
    start: datetime
    rescued: bool


class PredictionStore:
    """The kept predictions of one endpoint.

    Args:
        url: a folder, or such as s3://bucket/predictions; credentials are those of its fsspec package.
        endpoint: whose.
        settle: how late rows may come.

    Raises:
        BadInputError: no package here knows such a URL.
    """

    def __init__(self, url: str, endpoint: str, settle: timedelta = SETTLE) -> None:
        self._settle = settle
        try:
            self._files, root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise BadInputError(
                f"capture.store is {url}, and that cannot be opened: {error}",
                fix="name a folder, or install what fsspec needs for it, such as s3fs, gcsfs or adlfs",
            ) from error
        self._root = f"{root.rstrip('/')}/endpoint={endpoint}"

    def until(self) -> datetime:
        """From when on the log itself has to be read; long ago where nothing was taken."""
        try:
            stored = json.loads(self._files.cat_file(f"{self._root}/{_TAKEN}"))
        except FileNotFoundError:
            return datetime.fromtimestamp(0, UTC)
        except store_errors(ValueError) as error:
            raise self._failed("read", error) from error
        return datetime.fromisoformat(stored["until"])

    def take(self, captured: Captured, now: datetime, keep: timedelta) -> int:
        """Take over what the log has of times that are settled, and drop what is older than `keep`.

        Args:
            captured: reads the log.
            now: the present.
            keep: how long predictions are kept.

        Returns:
            The rows that were taken.

        Raises:
            MonitorError: the store cannot be written to; what was taken before is unharmed.
        """
        start, end = max(self.until(), _slot(now - keep)), _slot(now - self._settle)
        if start >= end:
            return 0
        try:
            # Those of a take that was cut short.
            for file in self._stored():
                if file.start >= start and not file.rescued:
                    self._files.rm_file(file.path)
            rows = self._write_all(captured(Window(start=start, end=end)))
            self._drop_needless(start)
            self._put(_TAKEN, json.dumps({"until": end.isoformat()}).encode())
            self._drop_before(now - keep)
        except store_errors(pa.ArrowException) as error:
            raise self._failed("written to", error) from error
        return rows

    def rescue(self, captured: Captured, revision: str, now: datetime) -> None:
        """Keep what the log has of a revision that is to go and that was not taken over.

        Args:
            captured: reads the log.
            revision: whose log goes.
            now: the present.

        Raises:
            MonitorError: the store cannot be written to.
        """
        window = Window(start=max(self.until(), _slot(now - SLOT - self._settle)), end=now + self._settle)
        theirs = (batch.filter(pc.equal(batch["revision"], revision)) for batch in captured(window))
        try:
            self._write_all((batch for batch in theirs if batch.num_rows), _RESCUED)
        except store_errors(pa.ArrowException) as error:
            raise self._failed("written to", error) from error

    def files(self, revision: str, window: Window) -> list[Stored]:
        """A revision's files that may have rows of a window, oldest first.

        Raises:
            MonitorError: the store does not answer.
        """
        try:
            found = self._stored(f"revision={revision}")
        except store_errors() as error:
            raise self._failed("read", error) from error
        return [file for file in found if file.start + SLOT > window.start and file.start < window.end]

    def open(self, path: str) -> io.BufferedIOBase:
        """One of its files."""
        opened: io.BufferedIOBase = self._files.open(path, "rb")
        return opened

    def others(self, folder: str) -> list[str]:
        """The Parquet files of another folder of the endpoint.

        Raises:
            MonitorError: the store does not answer.
        """
        self._files.invalidate_cache()
        try:
            paths = self._files.ls(f"{self._root}/{folder}", detail=False)
        except FileNotFoundError:
            return []
        except store_errors() as error:
            raise self._failed("read", error) from error
        return [path for path in paths if path.endswith(".parquet")]

    def put(self, path: str, content: bytes) -> None:
        """Write a file of another folder, whole or not at all.

        Raises:
            MonitorError: the store cannot be written to.
        """
        try:
            self._put(path, content)
        except store_errors() as error:
            raise self._failed("written to", error) from error

    def _write_all(self, batches: Iterable[pa.RecordBatch], name: str = "") -> int:
        held: dict[tuple[str, datetime], list[pa.RecordBatch]] = defaultdict(list)
        size = rows = part = 0
        for batch in batches:
            for slot, some in _by_slot(batch):
                held[batch["revision"][0].as_py(), slot].append(some)
            size, rows = size + batch.nbytes, rows + batch.num_rows
            if size > _HELD_BYTES:
                self._write(held, f"{name}{part}")
                held.clear()
                size, part = 0, part + 1
        self._write(held, f"{name}{part}")
        return rows

    def _write(self, held: dict[tuple[str, datetime], list[pa.RecordBatch]], part: str) -> None:
        for (revision, slot), batches in held.items():
            buffer = io.BytesIO()
            pq.write_table(typed(batches), buffer, compression="zstd")
            folder = f"date={slot:%Y-%m-%d}/revision={revision}"
            self._put(f"{folder}/{slot:%H%M}-{part}.parquet", buffer.getvalue())

    def _put(self, path: str, content: bytes) -> None:
        """Whole or not at all."""
        folder, _, name = f"{self._root}/{path}".rpartition("/")
        self._files.makedirs(folder, exist_ok=True)
        unfinished = f"{folder}/.{name}.unfinished"
        self._files.pipe_file(unfinished, content)
        self._files.mv(unfinished, f"{folder}/{name}")

    def _stored(self, within: str = "") -> list[Stored]:
        found = []
        self._files.invalidate_cache()
        for path in self._files.find(self._root):
            parts = path.removeprefix(f"{self._root}/").split("/")
            # An object store's other names, and files that are being written, are none of ours.
            with contextlib.suppress(ValueError):
                date, revision, name = parts
                start = datetime.strptime(f"{date} {name.partition('-')[0]}", "date=%Y-%m-%d %H%M").replace(tzinfo=UTC)
                if name.endswith(".parquet") and within in {"", revision}:
                    found.append(Stored(path, start, rescued=f"-{_RESCUED}" in name))
        return sorted(found, key=lambda file: (file.start, file.path))

    def _drop_needless(self, since: datetime) -> None:
        """Rescued files of which the log turned out to be there still."""
        taken = {(file.path.rpartition("/")[0], file.start) for file in self._stored() if not file.rescued}
        for file in self._stored():
            if file.rescued and file.start >= since and (file.path.rpartition("/")[0], file.start) in taken:
                self._files.rm_file(file.path)

    def _drop_before(self, moment: datetime) -> None:
        for path in self._files.ls(self._root, detail=False):
            date = path.rpartition("/date=")[2]
            with contextlib.suppress(ValueError):
                day = datetime.strptime(date, "%Y-%m-%d").replace(tzinfo=UTC)
                if day + timedelta(days=1) <= moment:
                    self._files.rm(path, recursive=True)

    def _failed(self, what: str, error: Exception) -> MonitorError:
        return MonitorError(
            f"the predictions at {self._root} cannot be {what}: {error}", fix="see capture.store in the release file"
        )


def _slot(moment: datetime) -> datetime:
    seconds = SLOT.total_seconds()
    return datetime.fromtimestamp(moment.timestamp() // seconds * seconds, UTC)


def _by_slot(batch: pa.RecordBatch) -> Iterator[tuple[datetime, pa.RecordBatch]]:
    slots = pc.floor_temporal(batch["time"], multiple=int(SLOT.total_seconds()), unit="second")
    for slot in pc.unique(slots):
        yield slot.as_py().astimezone(UTC), batch.filter(pc.equal(slots, slot))
