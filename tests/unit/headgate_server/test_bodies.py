"""Bodies that never end take room from each other, and none from a body that comes."""

from __future__ import annotations

import asyncio

import pytest

from headgate_server import bodies
from headgate_server.bodies import Bodies, BodyError


class Client:
    """Sends the parts of a body one by one."""

    def __init__(self, reader: Bodies) -> None:
        self._parts: asyncio.Queue[dict[str, object]] = asyncio.Queue()
        self.reading = asyncio.create_task(reader.read(self._parts.get))

    async def send(self, part: bytes, *, more: bool = True) -> None:
        self._parts.put_nowait({"type": "http.request", "body": part, "more_body": more})
        for _ in range(5):
            await asyncio.sleep(0)

    @property
    def refusal(self) -> BodyError | None:
        """What its request is answered with; None while it is read, or where it was."""
        failed = self.reading.exception() if self.reading.done() else None
        assert failed is None or isinstance(failed, BodyError)
        return failed


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(bodies, "MAX_BODY", 100)
    monkeypatch.setattr(bodies, "MAX_UNFINISHED", 400)


def test_the_oldest_unfinished_body_makes_room_for_one_that_comes():
    async def attacked() -> None:
        reader = Bodies(60)
        held = [Client(reader) for _ in range(5)]
        for one in held[:4]:
            await one.send(b"x" * 100)
        assert [one.refusal for one in held[:4]] == [None] * 4, "they are within the limit"
        for _ in range(20):
            other = Client(reader)
            await other.send(b"a" * 50)
            await other.send(b"b" * 40, more=False)
            assert await other.reading == b"a" * 50 + b"b" * 40
        assert [one.refusal and one.refusal.status for one in held[:4]] == [408, None, None, None]
        assert "400 bytes" in str(held[0].refusal)
        assert held[0].refusal.headers == ((b"connection", b"close"),)
        await held[4].send(b"x" * 100)
        await held[4].send(b"", more=False)
        assert await held[4].reading == b"x" * 100
        for one in held[1:4]:
            await one.send(b"", more=False)
            assert await one.reading == b"x" * 100, "what was not given up is read to its end"
        # All is given back: as much fits as at first.
        again = [Client(reader) for _ in range(4)]
        for one in again:
            await one.send(b"x" * 100)
        assert [one.refusal for one in again] == [None] * 4
        for one in again:
            one.reading.cancel()

    asyncio.run(attacked())


def test_a_body_that_has_come_whole_is_read_although_it_was_the_oldest():
    async def crowded() -> None:
        reader = Bodies(60)
        clients = [Client(reader) for _ in range(5)]
        for one in clients[:4]:
            await one.send(b"x" * 99)
        await clients[0].send(b"y", more=False)
        assert await clients[0].reading == b"x" * 99 + b"y"

    asyncio.run(crowded())


def test_a_body_that_does_not_come_is_refused_in_time():
    async def late() -> None:
        client = Client(Bodies(0.01))
        await client.send(b"x")
        with pytest.raises(BodyError, match=r"not come within 0\.01 s") as raised:
            await client.reading
        assert raised.value.status == 408

    asyncio.run(late())
