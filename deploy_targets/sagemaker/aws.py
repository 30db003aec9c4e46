"""Calls to AWS, and what its errors mean here."""

from __future__ import annotations

import os
import re
import threading
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    NoCredentialsError,
    NoRegionError,
    TokenRetrievalError,
)
from botocore.exceptions import (
    ConnectionError as NotConnectedError,
)
from botocore.parsers import ResponseParserError

from deploy_targets.answers import listed, told, unreadable
from headgate.errors import BadInputError, TargetError, TargetUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from botocore.client import BaseClient
    from botocore.model import OperationModel

_CONFIG = Config(retries={"mode": "standard", "total_max_attempts": 5}, connect_timeout=10, read_timeout=75)
"""An invocation may last 60 s."""
_ONCE = Config(retries={"mode": "standard", "total_max_attempts": 1}, connect_timeout=10, read_timeout=75)

_OK, _FIRST_ERROR = 200, 300
_PAGE = re.compile(rb"\s*<(!doctype\s+html|html)\b", re.IGNORECASE)
_AWAY = frozenset({
    "Throttling", "ThrottlingException", "ThrottledException", "TooManyRequestsException", "RequestLimitExceeded",
    "RequestTimeout", "RequestTimeoutException", "ServiceUnavailable", "ServiceUnavailableException", "SlowDown",
    "InternalFailure", "InternalServerError", "InternalServiceException", "InternalDependencyException",
    "ModelNotReadyException",
})  # fmt: skip
_EXPIRED = frozenset({
    "ExpiredToken", "ExpiredTokenException", "RequestExpired", "InvalidClientTokenId", "UnrecognizedClientException",
    "InvalidSignatureException", "SignatureDoesNotMatch",
})  # fmt: skip
_DENIED = frozenset({"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "403"})
_LATER = (
    # Of an inference component: https://docs.aws.amazon.com/sagemaker/latest/dg/endpoint-auto-scaling-zero-instances.html
    (("has no capacity",), "no copy of it runs yet", "ask again in some minutes"),
    (("in-progress", "is in progress", "in progress state"), "the endpoint is being changed",
     "try again when it has settled"),
)  # fmt: skip
"""What is so for a while: how AWS words it, what it is, and what to do."""
_MISSING = ("could not find", "does not exist", "not found", "no scalable target")
_EXISTS = ("already existing", "already exists")

RENEW = "renew the credentials (aws sso login, or the role's), then go on: headgate release --release-id, or reconcile"


class Aws:
    """An account's services in one region, with our errors for theirs.

    Args:
        region: where; empty for what the environment or the profile says.
    """

    def __init__(self, region: str) -> None:
        # boto3 itself reads AWS_DEFAULT_REGION alone.
        self._region = region or os.environ.get("AWS_REGION", "")
        self._clients: dict[str, BaseClient] = {}
        # Not boto3's own session, which keeps the credentials of the process's first call.
        self._session = boto3.Session()
        self._making = threading.Lock()
        self.around: Callable[[str], AbstractContextManager[object]] = lambda _: nullcontext()
        """What each call is made in, by its name; the benchmark counts and times with it."""

    def call(self, service: str, operation: str, **parameters: object) -> dict[str, Any]:
        """One call.

        Args:
            service: as boto3 names it.
            operation: as boto3 names its method.
            parameters: as AWS names them.

        Raises:
            TargetUnavailableError: AWS does not answer, is busy with the endpoint, or no longer knows us.
            TargetError: it refuses.
        """
        reply = self._call(service, operation, parameters, ())
        assert reply is not None  # noqa: S101 - nothing was excused
        return reply

    def find(self, service: str, operation: str, **parameters: object) -> dict[str, Any] | None:
        """One call about something that may not be there: None where it is not. Raises as `call` does."""
        return self._call(service, operation, parameters, _MISSING)

    def make(self, service: str, operation: str, **parameters: object) -> bool:
        """One call that makes something; whether it was not there yet. Raises as `call` does."""
        return self._call(service, operation, parameters, _EXISTS) is not None

    def invoke(self, **parameters: object) -> tuple[int, bytes]:
        """InvokeEndpoint: what the model answered, also where that is a failure. Raises as `call` does.

        Returns:
            The status and the body.
        """
        client = self._client("sagemaker-runtime")
        try:
            with self.around("invoke_endpoint"):
                return _OK, client.invoke_endpoint(**parameters)["Body"].read()
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") == "ModelError":
                said: Mapping[str, Any] = error.response
                return int(said.get("OriginalStatusCode", 500)), str(said.get("OriginalMessage", "")).encode()
            raise meaning_of(error, "invoke_endpoint") from error
        except BotoCoreError as error:
            raise meaning_of(error, "invoke_endpoint") from error

    def log_tail(self, group: str, prefix: str, lines: int) -> str:
        """The end of the newest of a log group's streams that begin so; empty where nothing can be read."""
        begins = {"logStreamNamePrefix": prefix} if prefix else {}
        listed = self.find("logs", "describe_log_streams", logGroupName=group, **begins) or {"logStreams": []}
        if not listed["logStreams"]:
            return ""
        newest = max(listed["logStreams"], key=lambda stream: stream.get("lastEventTimestamp", 0))["logStreamName"]
        read = self.find("logs", "get_log_events", logGroupName=group, logStreamName=newest, limit=lines)
        return "\n".join(event["message"].rstrip() for event in (read or {}).get("events", []))

    @property
    def region(self) -> str:
        """Where the services are."""
        return str(self._client("sagemaker").meta.region_name)

    def url(self, service: str) -> str:
        """Where a service is."""
        return str(self._client(service).meta.endpoint_url).rstrip("/")

    def pages(self, service: str, operation: str, key: str, **parameters: object) -> Iterator[Any]:
        """What a call lists, over all its pages. Raises as `call` does."""
        pages = self._client(service).get_paginator(operation).paginate(**parameters)
        walk = iter(pages)
        while True:
            try:
                with self.around(operation):
                    page = next(walk, None)
            except (ClientError, BotoCoreError) as error:
                raise meaning_of(error, operation) from error
            if page is None:
                return
            yield from listed(told(page, f"AWS's {operation}"), key, f"AWS's {operation}")

    def _call(
        self, service: str, operation: str, parameters: dict[str, object], excused: tuple[str, ...]
    ) -> dict[str, Any] | None:
        call = getattr(self._client(service), operation)
        try:
            with self.around(operation):
                reply = call(**parameters)
        except (ClientError, BotoCoreError) as error:
            text = str(error).lower()
            if isinstance(error, ClientError) and any(words in text for words in excused):
                return None
            raise meaning_of(error, operation) from error
        return told(reply, f"AWS's {operation}")

    def _client(self, service: str) -> BaseClient:
        # boto3's session may not make two clients at once.
        with self._making:
            if service not in self._clients:
                # Of an answer that did not come, nobody knows whether the model has seen the request.
                config = _ONCE if service == "sagemaker-runtime" else _CONFIG
                try:
                    self._clients[service] = self._session.client(
                        service, region_name=self._region or None, config=config
                    )
                except BotoCoreError as error:
                    raise meaning_of(error, service) from error
                self._clients[service].meta.events.register("before-parse", _see_that_it_is_no_page)
            return self._clients[service]


def _see_that_it_is_no_page(operation_model: OperationModel, response_dict: Mapping[str, Any], **_more: object) -> None:
    """Refuse a page, which botocore would read as an answer in which nothing is said: nothing is listed, no tag is set.

    Raises:
        TargetUnavailableError: something else than AWS answered, with success.
    """
    body, ok = response_dict["body"], response_dict["status_code"] < _FIRST_ERROR
    # What is streamed is a model's answer or a file, which may be a page.
    if ok and isinstance(body, bytes) and _PAGE.match(body):
        raise unreadable(f"AWS's {operation_model.name}", f"{body[:80]!r}")


def meaning_of(error: ClientError | BotoCoreError, operation: str) -> Exception:
    """Our error for one of AWS's.

    Args:
        error: what boto3 raised.
        operation: the call.
    """
    if isinstance(error, NoRegionError):
        return BadInputError("no AWS region is known", fix="set target.region in the release file, or AWS_REGION")
    if isinstance(error, NoCredentialsError):
        return TargetError("no AWS credentials are known", fix="aws configure, or set AWS_PROFILE")
    if isinstance(error, CredentialRetrievalError | TokenRetrievalError):
        return TargetUnavailableError(f"AWS does not know us any more: {error}", fix=RENEW)
    if isinstance(error, HTTPClientError | NotConnectedError | ResponseParserError):
        return TargetUnavailableError(f"AWS does not answer {operation}: {error}", fix="see the network, then go on")
    if not isinstance(error, ClientError):
        return TargetError(f"{operation} cannot be asked: {error}")
    return _meaning_of_answer(error, operation)


def _meaning_of_answer(error: ClientError, operation: str) -> TargetError:
    code = str(error.response.get("Error", {}).get("Code", ""))
    said = str(error.response.get("Error", {}).get("Message", "")) or code
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in _EXPIRED:
        return TargetUnavailableError(f"AWS does not know us any more ({code}): {said}", fix=RENEW)
    if code in _DENIED:
        fix = "give the caller this permission; the whole policy: headgate doctor --policy release.yaml"
        return TargetError(f"AWS does not allow {operation}: {said}", fix=fix)
    if code in _AWAY or status >= 500:  # noqa: PLR2004 - HTTP's server errors
        return TargetUnavailableError(f"AWS does not answer {operation} ({code}): {said}", fix="try again")
    for words, what, fix in _LATER:
        if any(one in said.lower() for one in words):
            return TargetUnavailableError(f"{what}: {said}", fix=fix)
    if code in {"ResourceLimitExceeded", "LimitExceededException"}:
        fix = "ask for more at Service Quotas > Amazon SageMaker, or take another target.instance"
        return TargetError(f"{operation} is beyond a quota of the account: {said}", fix=fix)
    return TargetError(f"AWS refuses {operation} ({code}): {said}")
