"""An HTTP server of a test's own: answers as a function says, and keeps what it was sent."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def answering(
    reply: Callable[[str], tuple[int, bytes]], received: list[bytes] | None = None, hosts: list[str] | None = None
) -> Iterator[str]:
    """Serve on a free port.

    Args:
        reply: the status and the body, by the path.
        received: gets every request's body.
        hosts: gets every request's host.

    Yields:
        The address.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            if received is not None:
                received.append(body)
            if hosts is not None:
                hosts.append(self.headers["host"])
            status, content = reply(self.path)
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST  # noqa: N815 - the base class has these names

        def log_message(self, *_: object) -> None:
            """Keep the test's output quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
