"""Calls to Azure Resource Manager, and what its errors mean here.

Plain JSON by azure-core's pipeline, which retries, and azure-identity's credentials: the SDK of the service fails to
read what it wrote itself (a deployment with a data collector), and takes seconds to import.
"""

from __future__ import annotations

import os
import re
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from azure.core import PipelineClient
from azure.core.exceptions import AzureError, ClientAuthenticationError
from azure.core.pipeline.policies import BearerTokenCredentialPolicy, RetryPolicy, UserAgentPolicy
from azure.core.rest import HttpRequest
from azure.identity import DefaultAzureCredential

from deploy_targets.answers import listed, told, unreadable
from deploy_targets.clouds import poll
from headgate.errors import TargetError, TargetUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from azure.core.rest import HttpResponse

    from deploy_targets.azure_ml.settings import AzureMlSettings

_ENDPOINT = "AZURE_RESOURCE_MANAGER_URL"
"""Names the Resource Manager of another of Microsoft's clouds, such as that of Azure China."""
_PUBLIC = "https://management.azure.com"
_SCORING = "https://ml.azure.com"
_RETRIES = 4
LONGEST_RETRY_AFTER = 5.0
"""Seconds. A call waits for as long as Azure asks, up to this; where Azure asks for more, the call raises an error."""
_TIMEOUT = 75.0
"""Seconds; a prediction may last 60."""
_ENDED = frozenset({"Succeeded", "Failed", "Canceled"})
RENEW = "renew the credentials (az login), then go on: headgate release --release-id"

_VERSIONS = {
    "Microsoft.MachineLearningServices": "2025-12-01", "Microsoft.Insights/metrics": "2023-10-01",
    "Microsoft.Insights/autoscaleSettings": "2022-10-01", "Microsoft.Authorization": "2022-04-01",
    "Microsoft.ContainerRegistry": "2023-07-01",
}  # fmt: skip
"""By the provider that a path ends in."""


class BoundedRetries(RetryPolicy):  # type: ignore[type-arg] # of any request and answer
    """azure-core's retries, none of which sleeps for longer than some seconds.

    That policy sleeps as long as a Retry-After says, in one piece, and again after each of its retries.
    """

    def get_retry_after(self, response: Any) -> float | None:  # noqa: ANN401 - azure-core's own
        """The seconds that an answer asks to wait; azure-core's own raises ValueError where it cannot read that."""
        return retry_after(response.http_response.headers)

    def is_retry(self, settings: dict[str, Any], response: Any) -> bool:  # noqa: ANN401 - azure-core's own
        """Whether to ask again: not where Azure wants to be left alone for longer than `LONGEST_RETRY_AFTER`."""
        if (self.get_retry_after(response) or 0.0) > LONGEST_RETRY_AFTER:
            return False
        return bool(super().is_retry(settings, response))


