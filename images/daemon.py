"""The Docker daemon as a maker of images needs it: what it has, and putting an image into it."""

from __future__ import annotations

import json
import tarfile
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

import docker
import requests
from docker.errors import APIError, DockerException, ImageNotFound, NotFound

from headgate.errors import ImageError
from images.manifest import TAR, Base, Blob, Manifest
from images.runtime import keep, stored

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from headgate.home import Home

OURS = "io.headgate.lock"
"""The label that every image of ours has."""

_MISSING = ("no such file", "not found")
"""How a daemon says that it wants a layer that was left out."""

_API_SECONDS = 600
_CHUNK = 2**20


class Daemon:
    """A connection to the daemon that DOCKER_HOST names, or to this machine's.

    Raises:
        ImageError: none answers.
    """

    def __init__(self) -> None:
        try:
            self.client = docker.from_env(timeout=_API_SECONDS)
            self.client.ping()
        except (DockerException, requests.RequestException) as error:
            raise ImageError(
                f"no Docker daemon answers: {error}", fix="start Docker, or set DOCKER_HOST to a daemon that runs"
            ) from error
        self._api = self.client.api

    @staticmethod
    def answers() -> bool:
        """Whether there is one at all."""
        try:
            Daemon().client.close()
        except ImageError:
            return False
        return True

    def __enter__(self) -> Daemon:  # noqa: PYI034 - not subclassed
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def base(self, name: str, *, pull: bool) -> Base | None:
        """An image to stand on; None where the daemon does not have it and `pull` is false."""
        try:
            found = self._api.inspect_image(name)
        except ImageNotFound:
            if not pull:
                return None
            try:
                self.client.images.pull(name)
                found = self._api.inspect_image(name)
            except DockerException as error:
                raise ImageError(
                    f"image.base: {name} cannot be pulled: {_reason(error)}",
                    fix="name another with image.base or HEADGATE_BASE_IMAGE; `docker images` lists what is here",
                ) from error
        layers = tuple(_not_to_be_read(diff_id) for diff_id in found["RootFS"]["Layers"])
        config = {"architecture": found["Architecture"], "os": found["Os"], "config": found["Config"]}
        return Base(name, found["Id"], config, layers)

    def python_of(self, base: Base) -> str:
        """Which Python a base has, such as 3.11.

        Raises:
            ImageError: it has none.
        """
        code = "import sys; print(*sys.version_info[:2], sep='.')"
        try:
            said = self.client.containers.run(
                base.id, ["python3", "-I", "-c", code], entrypoint="", remove=True, network_disabled=True
            )
        except DockerException as error:
            raise ImageError(
                f"image.base: {base.name} has no python3: {_reason(error)}", fix="name one that has: python:3.11-slim"
            ) from error
        return str(said.decode().strip())

    def layers_of(self, base: Base, home: Home) -> tuple[Blob, ...]:
        """A base's layers with their bytes, compressed; kept, as the daemon gives them only all together."""
        wanted = [layer.diff_id for layer in base.layers]
        folders = {diff_id: home.layers / f"base-{diff_id.removeprefix('sha256:')[:16]}" for diff_id in wanted}
        if not all((folder / "layer.json").exists() for folder in folders.values()):
            with self._mapped(f"{base.name} cannot be read from the daemon"):
                self._export(base, home, folders)
        return tuple(stored(folders[diff_id]) for diff_id in wanted)

    def has(self, reference: str) -> bool:
        """Whether the daemon has an image."""
        try:
            self._api.inspect_image(reference)
        except ImageNotFound:
            return False
        return True

    def load(self, manifest: Manifest, base: Base, tag: str, home: Home) -> None:
        """Put an image into the daemon, without the layers that it has."""
        if not self.has(manifest.image_id):
            known = self._known(manifest)
            try:
                self._send(manifest, tag, set(range(known)))
            except ImageError as error:
                if not any(sign in error.message for sign in _MISSING):
                    raise
                # A daemon with another store wants them all.
                layers = (*self.layers_of(base, home), *manifest.layers[len(base.layers) :])
                self._send(Manifest(manifest.config, layers), tag, set())
        with self._mapped("the image cannot be named"):
            repository, _, name = tag.rpartition(":")
            self._api.tag(manifest.image_id, repository, name)

    def remove(self, reference: str) -> None:
        """Remove an image that nothing uses."""
        try:
            self._api.remove_image(reference, force=False)
        except NotFound:
            return
        except APIError as error:
            raise ImageError(f"{reference} cannot be removed: {_reason(error)}") from error

    def _known(self, manifest: Manifest) -> int:
        """How many of the lowest layers an image of this daemon has in the same order."""
        wanted = [layer.diff_id for layer in manifest.layers]
        most = 0
        for summary in self._api.images(all=True):
            try:
                has = self._api.inspect_image(summary["Id"])["RootFS"].get("Layers") or []
            except ImageNotFound:
                continue
            same = next((n for n, (one, other) in enumerate(zip(wanted, has, strict=False)) if one != other), None)
            most = max(most, min(len(wanted), len(has)) if same is None else same)
        return most

    def _send(self, manifest: Manifest, tag: str, left_out: set[int]) -> None:
        with self._mapped("the image cannot be loaded into the daemon"):
            for line in self._api.load_image(_archive(manifest, tag, left_out)):
                if "error" in line:
                    raise ImageError(
                        f"the daemon cannot load the image: {line['error']}", fix="docker system df; docker image prune"
                    )

    def _export(self, base: Base, home: Home, folders: dict[str, Path]) -> None:
        with tempfile.TemporaryFile(dir=home.root) as file:
            for chunk in self._api.get_image(base.id):
                file.write(chunk)
            file.seek(0)
            with tarfile.open(fileobj=file) as archive:
                content = json.load(archive.extractfile("manifest.json"))[0]["Layers"]  # type: ignore[arg-type]
                for name, folder in zip(content, folders.values(), strict=True):
                    folder.mkdir(exist_ok=True)
                    layer = archive.extractfile(name)
                    assert layer is not None  # noqa: S101 - manifest.json names it
                    keep(iter(lambda layer=layer: layer.read(_CHUNK), b""), folder)  # type: ignore[misc]

    @staticmethod
    @contextmanager
    def _mapped(failed: str) -> Iterator[None]:
        try:
            yield
        except (DockerException, requests.RequestException) as error:
            raise ImageError(f"{failed}: {_reason(error)}", fix="docker info; docker system df") from error


