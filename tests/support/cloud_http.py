"""What the HTTP of the clouds' doubles has in common."""

from __future__ import annotations

import json
import re
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from support.faults import Fault

if TYPE_CHECKING:
    from collections.abc import Mapping

    from support.faults import Faults


class Refusal(Exception):  # noqa: N818 - what a service says
    """An error of a service: its HTTP status, its own code and what it says."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


def found(known: Mapping[Any, Any], name: Any, code: str) -> Any:
    """What is known by a name; refused with the service's code where nothing is."""
    if name not in known:
        raise Refusal(404, code, f"{name} is not found.")
    return known[name]


def checked(value: str, pattern: str, code: str) -> str:
    """A value that has a form; refused with the service's code where it has not."""
    if not re.fullmatch(pattern, value):
        raise Refusal(400, code, f"{value!r} does not match {pattern}")
    return value


class CloudHandler(BaseHTTPRequestHandler):
    """Answers in JSON; a double says what, in `answer`."""

    protocol_version = "HTTP/1.1"

    def answer(self, body: bytes) -> None:
        """One request."""
        raise NotImplementedError

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def _take(self) -> None:
        self.answer(self.rfile.read(int(self.headers.get("content-length", 0))))

    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = _take  # noqa: N815 - the library's names

    @property
    def token(self) -> str:
        """What the request is signed with."""
        return self.headers.get("authorization", "").removeprefix("Bearer ")

    def send(self, status: int, content: Mapping[str, Any]) -> None:
        """An answer."""
        self.write(status, json.dumps(content).encode(), "application/json", {})

    def write(self, status: int, body: bytes, kind: str, headers: Mapping[str, str]) -> None:
        """An answer of any kind."""
        self.send_response(status)
        for name, value in {"content-type": kind, "content-length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def fails_unlike_the_cloud(self, faults: Faults, fault: Fault) -> bool:
        """Whether a fault is none that the cloud would say; then this is its answer, or none."""
        if fault is Fault.PAGE:
            self.write(200, *faults.page, {})
        elif fault is Fault.CLOSED:
            self.close_connection = True
        return fault in {Fault.PAGE, Fault.CLOSED}


def single(query: str) -> dict[str, str]:
    """The parameters of a query, of which there is one each."""
    return {key: values[0] for key, values in parse_qs(query).items()}