class Arm:
    """One workspace's resources, with our errors for Azure's.

    Args:
        settings: which workspace.
    """

    def __init__(self, settings: AzureMlSettings) -> None:
        self._base = os.environ.get(_ENDPOINT, _PUBLIC).rstrip("/")
        self.group = f"/subscriptions/{settings.subscription}/resourceGroups/{settings.group}"
        self.workspace = f"{self.group}/providers/Microsoft.MachineLearningServices/workspaces/{settings.workspace}"
        self.credential = DefaultAzureCredential()
        signed = BearerTokenCredentialPolicy(self.credential, f"{self._base}/.default")
        self._client: PipelineClient[Any, HttpResponse] = PipelineClient(
            self._base, policies=[UserAgentPolicy("headgate"), BoundedRetries(retry_total=_RETRIES), signed]
        )
        self._plain: PipelineClient[Any, HttpResponse] = PipelineClient(
            self._base, policies=[UserAgentPolicy("headgate")]
        )
        self._location = ""
        self.around: Callable[[str], AbstractContextManager[object]] = lambda _: nullcontext()
        """What each call is made in, by its name; the benchmark counts and times with it."""

    @property
    def location(self) -> str:
        """The workspace's region."""
        if not self._location:
            self._location = self.call("GET", self.workspace)["location"]
        return self._location

    def call(self, verb: str, path: str, body: object = None, **query: str) -> dict[str, Any]:
        """One call.

        Args:
            verb: of HTTP.
            path: a resource's id, or that of a collection of them.
            body: of the request, as JSON.
            query: its parameters beside the version.

        Raises:
            TargetUnavailableError: Azure does not answer, the resource is being changed, or it no longer knows us.
            TargetError: it refuses.
        """
        return _content(self._call(verb, path, body, query), operation(verb, path))

    def find(self, path: str) -> dict[str, Any] | None:
        """What is there; None where nothing is. Raises as `call` does."""
        reply = self._call("GET", path, None, {}, (HTTPStatus.NOT_FOUND,))
        return None if reply.status_code == HTTPStatus.NOT_FOUND else _content(reply, operation("GET", path))

    def pages(self, path: str, **query: str) -> Iterator[Any]:
        """What is listed, over all pages; nothing where there is no such collection. Raises as `call` does."""
        while path:
            reply = self._call("GET", path, None, query, (HTTPStatus.NOT_FOUND,))
            if reply.status_code == HTTPStatus.NOT_FOUND:
                return
            name = operation("GET", path)
            page = _content(reply, name)
            yield from listed(page, "value", f"Azure's {name}")
            path, query = str(page.get("nextLink") or "").removeprefix(self._base), {}

    def change(self, verb: str, path: str, body: object, seconds: float) -> dict[str, Any]:
        """Put or remove something, and wait for what that begins; nothing happens where what is removed is not there.

        Args:
            verb: PUT or DELETE.
            path: the resource.
            body: what it is to be.
            seconds: how long that may take.

        Returns:
            The error that it ended with, empty where there is none.

        Raises:
            TargetUnavailableError: as `call` does, and where it goes on for longer.
            TargetError: as `call` does.
        """
        gone = (HTTPStatus.NOT_FOUND,) if verb == "DELETE" else ()
        reply = self._call(verb, path, body, {}, gone)
        watched = reply.headers.get("azure-asyncoperation") or reply.headers.get("location") or ""
        if not watched or reply.status_code not in {HTTPStatus.OK, HTTPStatus.CREATED, HTTPStatus.ACCEPTED}:
            return {}
        last = poll(
            lambda: self._call("GET", watched.removeprefix(self._base), None, {}), _has_ended, seconds,
            f"{operation(verb, path)} of {path.rpartition('/')[2]}",
        )  # fmt: skip
        state = _content(last, operation(verb, path))
        if (status := state.get("status") or "Succeeded") == "Succeeded":
            return {}
        error = state.get("error")
        return error if isinstance(error, dict) else {"code": status, "message": error or status}

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        """A request to a model: what it answered, also where that is a failure; never sent twice.

        Raises:
            TargetUnavailableError: Azure does not answer.
        """
        signed = {"authorization": f"Bearer {self.token(_SCORING)}", **headers}
        try:
            with self.around("score"):
                reply = self._plain.send_request(
                    HttpRequest("POST", url, content=body, headers=signed), read_timeout=_TIMEOUT
                )
        except AzureError as error:
            raise _away("score", error) from error
        return reply.status_code, reply.content

    def exchange(self, host: str) -> str:
        """A password for a container registry of Azure's, which lasts three hours.

        Source: https://github.com/Azure/acr/blob/main/docs/AAD-OAuth.md.

        Raises:
            TargetError: the registry does not know us.
        """
        form = {"grant_type": "access_token", "service": host, "access_token": self.token(self._base)}
        try:
            reply = self._plain.send_request(HttpRequest("POST", f"https://{host}/oauth2/exchange", data=form))
        except AzureError as error:
            raise _away("exchange", error) from error
        if reply.status_code != HTTPStatus.OK:
            raise meaning_of(reply, f"a push to {host}")
        return str(_content(reply, "exchange")["refresh_token"])

    def token(self, resource: str = _SCORING) -> str:
        """What signs requests to a resource of Azure's."""
        try:
            return self.credential.get_token(f"{resource}/.default").token
        except AzureError as error:
            raise _away("token", error) from error

    def _call(
        self, verb: str, path: str, body: object, query: Mapping[str, str], excused: tuple[int, ...] = ()
    ) -> HttpResponse:
        version = "" if "api-version=" in path else _version(path)
        named = {"api-version": version} if version else {}
        request = HttpRequest(verb, path, params={**named, **query}, json=body)
        request.url = self._client.format_url(request.url)
        name = operation(verb, path)
        try:
            with self.around(name):
                reply: HttpResponse = self._client.send_request(request, read_timeout=_TIMEOUT)
        except AzureError as error:
            raise _away(name, error) from error
        if reply.status_code >= HTTPStatus.BAD_REQUEST and reply.status_code not in excused:
            raise meaning_of(reply, name)
        return reply


