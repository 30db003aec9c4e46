"""A small API server of Kubernetes': objects with versions, and refusals as a test wants them."""

from __future__ import annotations

import json
import ssl
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class ApiServer:
    """What it has, by path, and what it was asked.

    Attributes:
        objects: by their path.
        refusals: what the next requests get, a status and a content.
        before_write: what happens before each of the next writes.
        asked: verb, path and authorization of each request.
    """

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.refusals: list[tuple[int, dict[str, Any]]] = []
        self.before_write: list[Callable[[], object]] = []
        self.asked: list[tuple[str, str, str | None]] = []
        self.port = 0

    def answer(self, verb: str, path: str, body: dict[str, Any] | None) -> tuple[int, dict[str, Any]]:
        if verb == "GET":
            found = self.objects.get(path)
            return (404, {"message": "not found"}) if found is None else (200, found)
        if self.before_write:
            self.before_write.pop(0)()
        if verb == "DELETE":
            return 200, self.objects.pop(path, {})
        assert body is not None
        if verb == "POST":
            path = f"{path}/{body['metadata']['name']}"
        return self._write(verb, path, body)

    def _write(self, verb: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        version = self.objects[path]["metadata"]["resourceVersion"] if path in self.objects else "0"
        if verb == "POST" and path in self.objects:
            return 409, {"message": "already exists"}
        if verb == "PUT" and body["metadata"]["resourceVersion"] != version:
            return 409, {"message": "the object has been modified"}
        body["metadata"]["resourceVersion"] = str(int(version) + 1)
        self.objects[path] = body
        return 200, body


@contextmanager
def api_server(own: Path | None = None) -> Iterator[ApiServer]:
    """One that listens, for as long as a test needs it; over TLS where it has a certificate."""
    server = ApiServer()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            path, size = self.path.partition("?")[0], int(self.headers.get("content-length") or 0)
            body = json.loads(self.rfile.read(size)) if size else None
            server.asked.append((self.command, path, self.headers.get("authorization")))
            status, content = server.refusals.pop(0) if server.refusals else server.answer(self.command, path, body)
            reply = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *_: object) -> None:
            pass

    for verb in ("GET", "POST", "PUT", "PATCH", "DELETE"):
        setattr(Handler, f"do_{verb}", Handler._answer)
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if own is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(own)
        http.socket = context.wrap_socket(http.socket, server_side=True)
    server.port = http.server_port
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


def kubeconfig(folder: Path, port: int, scheme: str = "http", token: str = "secret", **cluster: str) -> Path:  # noqa: S107 - of nobody
    """A kubeconfig for one on this machine; `cluster` is more that it says of it."""
    file = folder / "kubeconfig"
    file.write_text(json.dumps({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "k", "cluster": {"server": f"{scheme}://127.0.0.1:{port}", **cluster}}],
        "users": [{"name": "u", "user": {"token": token}}],
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
    }))  # fmt: skip
    return file
