"""How our own requests to the Prefect and MLflow servers sign in, over HTTP.

Prefect's and MLflow's clients do the same by themselves. Their import takes seconds, so what only asks a question, such
as `headgate status` or the receiver, has none of them.

A sign-in is that of this process's environment: `headgate.stack.programs.client_env` puts the local stack's there.
"""

from __future__ import annotations

import os
import uuid
from http import HTTPStatus
from typing import TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

PREFECT_SIGN_IN = "PREFECT_API_AUTH_STRING"
MLFLOW_USER, MLFLOW_PASSWORD = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"
VARIABLES = (PREFECT_SIGN_IN, MLFLOW_USER, MLFLOW_PASSWORD)
"""What holds a sign-in in the environment."""

_CHANGES = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_TOKEN, _CLIENT = "Prefect-Csrf-Token", "Prefect-Csrf-Client"


class PrefectSignIn(httpx.Auth):
    """Sign each request to a Prefect server in, and show its CSRF token where the server gives one out.

    Source: Prefect 3.8, client/base.py and server/api/middleware.py.

    Args:
        api: the server's API.
        sign_in: `user:password`; empty where the server asks for none.
        key: of Prefect Cloud, where there is no `user:password`.
    """

    def __init__(self, api: str, sign_in: str = "", key: str = "") -> None:
        self._client = str(uuid.uuid4())
        self._url = httpx.URL(f"{api.rstrip('/')}/csrf-token", params={"client": self._client})
        user, _, password = sign_in.partition(":")
        self._basic = httpx.BasicAuth(user, password) if sign_in else None
        self._key = key
        self._token: str | None = None

    @classmethod
    def of(cls, api: str, environ: Mapping[str, str] = os.environ) -> PrefectSignIn:
        """Return what an environment signs in with."""
        return cls(api, environ.get(PREFECT_SIGN_IN, ""), environ.get("PREFECT_API_KEY", ""))

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response]:
        """Sign in; a token that the server no longer knows is asked for again, once."""
        self._sign(request)
        if request.method not in _CHANGES:
            yield request
            return
        if self._token is None:
            yield from self._ask_for_token()
        self._show(request)
        response = yield request
        if response.status_code == HTTPStatus.FORBIDDEN and "CSRF" in response.text:
            yield from self._ask_for_token()
            if self._token:
                self._show(request)
                yield request

    requires_response_body = True

    def _ask_for_token(self) -> Generator[httpx.Request, httpx.Response]:
        """Ask for a token; a server without CSRF protection has none, and answers 422 or 404."""
        request = httpx.Request("GET", self._url)
        self._sign(request)
        reply = yield request
        self._token = _token_of(reply) if reply.is_success else ""

    def _show(self, request: httpx.Request) -> None:
        if self._token:
            request.headers[_TOKEN], request.headers[_CLIENT] = self._token, self._client

    def _sign(self, request: httpx.Request) -> None:
        if self._basic is not None:
            next(self._basic.auth_flow(request))
        elif self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"


def _token_of(reply: httpx.Response) -> str:
    """Return the token of an answer; empty where it has another form, as the next answer will show."""
    try:
        found = reply.json()
    except ValueError:
        return ""
    return str(found.get("token", "")) if isinstance(found, dict) else ""


def mlflow_sign_in(environ: Mapping[str, str] = os.environ) -> httpx.BasicAuth | None:
    """Return what an environment signs in to MLflow with; None where it has no user."""
    user = environ.get(MLFLOW_USER, "")
    return httpx.BasicAuth(user, environ.get(MLFLOW_PASSWORD, "")) if user else None


def refuses(reply: httpx.Response) -> bool:
    """Whether a server does not accept the sign-in, or asks for one."""
    return reply.status_code in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}
