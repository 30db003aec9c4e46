"""The image that ours stand on: from this machine's daemon where it has it, else from its own registry."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from docker.utils import parse_repository_tag

from headgate.errors import ImageError
from headgate.home import write_atomically
from images.daemon import Daemon
from images.manifest import Base, Blob
from images.repository import Repository
from images.runtime import this_platform

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headgate.home import Home

_DOCKER_TYPES = {
    "application/vnd.oci.image.layer.v1.tar": "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip": "application/vnd.docker.image.rootfs.diff.tar.gzip",
}
"""The same bytes by Docker's names."""


def base_in_daemon(daemon: Daemon, name: str, python: str, home: Home) -> Base:
    """A base for an image of this daemon; pulled where it is not there.

    Raises:
        ImageError: it cannot be pulled, or has another Python than the model.
    """
    base = daemon.base(name, pull=True)
    assert base is not None  # noqa: S101 - it is pulled, or that failed
    _check_python_in(daemon, base, python, home)
    return base


def base_for_registry(name: str, python: str, into: Repository, home: Home) -> Base:
    """A base with its bytes, for an image of a registry; no daemon is needed where the base is in a registry too.

    Raises:
        ImageError: it is nowhere, or has another Python than the model.
    """
    base = _base_here(name, python, home)
    if base is not None:
        return base
    repository, tag = parse_repository_tag(name)
    source = Repository(repository, home.uploads)
    manifest = source.manifest(tag or "latest", this_platform().architecture)
    config = json.loads(b"".join(source.read(manifest["config"]["digest"])))
    environment = dict(entry.partition("=")[::2] for entry in config.get("config", {}).get("Env") or [])
    # The official images say which Python they have.
    if "PYTHON_VERSION" in environment:
        _check_version(name, ".".join(environment["PYTHON_VERSION"].split(".")[:2]), python)
    blobs = []
    for entry, diff_id in zip(manifest["layers"], config["rootfs"]["diff_ids"], strict=True):

        def read(start: int, digest: str = entry["digest"]) -> Iterator[bytes]:
            return source.read(digest, start)

        kind = _DOCKER_TYPES.get(entry["mediaType"], entry["mediaType"])
        origin = source.path if source.host == into.host else ""
        blobs.append(Blob(entry["digest"], entry["size"], kind, read, diff_id, origin))
    return Base(name, manifest["config"]["digest"], config, tuple(blobs))


def _base_here(name: str, python: str, home: Home) -> Base | None:
    """The base from this machine's daemon, if there is one that has it."""
    if not Daemon.answers():
        return None
    with Daemon() as daemon:
        base = daemon.base(name, pull=False)
        if base is None:
            return None
        _check_python_in(daemon, base, python, home)
        return Base(base.name, base.id, base.config, daemon.layers_of(base, home))


def _check_python_in(daemon: Daemon, base: Base, python: str, home: Home) -> None:
    known = home.layers / f"{base.id.removeprefix('sha256:')}.python"
    if not known.exists():
        write_atomically(known, daemon.python_of(base))
    _check_version(base.name, known.read_text(encoding="utf-8"), python)


def _check_version(name: str, has: str, python: str) -> None:
    if has != python:
        raise ImageError(
            f"image.base: {name} has Python {has}, and the model was trained with {python}",
            fix=f"name a base with Python {python}, such as python:{python}-slim",
        )
