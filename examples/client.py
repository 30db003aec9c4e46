"""A steady client: keeps asking an endpoint at a fixed rate and counts every answer by the version that gave it."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    import pandas as pd

THREADS = 4
_OK = 200


class Client:
    """Asks with real rows, and knows the right answers.

    Args:
        url: the endpoint.
        rows: inputs, one row a request.
        truth: the right answer of each row.
        rate: requests a second, over all threads.
        headers: sent with each.
        revision: the header of answers that names the version.
    """

    def __init__(
        self, url: str, rows: pd.DataFrame, truth: pd.Series, rate: float,
        headers: Mapping[str, str] | None = None, revision: str = "x-headgate-revision",
    ) -> None:  # fmt: skip
        self._headers = {"content-type": "application/json", **(headers or {})}
        self._revision = revision
        self._target = urlsplit(url)
        self._columns = list(rows.columns)
        self._rows = rows.to_numpy().tolist()
        self._truth = truth.tolist()
        self.asked = rate
        self._pause = THREADS / rate
        self._stop = threading.Event()
        self._scales = [1.0] * len(self._columns)
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(THREADS)]
        self.by_revision: dict[str, Counter[str]] = defaultdict(Counter)
        self.lost = 0
        self.began = 0.0

    def __enter__(self) -> Self:
        self.began = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def total(self) -> int:
        """Requests so far."""
        with self._lock:
            return self.lost + sum(counter["answers"] for counter in self.by_revision.values())

    @property
    def rate(self) -> float:
        """Requests a second so far."""
        return self.total / (time.monotonic() - self.began)

    def drift(self, scale: float, spared: Collection[str] = ()) -> None:
        """From now on the inputs are off by a factor, as after a sensor was replaced, but for those that are spared."""
        self._scales = [1.0 if column in spared else scale for column in self._columns]

    def _run(self, number: int) -> None:
        chance = random.Random(number)
        connection = self._connect()
        due = time.monotonic() + number * self._pause / THREADS
        while not self._stop.is_set():
            index = chance.randrange(len(self._rows))
            row = [value * scale for value, scale in zip(self._rows[index], self._scales, strict=True)]
            body = json.dumps({"dataframe_split": {"columns": self._columns, "data": [row]}})
            try:
                connection.request("POST", self._target.path, body, self._headers)
                reply = connection.getresponse()
                self._count(reply.status, reply.headers.get(self._revision), reply.read(), index)
            except (OSError, http.client.HTTPException):
                with self._lock:
                    self.lost += 1
                connection.close()
                connection = self._connect()
            due += self._pause
            self._stop.wait(max(due - time.monotonic(), 0))
        connection.close()

    def _count(self, status: int, revision: str | None, body: bytes, index: int) -> None:
        with self._lock:
            if revision is None:
                self.lost += 1
                return
            counter = self.by_revision[revision]
            counter["answers"] += 1
            if status != _OK:
                counter["failed"] += 1
            elif json.loads(body)["predictions"] != [self._truth[index]]:
                counter["wrong"] += 1

    def _connect(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._target.scheme == "https" else http.client.HTTPConnection
        return kind(self._target.hostname or "", self._target.port, timeout=10)
