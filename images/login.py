"""How a registry is talked to: its scheme, its certificate authority, and whom we are to it.

Credentials are those of `docker login`, read by docker-py, credential helpers included. Source: the Docker registry
token authentication specification, and RFC 7617.
"""

from __future__ import annotations

import base64
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from docker import auth
from docker.errors import DockerException

from headgate.errors import PackageError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Generator

INSECURE = "HEADGATE_INSECURE_REGISTRIES"
"""Registries, separated by commas, that may be asked over plain HTTP; those of this machine always may."""

_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')
_OURS = Path("/etc/docker/certs.d")
"""Where a Docker daemon has the certificate authorities of its registries."""


def trusted(server: str) -> ssl.SSLContext:
    """Certificate authorities of this machine, and the one that its Docker daemon knows for this server."""
    # httpx's own reads SSL_CERT_FILE.
    context = httpx.create_ssl_context()
    authority = _OURS / server / "ca.crt"
    if authority.exists():
        context.load_verify_locations(authority)
    return context


def scheme(server: str, context: ssl.SSLContext) -> str:
    """https, and where HTTP is allowed what the server speaks: as a Docker daemon does it."""
    allowed = {"localhost", "127.0.0.1", "::1"} | {
        name.strip().rpartition(":")[0] or name.strip() for name in os.environ.get(INSECURE, "").split(",")
    }
    host = server.rpartition(":")[0] or server
    if host.strip("[]") not in allowed:
        return "https"
    try:
        httpx.get(f"https://{server}/v2/", verify=context, timeout=10)
    except httpx.ConnectError as error:
        if "WRONG_VERSION_NUMBER" in str(error) or "record layer" in str(error).lower():
            return "http"
    except httpx.HTTPError:
        return "https"
    return "https"


class Login(httpx.Auth):
    """Answers a registry's challenge, with a token or a password, and again when the token has run out.

    Args:
        host: the registry, as `docker login` names it.
        context: how it is trusted.
        user: a name and a password, instead of those of `docker login`.
    """

    def __init__(self, host: str, context: ssl.SSLContext, user: tuple[str, str] | None = None) -> None:
        self._host, self._context = host, context
        self._header = ""
        self._known: dict[str, Any] | None = {"username": user[0], "password": user[1]} if user else None

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Ask with what we have; where that is refused, with what is asked for."""
        if self._header:
            request.headers["authorization"] = self._header
        reply = yield request
        if reply.status_code != httpx.codes.UNAUTHORIZED:
            return
        kind, _, rest = reply.headers.get("www-authenticate", "").partition(" ")
        asked = dict(_CHALLENGE.findall(rest))
        if kind.lower() == "bearer" and "realm" in asked:
            self._header = f"Bearer {self._token(asked)}"
        elif kind.lower() == "basic" and self._credentials().get("username"):
            self._header = self._basic()
        else:
            return
        request.headers["authorization"] = self._header
        yield request

    def _token(self, asked: dict[str, str]) -> str:
        known = self._credentials()
        wanted = [("service", asked.get("service", "")), *(("scope", one) for one in asked.get("scope", "").split())]
        with httpx.Client(verify=self._context, timeout=30) as client:
            if known.get("identitytoken"):
                reply = client.post(asked["realm"], data={
                    "grant_type": "refresh_token", "refresh_token": known["identitytoken"], "client_id": "headgate",
                    **{name: value for name, value in wanted if value},
                })  # fmt: skip
            else:
                headers = {"authorization": self._basic()} if known.get("username") else {}
                reply = client.get(asked["realm"], params=[pair for pair in wanted if pair[1]], headers=headers)
        if not reply.is_success:
            return ""
        content = reply.json()
        return str(content.get("token") or content.get("access_token") or "")

    def _basic(self) -> str:
        known = self._credentials()
        return "Basic " + base64.b64encode(f"{known['username']}:{known['password']}".encode()).decode()

    def _credentials(self) -> dict[str, Any]:
        if self._known is None:
            try:
                self._known = auth.load_config().resolve_authconfig(self._host) or {}
            except DockerException as error:
                raise PackageError(
                    f"the credentials of {self._host} cannot be read: {error}", fix=f"docker login {self._host}"
                ) from error
            self._known = {key.lower(): value for key, value in self._known.items()}
        return self._known
