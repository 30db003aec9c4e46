"""Bring the prediction log to object storage: `python -m headgate_server.ship` beside the server, with the same folder.

Whole batches are sent as they are, each few seconds, as `<captures>/<endpoint>/<revision>/<hour>/<name>.arrows`, by the
hour of the first row in UTC. What was sent is noted in the folder after it was: a process that dies between the two
sends the same rows again under the same name. It ends once the server has ended and everything is sent.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
from pyarrow import fs

from headgate_server.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger("headgate_server")

SHIP_SECONDS = 2.0
MOST_BYTES = 64 * 2**20
"""Of one object."""
_HOUR = 3_600_000_000
_NOTES = ".shipped.json"
_LAST_SECONDS = 30.0


class Piece(NamedTuple):
    """Whole batches of a file.

    Attributes:
        start: where in the file the first one begins.
        end: where the last one ends.
        schema: what the stream began with.
        first: the time of the first row, in microseconds since 1970.
        is_last: whether the writer has ended the stream after them.
    """

    start: int
    end: int
    schema: bytes
    first: int
    is_last: bool


class Shipper:
    """Sends what one pod's server writes.

    Args:
        folder: that it writes to.
        store: where it goes.
        base: the folder there, of the revision.
        pod: names what is sent.
    """

    def __init__(self, folder: Path, store: fs.FileSystem, base: str, pod: str) -> None:
        self._folder, self._store, self._base, self._pod = folder, store, base, pod
        self._notes = folder / _NOTES
        self._sent: dict[str, int] = json.loads(self._notes.read_text()) if self._notes.exists() else {}

    def ship(self) -> bool:
        """Send what is new; whether there was any.

        Raises:
            OSError: the store does not answer; nothing is lost.
        """
        found = False
        for path in sorted(self._folder.glob("*.arrows")):
            at = self._sent.get(path.name, 0)
            while (piece := next_piece(path, at)) is not None:
                at = piece.end
                if piece.end > piece.start:
                    self._send(path, piece)
                    found = True
                if piece.is_last:
                    path.unlink(missing_ok=True)
                    self._note(path.name, None)
                    break
        return found

    def _send(self, path: Path, piece: Piece) -> None:
        hour = time.strftime("%Y%m%d%H", time.gmtime(piece.first / 1e6))
        folder = f"{self._base}/{hour}"
        is_disk = isinstance(self._store, fs.LocalFileSystem)
        if is_disk:
            # Object stores have none, and whoever may write there need not be allowed more.
            self._store.create_dir(folder, recursive=True)
        name = f"{folder}/{path.stem}-{self._pod}-{piece.start:012d}.arrows"
        with path.open("rb") as source:
            source.seek(piece.start)
            rows = source.read(piece.end - piece.start)
        # In one step, where the store has none: readers pass over what does not end in .arrows.
        temporary = f"{name}.part" if is_disk else name
        with self._store.open_output_stream(temporary) as sink:
            sink.write(piece.schema)
            sink.write(rows)
        if temporary != name:
            self._store.move(temporary, name)
        self._note(path.name, piece.end)

    def _note(self, name: str, end: int | None) -> None:
        if end is None:
            self._sent.pop(name, None)
        else:
            self._sent[name] = end
        temporary = self._notes.with_suffix(".part")
        temporary.write_text(json.dumps(self._sent), encoding="utf-8")
        temporary.replace(self._notes)


def next_piece(path: Path, start: int) -> Piece | None:
    """The whole batches from an offset on; None where there is nothing new."""
    try:
        file = pa.OSFile(str(path))
    except FileNotFoundError:
        return None
    with file:
        schema_message = _message(file)
        if schema_message is None:
            return None
        header = file.tell()
        schema = pa.ipc.read_schema(schema_message)
        begin = end = max(start, header)
        file.seek(begin)
        first = 0
        while end - begin < MOST_BYTES:
            message = _message(file)
            if message is None:
                break
            if not first:
                rows = pa.ipc.read_record_batch(message, schema)
                first = rows["time"][0].value
            elif pa.ipc.read_record_batch(message, schema)["time"][0].value // _HOUR != first // _HOUR:
                return Piece(begin, end, _start_of(file, header), first, is_last=False)
            end = file.tell()
        is_last = end - begin < MOST_BYTES and _is_ended(path, end)
        if end == begin and not is_last:
            return None
        return Piece(begin, end, _start_of(file, header), first, is_last)


def _start_of(file: pa.NativeFile, length: int) -> bytes:
    file.seek(0)
    return bytes(file.read(length))


def _message(file: pa.NativeFile) -> pa.ipc.Message | None:
    """The next message; None at the end of what is whole."""
    before = file.tell()
    try:
        return pa.ipc.read_message(file)
    except (EOFError, pa.ArrowInvalid, OSError):
        file.seek(before)
        return None


_END = b"\xff\xff\xff\xff\x00\x00\x00\x00"
"""By https://arrow.apache.org/docs/format/Columnar.html#ipc-streaming-format."""


def _is_ended(path: Path, end: int) -> bool:
    with path.open("rb") as file:
        file.seek(end)
        return file.read(len(_END)) == _END


def main() -> int:
    """Send until the server has ended."""
    settings = Settings.from_env()
    captures = os.environ.get("HEADGATE_CAPTURES", "")
    if settings.scratch is None or not settings.log_predictions or not captures:
        logger.warning("nothing is to be sent: HEADGATE_SCRATCH and HEADGATE_CAPTURES say where from and where to")
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        threading.Event().wait()
    assert settings.scratch is not None  # noqa: S101 - it has just been looked at
    folder = settings.scratch / "predictions"
    folder.mkdir(parents=True, exist_ok=True)
    shipper: Shipper | None = None
    ending = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ending.set())
    deadline = None
    while True:
        # A server that takes no more connections still answers some; it has ended once its files have.
        is_over = ending.is_set() and not _is_served(settings.port)
        try:
            # Some stores are asked for as they are opened, and may be away then.
            shipper = shipper or _open(captures, folder, f"{settings.endpoint}/{settings.revision}")
            shipper.ship()
        except OSError as error:
            logger.warning("prediction log: not sent, and tried again: %s", error)
        is_late = deadline is not None and time.monotonic() > deadline
        if is_over and (is_late or not any(folder.glob("*.arrows"))):
            return 0
        if ending.is_set():
            deadline = deadline or time.monotonic() + _LAST_SECONDS
            time.sleep(SHIP_SECONDS / 10)
        else:
            ending.wait(SHIP_SECONDS)


def _open(captures: str, folder: Path, revision: str) -> Shipper:
    store, base = fs.FileSystem.from_uri(captures)
    return Shipper(folder, store, f"{base.rstrip('/')}/{revision}", socket.gethostname())


def _is_served(port: int) -> bool:
    """Whether the server, whose pod this shares, still takes connections."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
