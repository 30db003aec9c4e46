"""What an image is made of, as the registries and Docker know it: layers, a configuration and a manifest.

Manifests are Docker's (image manifest version 2, schema 2) and not OCI's, as SageMaker refuses the latter
(aws/amazon-sagemaker-feedback issue 180) and every other platform takes both.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG = "application/vnd.docker.container.image.v1+json"
TAR = "application/vnd.docker.image.rootfs.diff.tar"
TAR_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"

EPOCH = "1970-01-01T00:00:00Z"
"""When every image was made: a time would make the same content another image."""


class Readable(Protocol):
    """Bytes of a known length that can be read again, from any offset."""

    @property
    def size(self) -> int:
        """How many."""
        ...

    def read(self, start: int = 0) -> Iterator[bytes]:
        """They, from an offset on."""
        ...


@dataclass(frozen=True)
class Blob:
    """A layer or a configuration, by its content.

    Attributes:
        digest: sha256 of the bytes that are stored.
        size: how many there are.
        media_type: what they are.
        read: they, from an offset on.
        diff_id: sha256 of the layer's archive before compression; empty for a configuration.
        origin: the repository of the same registry that holds it already, if one does.
    """

    digest: str
    size: int
    media_type: str
    read: Callable[[int], Iterator[bytes]]
    diff_id: str = ""
    origin: str = ""

    @property
    def descriptor(self) -> dict[str, Any]:
        """How a manifest names it."""
        return {"mediaType": self.media_type, "size": self.size, "digest": self.digest}

    @classmethod
    def of(cls, content: bytes, media_type: str) -> Blob:
        """A blob of bytes in memory."""
        return cls(sha256(content), len(content), media_type, lambda start: iter([content[start:]]))


@dataclass(frozen=True)
class Manifest:
    """An image: its configuration and its layers, the lowest first."""

    config: Blob
    layers: tuple[Blob, ...]

    @property
    def content(self) -> bytes:
        """The manifest as a registry stores it."""
        return canonical({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": self.config.descriptor,
            "layers": [layer.descriptor for layer in self.layers],
        })  # fmt: skip

    @property
    def digest(self) -> str:
        """By which a registry knows the image."""
        return sha256(self.content)

    @property
    def image_id(self) -> str:
        """By which a Docker daemon knows the image."""
        return self.config.digest


@dataclass(frozen=True)
class Base:
    """The image that ours stand on.

    Attributes:
        name: as the release file names it.
        id: the digest of its configuration, which tells whether it changed.
        config: its configuration.
        layers: the lowest first.
    """

    name: str
    id: str
    config: Mapping[str, Any]
    layers: tuple[Blob, ...]


def extend(base: Base, layers: Sequence[Blob], settings: Mapping[str, Any]) -> Manifest:
    """An image of a base and layers on top.

    Args:
        base: what to stand on.
        layers: the lowest first.
        settings: entries of the configuration's `config`, which go before those of the base.
    """
    own = {key: value for key, value in (base.config.get("config") or {}).items() if key not in {"Cmd", "Image"}}
    labels = {**(own.get("Labels") or {}), **settings.get("Labels", {})}
    # Of two values of one variable, some runtimes take the first and others the last.
    environment = {one.partition("=")[0]: one for one in (*(own.get("Env") or []), *settings.get("Env", []))}
    whole = (*base.layers, *layers)
    config = {
        "architecture": base.config.get("architecture", "amd64"),
        "os": base.config.get("os", "linux"),
        "created": EPOCH,
        "config": {**own, **settings, "Labels": labels, "Env": list(environment.values())},
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in whole]},
        "history": [{"created": EPOCH, "created_by": "headgate"} for _ in whole],
    }
    return Manifest(Blob.of(canonical(config), CONFIG), whole)


def canonical(content: Any) -> bytes:  # noqa: ANN401 - JSON
    """The same JSON for the same content."""
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def sha256(content: bytes) -> str:
    """A digest as images write it."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
