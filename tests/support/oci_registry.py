"""A real registry (Debian's docker-registry) with what people put before it: a password, tokens, TLS, a bad network."""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import json
import shutil
import socket
import subprocess
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from support.stack import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

REGISTRY = shutil.which("docker-registry")
USER, PASSWORD = "wine", "secret"
# From `htpasswd -nbB wine secret`.
HTPASSWD = "wine:$2y$05$rJyRM6xZT4QA5vjwKli8MOyjoYESm7gXA25mWujXhA1NJIwiPGCWi"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def registry(folder: Path, **more: Any) -> Iterator[str]:
    """A registry on a port of its own; `more` is of its configuration. Gives its host and port."""
    assert REGISTRY is not None
    folder.mkdir(parents=True, exist_ok=True)
    host = f"127.0.0.1:{free_port()}"
    http = {"addr": host, **more.pop("http", {})}
    config = {
        "version": "0.1", "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}}, "http": http, **more,
    }  # fmt: skip
    (folder / "config.yml").write_text(yaml.safe_dump(config))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([REGISTRY, "serve", str(folder / "config.yml")], stdout=log, stderr=log)
    try:
        wait_for(lambda: _listens(host), 20)
        yield host
    finally:
        process.terminate()
        process.wait()


def _listens(host: str) -> bool:
    name, _, port = host.partition(":")
    with contextlib.suppress(OSError), socket.create_connection((name, int(port)), 1):
        return True
    return False


def certificate(folder: Path) -> tuple[Path, Path, Any]:
    """A certificate of 127.0.0.1 that is its own authority, its key, and the key as an object."""
    folder.mkdir(parents=True, exist_ok=True)
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    crt, pem = folder / "tls.crt", folder / "tls.key"
    crt.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    pem.write_bytes(key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    ))  # fmt: skip
    return crt, pem, key


@contextmanager
def token_server(crt: Path, key: Any) -> Iterator[tuple[str, list[str]]]:
    """Gives tokens for a password, as Docker Hub and the clouds do; its address, and the scopes it was asked for."""
    scopes: list[str] = []
    der = x509.load_pem_x509_certificate(crt.read_bytes()).public_bytes(serialization.Encoding.DER)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
            if self.headers.get("authorization") != wanted:
                self.send_error(401)
                return
            query = parse_qs(urlsplit(self.path).query)
            asked = query.get("scope", [])
            scopes.extend(asked)
            access = []
            for one in asked:
                kind, name, actions = one.split(":")
                access.append({"type": kind, "name": name, "actions": actions.split(",")})
            content = json.dumps({"token": _token(query["service"][0], access, der, key)}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/token", scopes
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _token(service: str, access: list[dict[str, Any]], der: bytes, key: Any) -> str:
    def packed(content: Any) -> str:
        return _url(json.dumps(content).encode())

    now = int(time.time())
    head = packed({"typ": "JWT", "alg": "RS256", "x5c": [base64.b64encode(der).decode()]})
    claims = {
        "iss": "tests",
        "sub": USER,
        "aud": service,
        "exp": now + 300,
        "nbf": now - 10,
        "iat": now,
        "jti": str(now),
    }
    signed = f"{head}.{packed({**claims, 'access': access})}"
    return f"{signed}.{_url(key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


def _url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


@dataclass
class BadNetwork:
    """A way to a registry that can be told to fail.

    Attributes:
        cut_after: connections are cut once so many bytes went to the registry, one for each entry.
        refuse: how many requests are answered with this status line before they get there.
        sent: bytes that went to the registry.
    """

    host: str = ""
    cut_after: list[int] = field(default_factory=list)
    refuse: list[str] = field(default_factory=list)
    sent: int = 0
    _since: int = 0

    def serve(self, client: socket.socket, to: str) -> None:
        """Carry one connection."""
        name, _, port = to.partition(":")
        if self.refuse:
            client.recv(65536)
            client.sendall(f"HTTP/1.1 {self.refuse.pop(0)}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode())
            client.close()
            return
        with contextlib.suppress(OSError), client, socket.create_connection((name, int(port))) as upstream:
            back = threading.Thread(target=_carry, args=(upstream, client), daemon=True)
            back.start()
            while data := client.recv(65536):
                self.sent += len(data)
                self._since += len(data)
                upstream.sendall(data)
                if self.cut_after and self._since >= self.cut_after[0]:
                    self.cut_after.pop(0)
                    self._since = 0
                    # A reset, as a dropped connection is.
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
                    return


def _carry(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)


@contextmanager
def bad_network(to: str) -> Iterator[BadNetwork]:
    """A way to a registry."""
    network = BadNetwork()
    listener = socket.create_server(("127.0.0.1", 0))
    network.host = f"127.0.0.1:{listener.getsockname()[1]}"

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=network.serve, args=(client, to), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield network
    finally:
        listener.close()


@dataclass
class Keeping:
    """What a registry holds that keeps whatever it received of a piece, as those of the clouds do."""

    host: str = ""
    blobs: dict[str, bytes] = field(default_factory=dict)
    upload: bytearray = field(default_factory=bytearray)


class _KeepingHandler(BaseHTTPRequestHandler):
    kept: Keeping

    protocol_version = "HTTP/1.1"

    def answer(self, status: int, **headers: str) -> None:
        self.send_response(status)
        self.send_header("content-length", "0")
        for name, value in {"location": "/v2/upload", **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def do_HEAD(self) -> None:
        self.answer(200 if self.path.rpartition("/")[2] in self.kept.blobs else 404)

    def do_GET(self) -> None:
        self.answer(204, range=f"0-{max(len(self.kept.upload) - 1, 0)}")

    def do_POST(self) -> None:
        self.kept.upload.clear()
        self.answer(202)

    def do_PATCH(self) -> None:
        first = int(self.headers["content-range"].partition("-")[0])
        left = int(self.headers["content-length"])
        if first != len(self.kept.upload):
            self.rfile.read(left)
            self.answer(416)
            return
        with contextlib.suppress(OSError):
            while left and (data := self.rfile.read1(min(left, 65536))):
                self.kept.upload += data
                left -= len(data)
        if not left:
            self.answer(202)

    def do_PUT(self) -> None:
        digest = parse_qs(urlsplit(self.path).query)["digest"][0]
        self.kept.blobs[digest] = bytes(self.kept.upload)
        self.answer(201)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def keeping_registry() -> Iterator[Keeping]:
    """Uploads as the specification has them (OCI distribution 1.1, "Pushing a blob in chunks"), one at a time."""
    kept = Keeping()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_KeepingHandler,), {"kept": kept}))
    server.daemon_threads = True
    kept.host = f"127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield kept
    finally:
        server.shutdown()
        server.server_close()
