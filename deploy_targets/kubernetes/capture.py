"""The prediction log, where servers put it (headgate_server/ship.py): `<endpoint>/<revision>/<hour>/*.arrows`."""

from __future__ import annotations

from datetime import UTC, timedelta
from typing import TYPE_CHECKING

from pyarrow import fs

from deploy_targets import prediction_log
from headgate.errors import TargetError, TargetUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from headgate.records import Window

_HOUR = timedelta(hours=1)
_CLOCKS = timedelta(minutes=1)
"""By which the clocks of servers and of the storage may differ."""


class Captures:
    """One place, as everything that pyarrow opens: S3, Google's and Azure's storage, or a folder.

    Args:
        uri: such as s3://bucket/captures.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri

    def read(self, endpoint: str, window: Window) -> Iterator[pa.RecordBatch]:
        """Rows of all revisions within a window, in batches of `prediction_log.SCHEMA`.

        Raises:
            TargetUnavailableError: the storage does not answer, or not to us.
        """
        store, base = self._open()
        try:
            for revision in _folders(store, f"{base}/{endpoint}"):
                for hour in _hours(window):
                    yield from _rows(store, f"{base}/{endpoint}/{revision}/{hour}", endpoint, revision, window)
        except OSError as error:
            raise self._away(error) from error

    def remove(self, endpoint: str, revision: str = "") -> None:
        """What a revision wrote, or all of an endpoint's; nothing happens where it is gone."""
        store, base = self._open()
        path = "/".join(part for part in (base, endpoint, revision) if part)
        try:
            store.delete_dir(path)
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._away(error) from error

    def problem(self) -> str:
        """Why the place cannot be read; empty where it can."""
        try:
            store, base = self._open()
            found = store.get_file_info(base)
        except (OSError, TargetError) as error:
            return str(error)
        is_folder = found.type is fs.FileType.Directory or not self._uri.startswith("file://")
        return "" if is_folder else f"there is no folder {base}"

    def _open(self) -> tuple[fs.FileSystem, str]:
        try:
            store, base = fs.FileSystem.from_uri(self._uri)
        except (OSError, ValueError) as error:
            raise TargetError(
                f"target.captures: {self._uri} cannot be opened: {error}", fix="name a folder as pyarrow does"
            ) from error
        return store, base.rstrip("/")

    def _away(self, error: OSError) -> TargetUnavailableError:
        return TargetUnavailableError(f"{self._uri} does not answer: {error}", fix="see who may read it, then go on")


def _folders(store: fs.FileSystem, path: str) -> list[str]:
    found = store.get_file_info(fs.FileSelector(path, allow_not_found=True))
    return sorted(one.base_name for one in found if one.type is fs.FileType.Directory)


def _hours(window: Window) -> Iterator[str]:
    """Those whose folders may have rows of a window: what was sent together is in the hour of its first row."""
    hour = window.start.astimezone(UTC).replace(minute=0, second=0, microsecond=0) - _HOUR
    while hour < window.end:
        yield hour.strftime(prediction_log.SHIPPED_HOUR)
        hour += _HOUR


def _rows(
    store: fs.FileSystem, folder: str, endpoint: str, revision: str, window: Window
) -> Iterator[pa.RecordBatch]:  # fmt: skip
    found = store.get_file_info(fs.FileSelector(folder, allow_not_found=True))
    since = window.start - _CLOCKS
    for file in sorted(found, key=lambda one: one.base_name):
        if file.mtime is not None and file.mtime < since:
            continue
        try:
            with store.open_input_stream(file.path) as stream:
                batches = prediction_log.batches(stream)
                yield from prediction_log.rows(batches, endpoint, revision, window, _server_of(file.base_name))
        except FileNotFoundError:
            # Its revision was retired meanwhile.
            continue


def _server_of(name: str) -> str:
    """The pod, from the name of an object: `<time>-<process>-<pod>-<first byte>.arrows` (headgate_server/ship.py)."""
    return "-".join(name.split("-")[2:-1])
