"""One upload of a blob: a piece at a time, hashed on the way, and taken up again where it broke.

How far an upload can be taken up is the registry's doing. Between two pieces all can. Of a piece that broke in the
middle, those that follow the specification say how much they have; Docker's own (distribution 2.8,
registry/handlers/blobupload.go) gives up an upload whose length is not what it was after the last piece, and then that
one blob is sent again. What was hashed stays hashed.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import httpx

from headgate.errors import ImageRegistryError, ImageRegistryUnavailableError
from headgate.home import write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from images.manifest import Readable
    from images.repository import Repository

PIECE = 16 * 2**20
"""Bytes sent at a time, which is what a broken connection costs at most; ECR wants at least 5 MiB."""

_LOST = (404, 416)
"""How a registry says that it does not know an upload, or not at this offset."""

_MOST_RESTARTS = 5


class Upload:
    """Bytes on their way into a repository.

    Args:
        repository: where they go.
        content: what is sent.
        folder: where it is kept, between processes, how far an upload came.
        key: names the content there.
        digest: of the content, where it is known.
    """

    def __init__(self, repository: Repository, content: Readable, folder: Path, key: str, digest: str) -> None:
        self._repository, self._content, self._digest = repository, content, digest
        name = hashlib.sha256(f"{repository.name} {key}".encode()).hexdigest()[:24]
        self._state = folder / f"{name}.json"
        self._location = ""
        self._offset = 0
        self._restarts = -1
        self._hash = hashlib.sha256()
        self._hashed = 0
        self._stream: Iterator[bytes] = iter(())
        self._rest = b""
        self._stream_at = -1

    def run(self) -> str:
        """Send everything; returns the digest."""
        with self._repository.mapped():
            self._begin()
            while self._offset < self._content.size:
                self._send_piece()
            return self._end()

    def _begin(self) -> None:
        """Take up an upload that this machine began, if the registry still knows it; else begin one."""
        if self._state.exists():
            self._location = json.loads(self._state.read_text(encoding="utf-8"))["location"]
            if self._ask_how_far():
                return
        self._restart()

    def _restart(self) -> None:
        self._restarts += 1
        if self._restarts > _MOST_RESTARTS:
            raise ImageRegistryUnavailableError(
                f"{self._repository.name}: {_MOST_RESTARTS} uploads of {self._content.size / 1e6:.0f} MB broke, "
                f"the last at {self._offset / 1e6:.0f} MB",
                fix="see what closes connections between here and the registry",
            )
        self._follow(self._repository.call("POST", f"{self._repository.path}/blobs/uploads/"))
        self._offset = 0

    def _send_piece(self) -> None:
        for attempt in self._repository.attempts():
            with attempt:
                if attempt.retry_state.attempt_number > 1 and not self._ask_how_far():
                    self._restart()
                # A list, which a request can be made of again when a token has run out.
                piece = self._read(self._offset)
                size = sum(map(len, piece))
                headers = {
                    "content-type": "application/octet-stream", "content-length": str(size),
                    "content-range": f"{self._offset}-{self._offset + size - 1}",
                }  # fmt: skip
                try:
                    reply = self._repository.ask("PATCH", self._location, content=piece, headers=headers, accept=_LOST)
                finally:
                    # httpx's replies are cycles that hold their request, and live until they are collected.
                    piece.clear()
                if reply.status_code in _LOST:
                    self._restart()
                    return
                self._follow(reply)
                self._offset += size

    def _end(self) -> str:
        # What an earlier process had sent is not hashed yet.
        while not self._digest and self._hashed < self._content.size:
            self._read(self._hashed)
        digest = self._digest or f"sha256:{self._hash.hexdigest()}"
        url = httpx.URL(self._location).copy_merge_params({"digest": digest})
        reply = self._repository.call("PUT", str(url), headers={"content-length": "0"}, accept=_LOST)
        self._state.unlink(missing_ok=True)
        # An answer that was lost on its way ends the upload all the same.
        if reply.status_code in _LOST and not self._repository.has(digest):
            raise ImageRegistryError(f"{self._repository.name}: the registry lost an upload", fix="release again")
        return digest

    def _read(self, offset: int) -> list[bytes]:
        """The piece that begins at an offset, in parts; what was not hashed yet is."""
        if not self._digest and self._hashed < offset:
            for chunk in self._up_to(offset):
                self._hash.update(chunk)
                self._hashed += len(chunk)
        if self._stream_at != offset:
            self._stream, self._stream_at = self._content.read(offset), offset
            self._rest = b""
        parts, size = [self._rest], len(self._rest)
        while size < PIECE and (part := next(self._stream, b"")):
            parts.append(part)
            size += len(part)
        cut = len(parts[-1]) - max(size - PIECE, 0)
        self._rest, parts[-1] = parts[-1][cut:], parts[-1][:cut]
        for part in parts:
            end = self._stream_at + len(part)
            if not self._digest and self._hashed < end:
                self._hash.update(memoryview(part)[self._hashed - end :])
                self._hashed = end
            self._stream_at = end
        return parts

    def _up_to(self, offset: int) -> Iterator[bytes]:
        for chunk in self._content.read(self._hashed):
            left = offset - self._hashed
            yield chunk[:left]
            if self._hashed >= offset:
                return

    def _follow(self, reply: httpx.Response) -> None:
        """Where the next piece goes; registries may change it with each."""
        location = str(reply.request.url.join(reply.headers["location"]))
        if location != self._location:
            self._location = location
            write_atomically(self._state, json.dumps({"location": location}))

    def _ask_how_far(self) -> bool:
        """Ask the registry what it has; False where it no longer knows the upload."""
        reply = self._repository.ask("GET", self._location, accept=_LOST)
        if reply.status_code in _LOST:
            return False
        self._follow(reply)
        # `0-0` is what registries answer for nothing, and for one byte.
        last = int(reply.headers.get("range", "0-0").rpartition("-")[2])
        self._offset = last + 1 if last else 0
        return True