def operation(verb: str, path: str) -> str:
    """What a call is named here, such as deployments.put."""
    parts = path.partition("?")[0].strip("/").split("/")
    if verb == "POST":
        return parts[-1]
    after = parts[parts.index("providers") + 2 :] if "providers" in parts else parts
    return f"{after[-1 - (len(after) % 2 == 0)]}.{verb.lower()}"


def meaning_of(reply: HttpResponse, name: str) -> TargetError:
    """Our error for one of Azure's.

    Args:
        reply: with a status of 400 or more.
        name: the call.
    """
    status, (code, said), seconds = reply.status_code, _said(reply), retry_after(reply.headers) or 0.0
    if status == HTTPStatus.UNAUTHORIZED:
        return TargetUnavailableError(f"Azure does not know us any more: {said}", fix=RENEW)
    if status == HTTPStatus.FORBIDDEN:
        fix = "give the caller this permission; all of them: headgate doctor --policy release.yaml"
        return TargetError(f"Azure does not allow {name}: {said}", fix=fix)
    if seconds > LONGEST_RETRY_AFTER:
        until = datetime.now(UTC) + timedelta(seconds=seconds)
        return TargetUnavailableError(
            f"Azure does not answer {name} ({status}) and asks to be left alone for {seconds:g} s, until "
            f"{until:%Y-%m-%d %H:%M:%S} UTC; a call waits for {LONGEST_RETRY_AFTER:g} s at most: {said}",
            fix="go on then; if it comes often, have less of the subscription's calls come from elsewhere",
        )
    if status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return TargetUnavailableError(f"Azure does not answer {name} ({status}): {said}", fix="try again")
    if status == HTTPStatus.CONFLICT or "provisioning state" in said:
        return TargetUnavailableError(f"Azure does not do {name} now: {said}", fix="try again when it has settled")
    return TargetError(f"Azure refuses {name} ({code or status}): {said}")


def _version(path: str) -> str:
    provider = path.rpartition("/providers/")[2]
    # Where an operation can be watched, as Azure says it, may be under no provider.
    return next((version for named, version in _VERSIONS.items() if provider.startswith(named)), "")


def _has_ended(reply: HttpResponse) -> bool:
    """By the status that it tells, or, of a place where a result will be, by that of HTTP."""
    status = _content(reply, "operations.get").get("status")
    return reply.status_code != HTTPStatus.ACCEPTED if status is None else status in _ENDED


def _content(reply: HttpResponse, name: str) -> dict[str, Any]:
    """The object that was answered; an empty one where the answer has no body.

    Raises:
        TargetUnavailableError: it is something else, such as a proxy's page.
    """
    try:
        found = reply.json() if reply.content else {}
    except ValueError as error:
        came = f"{reply.headers.get('content-type', '')} {reply.content[:80]!r}"
        raise unreadable(f"Azure's {name}", came) from error
    return told(found, f"Azure's {name}")


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds that an answer asks to wait: a number, or until a date; None where it says nothing that can be read.

    By https://www.rfc-editor.org/rfc/rfc9110#name-retry-after, and the two headers in milliseconds of Azure's own.
    """
    text, unit = headers.get("retry-after", ""), 1.0
    if not text:
        text, unit = headers.get("retry-after-ms") or headers.get("x-ms-retry-after-ms") or "", 1000.0
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text) / unit
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def _said(reply: HttpResponse) -> tuple[str, str]:
    """The code and the message."""
    try:
        error = reply.json()["error"]
        return str(error.get("code") or ""), str(error.get("message") or "")
    except (ValueError, KeyError, TypeError, AttributeError):
        return "", reply.reason or ""


def _away(name: str, error: AzureError) -> TargetUnavailableError:
    if isinstance(error, ClientAuthenticationError):
        return TargetUnavailableError(f"Azure does not know us any more: {error.message}", fix=RENEW)
    return TargetUnavailableError(f"Azure does not answer {name}: {error.message}", fix="see the network, then go on")
