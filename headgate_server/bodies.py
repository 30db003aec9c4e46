"""Reads requests' bodies, within a size for each, a size for all that are being read, and a time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Receive = Callable[[], Awaitable[dict[str, Any]]]

MAX_BODY = 64 * 2**20
MAX_UNFINISHED = 4 * MAX_BODY
"""Bytes of all bodies of which the end has not come; one more is refused while they are so many."""


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


class Bodies:
    """Reads the bodies of one process.

    Args:
        seconds: within which a body has to come.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._unfinished = 0

    async def read(self, receive: Receive) -> bytes:
        """Return a whole body.

        Raises:
            BodyError: it is too large, too slow, or one too many.
            BrokenOffError: the connection ended first.
        """
        message = await _next(receive)
        body: bytes = message.get("body", b"")
        if not message.get("more_body", False):
            if len(body) > MAX_BODY:
                raise _too_large()
            return body
        try:
            async with asyncio.timeout(self._seconds):
                return await self._read_on(receive, body)
        except TimeoutError:
            close = (b"connection", b"close")
            raise BodyError(408, f"the body has not come within {self._seconds:g} s", close) from None

    async def _read_on(self, receive: Receive, first: bytes) -> bytes:
        parts, size = [first], len(first)
        self._unfinished += size
        try:
            more = True
            while more:
                message = await _next(receive)
                part: bytes = message.get("body", b"")
                more = message.get("more_body", False)
                parts.append(part)
                size += len(part)
                self._unfinished += len(part)
                if size > MAX_BODY:
                    raise _too_large()
                if more and self._unfinished > MAX_UNFINISHED:
                    said = f"the bodies that are being received have more than {MAX_UNFINISHED} bytes together"
                    raise BodyError(503, said, (b"retry-after", b"1"), (b"connection", b"close"))
        finally:
            self._unfinished -= size
        return b"".join(parts)


def _too_large() -> BodyError:
    return BodyError(413, f"a body is at most {MAX_BODY} bytes")


async def _next(receive: Receive) -> dict[str, Any]:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise BrokenOffError
    return message
