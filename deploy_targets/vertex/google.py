"""Calls to Google Cloud, and what its errors mean here.

By the discovery documents that google-api-python-client brings: the requests are plain JSON, and importing it takes a
tenth of the time of the generated clients. Its transport, httplib2, sends a request again when a connection closes
without an answer, whatever it was told; so requests to models go by google-auth's own session, which does not.
"""

from __future__ import annotations

import json
import os
import threading
from contextlib import nullcontext
from functools import reduce
from http import HTTPStatus
from http.client import HTTPException
from typing import TYPE_CHECKING, Any

import google.auth
import google.auth.transport.requests
import httplib2
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError
from google.auth.transport.requests import AuthorizedSession
from google_auth_httplib2 import AuthorizedHttp
from googleapiclient.discovery import build
from googleapiclient.errors import HttpError

from deploy_targets.answers import listed, told, unreadable
from deploy_targets.clouds import poll
from headgate.errors import BadInputError, TargetError, TargetUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

_SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
_RETRIES = 4
_TIMEOUT = 75.0
"""Seconds; a prediction may last 60."""
_CHANGED = frozenset({"ABORTED", "FAILED_PRECONDITION"})
_QUOTA = 8
"""google.rpc.Code.RESOURCE_EXHAUSTED."""

RENEW = "renew the credentials (gcloud auth application-default login), then go on: headgate release --release-id"
_VERSIONS = {"aiplatform": "v1", "artifactregistry": "v1", "bigquery": "v2", "logging": "v2", "monitoring": "v3",
             "cloudresourcemanager": "v1", "serviceusage": "v1beta1"}  # fmt: skip
_PATHS = {"bigquery": "bigquery/v2/"}
_IN_PART = ("executionErrors", "unreachable")
"""What a page has where something is missing in it, such as that of Cloud Monitoring's timeSeries.list."""


class Google:
    """A project's services, with our errors for theirs.

    Args:
        project: which; empty for that of the environment or the credentials.
        location: the region of its Vertex AI.
    """

    def __init__(self, project: str, location: str) -> None:
        self._project, self._location = project or os.environ.get("GOOGLE_CLOUD_PROJECT", ""), location
        self._credentials: Any = None
        self._services: dict[str, Any] = {}
        self._collections: dict[tuple[str, str], Any] = {}
        self._lock = threading.Lock()
        # The connections of httplib2 and of requests belong to one thread.
        self._local = threading.local()
        self.around: Callable[[str], AbstractContextManager[object]] = lambda _: nullcontext()
        """What each call is made in, by its name; the benchmark counts and times with it."""

    @property
    def project(self) -> str:
        """The project's id.

        Raises:
            BadInputError: nobody says which.
        """
        self._sign_in()
        if not self._project:
            raise BadInputError(
                "no Google Cloud project is known",
                fix="set target.project in the release file, or GOOGLE_CLOUD_PROJECT",
            )
        return self._project

    @property
    def parent(self) -> str:
        """The project and location, as names in Vertex AI begin."""
        return f"projects/{self.project}/locations/{self._location}"

    def url(self, service: str) -> str:
        """Where a service is; gcloud's own variables say where else."""
        override = os.environ.get(f"CLOUDSDK_API_ENDPOINT_OVERRIDES_{service.upper()}", "")
        region = f"{self._location}-" if service == "aiplatform" else ""
        return (override or f"https://{region}{service}.googleapis.com").rstrip("/")

    def call(self, service: str, method: str, **parameters: object) -> dict[str, Any]:
        """One call.

        Args:
            service: as Google names it.
            method: a path of its discovery document, such as projects.locations.endpoints.get.
            parameters: as Google names them; `body` is the request's.

        Raises:
            TargetUnavailableError: Google does not answer, the resource is being changed, or it no longer knows us.
            TargetError: it refuses.
        """
        reply = self._call(service, method, parameters, ())
        assert reply is not None  # noqa: S101 - nothing was excused
        return reply

    def find(self, service: str, method: str, **parameters: object) -> dict[str, Any] | None:
        """One call about something that may not be there: None where it is not. Raises as `call` does."""
        return self._call(service, method, parameters, (HTTPStatus.NOT_FOUND,))

    def make(self, service: str, method: str, **parameters: object) -> dict[str, Any] | None:
        """One call that makes something: None where it is there already. Raises as `call` does."""
        return self._call(service, method, parameters, (HTTPStatus.CONFLICT,))

    def pages(self, service: str, method: str, key: str, **parameters: object) -> Iterator[Any]:
        """What a call lists, over all its pages. Raises as `call` does."""
        token = ""
        while True:
            page = self.call(service, method, **parameters, **({"pageToken": token} if token else {}))
            if missing := next((page[one] for one in _IN_PART if page.get(one)), None):
                raise TargetUnavailableError(f"Google answers {method} in part: {missing}", fix="try again")
            yield from listed(page, key, _of(method))
            token = page.get("nextPageToken", "")
            if not token:
                return

    def wait(self, operation: Mapping[str, Any], seconds: float, what: str) -> dict[str, Any]:
        """What became of a long-running operation.

        Args:
            operation: as the call that began it, or a list, has it.
            seconds: how long it may take.
            what: it does, for the error.

        Returns:
            Its `error`, empty where there is none.

        Raises:
            TargetUnavailableError: it goes on for longer.
        """
        if not operation.get("done"):
            name = str(operation["name"])
            # projects/…/locations/…/endpoints/…/operations/…: the collections are the method's path.
            method = ".".join([*name.split("/")[::2], "get"])
            operation = poll(
                lambda: self.call("aiplatform", method, name=name), lambda found: bool(found.get("done")), seconds, what
            )
        error = operation.get("error") or {}
        return error if isinstance(error, dict) else {"message": str(error)}

    def post(self, url: str, body: bytes, content_type: str) -> tuple[int, bytes]:
        """A request to a model: what it answered, also where that is a failure; never sent twice.

        Raises:
            TargetUnavailableError: Google does not answer.
        """
        session = self._session()
        try:
            with self.around("rawPredict"):
                reply = session.request(
                    "POST", url, data=body, headers={"content-type": content_type}, timeout=_TIMEOUT,
                    allow_redirects=False,
                )  # fmt: skip
        except (OSError, GoogleAuthError) as error:
            raise _away("rawPredict", error) from error
        if reply.status_code == HTTPStatus.UNAUTHORIZED:
            # Google's or the model's own. The next request is signed anew; this one is not sent again.
            self._credentials.token = None
        return reply.status_code, reply.content

    def token(self) -> str:
        """What signs requests, for an hour at most."""
        self._sign_in()
        try:
            self._credentials.refresh(google.auth.transport.requests.Request())
        except GoogleAuthError as error:
            raise _away("token", error) from error
        return str(self._credentials.token)

    def _call(
        self, service: str, method: str, parameters: dict[str, object], excused: tuple[int, ...]
    ) -> dict[str, Any] | None:
        path, _, name = method.rpartition(".")
        request = getattr(self._collection(service, path), name)(**parameters)
        try:
            with self.around(method):
                reply = request.execute(http=self._http(), num_retries=_RETRIES)
        except HttpError as error:
            if error.status_code in excused:
                return None
            raise meaning_of(error, name) from error
        except (OSError, HTTPException, httplib2.HttpLib2Error, GoogleAuthError) as error:
            raise _away(name, error) from error
        except UnicodeDecodeError as error:
            raise unreadable(_of(method), str(error)) from error
        return told(reply, _of(method))

    def _collection(self, service: str, path: str) -> Any:  # noqa: ANN401 - made from a discovery document
        """Where a method is. Google's client makes all classes on the way anew, which takes tens of milliseconds."""
        key = (service, path)
        if key not in self._collections:
            self._collections[key] = reduce(
                lambda found, part: getattr(found, part)(), path.split("."), self._service(service)
            )
        return self._collections[key]

    def _service(self, service: str) -> Any:  # noqa: ANN401 - made from a discovery document
        self._sign_in()
        with self._lock:
            if service not in self._services:
                self._services[service] = build(
                    service, _VERSIONS[service], credentials=self._credentials, static_discovery=True,
                    client_options={"api_endpoint": f"{self.url(service)}/{_PATHS.get(service, '')}"},
                )  # fmt: skip
            return self._services[service]

    def _http(self) -> Any:  # noqa: ANN401 - httplib2 has no types
        self._sign_in()
        if not hasattr(self._local, "http"):
            self._local.http = AuthorizedHttp(self._credentials, http=httplib2.Http(timeout=_TIMEOUT))
        return self._local.http

    def _session(self) -> AuthorizedSession:
        """Sends each request once: requests itself tries none again, and this one neither after a 401."""
        self._sign_in()
        if not hasattr(self._local, "session"):
            self._local.session = AuthorizedSession(self._credentials, max_refresh_attempts=0)
        session: AuthorizedSession = self._local.session
        return session

    def _sign_in(self) -> None:
        with self._lock:
            if self._credentials is not None:
                return
            try:
                self._credentials, project = google.auth.default(scopes=_SCOPES)
            except DefaultCredentialsError as error:
                raise TargetError(
                    "no Google Cloud credentials are known",
                    fix="gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS",
                ) from error
            self._project = self._project or project or ""


