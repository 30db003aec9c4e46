"""A repository of a registry, over its HTTP API: no daemon, no temporary file, little memory.

Source: OCI distribution specification 1.1.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlencode

import httpx
import tenacity
from docker import auth
from docker.utils import parse_repository_tag

from headgate.errors import ImageRegistryError, ImageRegistryUnavailableError
from headgate.home import write_atomically
from images.login import INSECURE, Login, scheme, trusted
from images.manifest import MANIFEST, Blob, Manifest, sha256
from images.upload import Upload

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ATTEMPTS = 6
_OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_INDEXES = ("application/vnd.docker.distribution.manifest.list.v2+json", "application/vnd.oci.image.index.v1+json")
_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}
_DOCKER_HUB = "registry-1.docker.io"


class TransientError(Exception):
    """The registry may do it when asked again."""


class Repository:
    """One repository.

    Args:
        name: such as registry.example/team/wine; a tag or digest is left aside.
        uploads: a folder for what is known of uploads that were cut short.
        user: who we are there, and the password; default: whom `docker login` says.
    """

    def __init__(self, name: str, uploads: Path, user: tuple[str, str] | None = None) -> None:
        self.name = parse_repository_tag(name)[0]
        self.host, self.path = auth.resolve_repository_name(self.name)
        if self.host == auth.INDEX_NAME and "/" not in self.path:
            self.path = f"library/{self.path}"
        server = _DOCKER_HUB if self.host == auth.INDEX_NAME else self.host
        context = trusted(server)
        self._uploads = uploads
        self._client = httpx.Client(
            base_url=f"{scheme(server, context)}://{server}/v2/", auth=Login(self.host, context, user), verify=context,
            follow_redirects=True, timeout=httpx.Timeout(60, connect=10),
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def manifest(self, reference: str, architecture: str) -> dict[str, Any]:
        """The manifest of a tag or digest, for Linux on an architecture.

        Raises:
            ImageRegistryError: there is none.
        """
        accept = ", ".join((MANIFEST, _OCI_MANIFEST, *_INDEXES))
        reply = self.call("GET", f"{self.path}/manifests/{reference}", headers={"accept": accept})
        content: dict[str, Any] = reply.json()
        if content.get("mediaType", reply.headers.get("content-type")) not in _INDEXES:
            return content
        for entry in content["manifests"]:
            platform = entry.get("platform", {})
            if (platform.get("os"), platform.get("architecture")) == ("linux", architecture):
                return self.manifest(entry["digest"], architecture)
        raise ImageRegistryError(f"{self.name}:{reference} has no image for linux/{architecture}")

    def read(self, digest: str, start: int = 0) -> Iterator[bytes]:
        """A blob's bytes from an offset on."""
        headers = {"range": f"bytes={start}-"} if start else {}
        with self.mapped(), self._client.stream("GET", f"{self.path}/blobs/{digest}", headers=headers) as reply:
            self._check(reply)
            yield from reply.iter_bytes(2**20)

    def has(self, digest: str) -> bool:
        """Whether a blob is there."""
        return self.call("HEAD", f"{self.path}/blobs/{digest}", accept=(404,)).is_success

    def push(self, manifest: Manifest, tag: str) -> str:
        """Upload what is missing, then name it.

        Returns:
            The reference by digest.

        Raises:
            ImageRegistryError: it does not let us.
            ImageRegistryUnavailableError: it does not answer, however often it is asked.
        """
        for blob in (*manifest.layers, manifest.config):
            self.put(blob)
        self.call("PUT", f"{self.path}/manifests/{tag}", content=manifest.content, headers={"content-type": MANIFEST})
        # Nothing is taken on trust: what was named has to be there, by its digest.
        self.call("HEAD", f"{self.path}/manifests/{manifest.digest}", headers={"accept": MANIFEST})
        return f"{self.name}@{manifest.digest}"

    def put(self, blob: Blob) -> None:
        """Make sure that a blob is there: found, mounted from a repository beside this one, or uploaded."""
        if self.has(blob.digest):
            return
        note = self._uploads / f"{sha256(f'{self.host} {blob.digest}'.encode()).removeprefix('sha256:')}.at"
        origin = blob.origin or (note.read_text(encoding="utf-8") if note.exists() else "")
        if not (origin and origin != self.path and self._mount(blob.digest, origin)):
            self.upload(blob, key=blob.digest, digest=blob.digest)
        write_atomically(note, self.path)

    def _mount(self, digest: str, origin: str) -> bool:
        query = urlencode({"mount": digest, "from": origin})
        reply = self.call("POST", f"{self.path}/blobs/uploads/?{query}")
        return reply.status_code == httpx.codes.CREATED

    def upload(self, content: Any, key: str, digest: str = "") -> str:  # noqa: ANN401 - a Readable
        """Upload bytes in one pass, which hashes them too; goes on where an upload of the same was cut short.

        Args:
            content: a `Readable`.
            key: names the content between processes, such as a digest of what it is made of.
            digest: of the bytes, where it is known, which saves hashing them.

        Returns:
            The digest.
        """
        return Upload(self, content, self._uploads, key, digest).run()

    def call(self, method: str, url: str, *, accept: tuple[int, ...] = (), **options: Any) -> httpx.Response:  # noqa: ANN401 - httpx's
        """One request, tried again where that may help.

        Args:
            method: of HTTP.
            url: below /v2/, or absolute.
            accept: statuses of failure that are an answer.
            **options: httpx's.

        Raises:
            ImageRegistryError: it is refused.
            ImageRegistryUnavailableError: it was tried as often as it makes sense.
        """
        with self.mapped():
            for attempt in self.attempts():
                with attempt:
                    return self.ask(method, url, accept=accept, **options)
        raise AssertionError("tenacity raises what the last attempt raised")

    def ask(self, method: str, url: str, *, accept: tuple[int, ...] = (), **options: Any) -> httpx.Response:  # noqa: ANN401 - httpx's
        """One request, once; as `call` otherwise.

        Raises:
            TransientError: or httpx.TransportError: asking again may help.
        """
        reply = self._client.request(method, url, **options)
        if reply.status_code not in accept:
            self._check(reply)
        return reply

    @staticmethod
    def attempts() -> tenacity.Retrying:
        """How often a registry is asked again, and when."""
        return tenacity.Retrying(
            retry=tenacity.retry_if_exception(_may_pass), reraise=True,
            stop=tenacity.stop_after_attempt(ATTEMPTS), wait=tenacity.wait_exponential_jitter(0.2, max=10),
        )  # fmt: skip

    @contextmanager
    def mapped(self) -> Iterator[None]:
        """Turn what is left of errors after all attempts into ours."""
        try:
            yield
        except (TransientError, httpx.TransportError) as error:
            raise ImageRegistryUnavailableError(
                f"{self.name}: the registry {self.host} does not answer: {error or type(error).__name__}",
                fix=f"see whether it is up; if it speaks plain HTTP only, name it in {INSECURE}",
            ) from error

    def _check(self, reply: httpx.Response) -> None:
        if reply.is_success:
            return
        said = f"{reply.status_code} {_said(reply)}"
        if reply.status_code in _TRANSIENT:
            raise TransientError(said)
        fix = {
            401: f"docker login {self.host}", 403: f"give this account the right to push to {self.path}",
            404: "check image.base and image.repository, and that the repository exists",
            413: "raise the size that the proxy before the registry lets through",
        }.get(reply.status_code, "")  # fmt: skip
        raise ImageRegistryError(f"{self.name}: the registry answers {said}", fix=fix)


def _may_pass(error: BaseException) -> bool:
    """A certificate that is not trusted now never will be."""
    broken = isinstance(error, httpx.TransportError) and "CERTIFICATE_VERIFY_FAILED" not in str(error)
    return broken or isinstance(error, TransientError)


def _said(reply: httpx.Response) -> str:
    """A registry's own words."""
    reply.read()
    try:
        errors = json.loads(reply.content)["errors"]
        return "; ".join(f"{error.get('code', '')} {error.get('message', '')}".strip() for error in errors)
    except (ValueError, KeyError, TypeError, AttributeError):
        return reply.reason_phrase
