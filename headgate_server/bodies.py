"""Reads requests' bodies, within a size for each, a size for all that are being read, and a time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Receive = Callable[[], Awaitable[dict[str, Any]]]

MAX_BODY = 64 * 2**20
MAX_UNFINISHED = 4 * MAX_BODY
"""Bytes of all bodies of which the end has not come. Above it the body that has been coming for longest is given up."""


class BodyError(Exception):
    """A body is not read.

    Attributes:
        status: of the answer.
        headers: of the answer.
    """

    def __init__(self, status: int, message: str, *headers: tuple[bytes, bytes]) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers


class BrokenOffError(Exception):
    """The client was gone before its whole body had come."""


class _Upload:
    """A body of which the end has not come.

    Attributes:
        size: bytes that have come.
        limit: the time within which it has to come.
        is_given_up: whether its time was ended, to make room for others.
    """

    __slots__ = ("is_given_up", "limit", "size")

    def __init__(self, seconds: float) -> None:
        self.size, self.limit, self.is_given_up = 0, asyncio.timeout(seconds), False


class Bodies:
    """Reads the bodies of one process.

    A client that sends many bodies and never ends them takes room from itself alone: its bodies are the oldest.

    Args:
        seconds: within which a body has to come.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._uploads: dict[_Upload, None] = {}
        """Those that have not ended, the oldest first."""
        self._unfinished = 0

    async def read(self, receive: Receive) -> bytes:
        """Return a whole body.

        Raises:
            BodyError: it is too large or too slow.
            BrokenOffError: the connection ended first.
        """
        message = await _next(receive)
        body: bytes = message.get("body", b"")
        if not message.get("more_body", False):
            if len(body) > MAX_BODY:
                raise _too_large()
            return body
        upload = _Upload(self._seconds)
        self._uploads[upload] = None
        try:
            async with upload.limit:
                return await self._read_on(receive, body, upload)
        except TimeoutError:
            said = f"the body has not come within {self._seconds:g} s"
            if upload.is_given_up:
                said = f"the body came more slowly than {MAX_UNFINISHED} bytes of bodies that began after it"
            raise BodyError(408, said, (b"connection", b"close")) from None
        finally:
            self._remove(upload)

    async def _read_on(self, receive: Receive, first: bytes, upload: _Upload) -> bytes:
        parts = [first]
        self._count(upload, len(first))
        more = True
        while more:
            message = await _next(receive)
            part: bytes = message.get("body", b"")
            more = message.get("more_body", False)
            parts.append(part)
            self._count(upload, len(part))
            if upload.size > MAX_BODY:
                raise _too_large()
        return b"".join(parts)

    def _count(self, upload: _Upload, size: int) -> None:
        """Count what has come, and make room for it."""
        upload.size += size
        if upload.is_given_up:
            return
        self._unfinished += size
        while self._unfinished > MAX_UNFINISHED:
            oldest = next(iter(self._uploads))
            oldest.is_given_up = True
            self._remove(oldest)
            oldest.limit.reschedule(asyncio.get_running_loop().time())

    def _remove(self, upload: _Upload) -> None:
        if upload in self._uploads:
            del self._uploads[upload]
            self._unfinished -= upload.size


def _too_large() -> BodyError:
    return BodyError(413, f"a body is at most {MAX_BODY} bytes")


async def _next(receive: Receive) -> dict[str, Any]:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise BrokenOffError
    return message