def meaning_of(error: HttpError, method: str) -> TargetError:
    """Our error for one of Google's (https://cloud.google.com/apis/design/errors).

    Args:
        error: what the client raised.
        method: the call.
    """
    code, status, said = error.status_code, *_said(error)
    if code == HTTPStatus.UNAUTHORIZED:
        return TargetUnavailableError(f"Google does not know us any more: {said}", fix=RENEW)
    if code == HTTPStatus.FORBIDDEN and "has not been used in project" in said:
        return TargetError(
            f"Google does not allow {method}: {said}", fix="gcloud services enable aiplatform.googleapis.com"
        )
    if code == HTTPStatus.FORBIDDEN:
        fix = "give the caller this permission; all of them: headgate doctor --policy release.yaml"
        return TargetError(f"Google does not allow {method}: {said}", fix=fix)
    if code == HTTPStatus.TOO_MANY_REQUESTS or code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return TargetUnavailableError(f"Google does not answer {method} ({code}): {said}", fix="try again")
    if status in _CHANGED:
        return TargetUnavailableError(f"Google does not do {method} now: {said}", fix="try again when it has settled")
    return TargetError(f"Google refuses {method} ({status or code}): {said}")


def _of(method: str) -> str:
    """What answered, for an error: "Google's endpoints.get"."""
    return f"Google's {'.'.join(method.split('.')[-2:])}"


def is_quota(error: Mapping[str, Any]) -> bool:
    """Whether an operation failed for want of machines."""
    return error.get("code") == _QUOTA


def _said(error: HttpError) -> tuple[str, str]:
    """The status and the message."""
    try:
        content = json.loads(error.content)["error"]
        return str(content.get("status") or ""), str(content.get("message") or "")
    except (ValueError, KeyError, TypeError, AttributeError):
        return "", str(error.reason)


def _away(method: str, error: Exception) -> TargetUnavailableError:
    if isinstance(error, GoogleAuthError):
        return TargetUnavailableError(f"Google does not know us any more: {error}", fix=RENEW)
    return TargetUnavailableError(f"Google does not answer {method}: {error}", fix="see the network, then go on")