def _archive(manifest: Manifest, tag: str, left_out: set[int]) -> Iterator[bytes]:
    """What `docker load` reads. Source: moby, image/spec/v1.2.md; a layer that it has, it does not open."""
    config = manifest.config.digest.removeprefix("sha256:")
    names = [f"{layer.diff_id.removeprefix('sha256:')}/layer.tar" for layer in manifest.layers]
    listing = json.dumps([{"Config": f"{config}.json", "RepoTags": [tag], "Layers": names}]).encode()
    settings = b"".join(manifest.config.read(0))
    parts: list[tuple[str, int, Iterator[bytes]]] = [
        ("manifest.json", len(listing), iter([listing])), (f"{config}.json", len(settings), iter([settings])),
    ]  # fmt: skip
    for place, (name, layer) in enumerate(zip(names, manifest.layers, strict=True)):
        if place not in left_out:
            parts.append((name, layer.size, layer.read(0)))
    for name, size, content in parts:
        info = tarfile.TarInfo(name)
        info.size = size
        yield info.tobuf(tarfile.PAX_FORMAT)
        yield from content
        yield bytes(-size % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _not_to_be_read(diff_id: str) -> Blob:
    def refuse(_start: int) -> Iterator[bytes]:
        raise ImageError(f"layer {diff_id} is in the daemon only")

    return Blob(diff_id, 0, TAR, refuse, diff_id)


def _reason(error: Exception) -> str:
    """What the daemon said, without the request around it."""
    return str(getattr(error, "explanation", None) or getattr(error, "stderr", None) or error)
