"""From a model to one image that every platform takes: base, runtime layers, model layers.

Nothing is built in a container: layers are packed on this machine, which needs no network and gives the same digest for
the same inputs. Into a daemon goes what it lacks; into a registry too, over its API and in one pass.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headgate.errors import ImageError
from headgate.home import write_atomically
from headgate.records import Image
from images.base import base_for_registry, base_in_daemon
from images.bundle import SERVER, digest_of, keep_files, model_files
from images.daemon import OURS, Daemon
from images.layers import LARGE_BYTES, ROOT, Layer, split_large
from images.manifest import TAR, Base, Blob, Manifest, canonical, extend, sha256
from images.pip_file import PipFile
from images.repository import Repository
from images.requirements import lock_requirements
from images.runtime import code_layer, packages_layer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headgate.home import Home
    from headgate.records import Artifact
    from headgate.spec import ImageSettings

BASE = "HEADGATE_BASE_IMAGE"
"""Names the base image where the release file does not."""

PORT = 8080
USER = "65532:65532"
LOCAL_NAME = "headgate"

RUNS: dict[str, Any] = {
    "WorkingDir": f"/{ROOT}",
    "User": USER,
    "Env": [
        f"PYTHONUSERBASE=/{ROOT}",
        "PYTHONDONTWRITEBYTECODE=1",
        "PYTHONUNBUFFERED=1",
        "HOME=/tmp",
        # `-m` finds the program in the working folder; a base may have set this.
        "PYTHONSAFEPATH=",
    ],
    "StopSignal": "SIGTERM",
}
"""How every image of ours runs: not as root, and without writing anything."""

_SECOND = 1_000_000_000


def build_container(
    home: Home, artifact: Artifact, model: str, settings: ImageSettings, user: tuple[str, str] | None = None
) -> Image:
    """Make the image of a model where it is not there yet.

    Args:
        home: where layers are kept.
        artifact: the model.
        model: its registered name.
        settings: the base, and the repository that it is pushed to; without one, it is for this machine's daemon.
        user: who we are in that repository, and the password; default: whom `docker login` says.

    Raises:
        PackageError: the requirements cannot be had; no daemon, no base, or a registry that refuses.
    """
    asked = PipFile(artifact.requirements, artifact.path)
    lock = lock_requirements(home, asked, artifact.python)
    files = model_files(artifact.path)
    parts = Parts(
        base=base_for(settings.base, artifact.python), python=artifact.python,
        runtime=(packages_layer(home, lock, artifact.python, asked=asked), code_layer(home, artifact.python, SERVER)),
        layers=split_large(files, f"{ROOT}/model"), config=_config(artifact, lock, model),
    )  # fmt: skip
    digest, reference = store(home, parts, settings.repository, user)
    sizes = {name: path.stat().st_size for name, path in files.items()}
    # Weights are in the image; what steps to come read here, such as input examples, is small.
    kept = files if artifact.is_download else {name: files[name] for name, size in sizes.items() if size < LARGE_BYTES}
    named = {f"model/{name}": path for name, path in kept.items()}
    folder = keep_files(home, digest.removeprefix("sha256:"), named, lock, own=artifact.is_download)
    return Image(
        digest=digest, lock_digest=digest_of(lock), path=folder, interpreter=None, size=sum(sizes.values()),
        reference=reference, server=SERVER,
    )  # fmt: skip


def base_for(named: str, python: str) -> str:
    """The base image: that of the release file, that of HEADGATE_BASE_IMAGE, or Docker's own for that Python."""
    return named or os.environ.get(BASE) or f"python:{python}-slim"


def store(home: Home, parts: Parts, repository: str, user: tuple[str, str] | None) -> tuple[str, str]:
    """The digest of an image that is in a registry now, or else in this machine's daemon, and how it is run by it."""
    return _to_registry(home, parts, repository, user) if repository else _to_daemon(home, parts)


@dataclass(frozen=True)
class Parts:
    """What an image is made of, on a base for a Python."""

    base: str
    python: str
    runtime: Sequence[Blob]
    layers: Sequence[Layer]
    config: dict[str, Any]


def _to_daemon(home: Home, parts: Parts) -> tuple[str, str]:
    """The image's id, which is how this daemon runs it too."""
    with Daemon() as daemon:
        base = base_in_daemon(daemon, parts.base, parts.python, home)
        manifest = _assemble(base, parts, [_blob(layer, layer.digest) for layer in parts.layers])
        digest = manifest.image_id
        daemon.load(manifest, base, f"{LOCAL_NAME}:{digest.removeprefix('sha256:')[:12]}", home)
        return digest, digest


def _to_registry(home: Home, parts: Parts, name: str, user: tuple[str, str] | None) -> tuple[str, str]:
    """The manifest's digest, and the image's name by it."""
    with Repository(name, home.uploads, user) as repository:
        base = base_for_registry(parts.base, parts.python, repository, home)
        blobs = [_blob(layer, _sent(home, repository, layer)) for layer in parts.layers]
        manifest = _assemble(base, parts, blobs)
        reference = repository.push(manifest, manifest.digest.removeprefix("sha256:")[:12])
        return manifest.digest, reference


def _sent(home: Home, repository: Repository, layer: Layer) -> str:
    """The digest of a layer that is in the registry now; files that did not change are not read again."""
    key = _key(layer)
    known = home.layers / f"{key}.digest"
    if known.exists():
        digest = known.read_text(encoding="utf-8")
        if not repository.has(digest):
            repository.upload(layer, key, digest)
        return digest
    digest = repository.upload(layer, key)
    if _key(layer) != key:
        raise ImageError("artifact: the model was changed while it was uploaded", fix="release again")
    write_atomically(known, digest)
    return digest


def _key(layer: Layer) -> str:
    """Changes with a layer's files, as far as the file system tells."""
    facts = []
    for name, content in sorted(layer.files.items()):
        assert not isinstance(content.source, bytes)  # noqa: S101 - a model's files are files
        status = content.source.stat()
        facts.append([name, str(content.source), status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino])
    return sha256(canonical(facts)).removeprefix("sha256:")


def _assemble(base: Base, parts: Parts, model: Sequence[Blob]) -> Manifest:
    # The largest files are the lowest layers: what changes more often stands on what changes less.
    labels = {**parts.config["Labels"], "org.opencontainers.image.base.name": base.name,
              "org.opencontainers.image.base.digest": base.id}  # fmt: skip
    return extend(base, [*parts.runtime, *model], {**parts.config, "Labels": labels})


def _blob(layer: Layer, digest: str) -> Blob:
    return Blob(digest, layer.size, TAR, layer.read, digest)


def _config(artifact: Artifact, lock: str, model: str) -> dict[str, Any]:
    """How a model's image runs: on the port that SageMaker fixes."""
    labels = {
        OURS: digest_of(lock), "org.opencontainers.image.title": model,
        "org.opencontainers.image.revision": artifact.run_id,
        # A folder's path says nothing anywhere else.
        "org.opencontainers.image.source": artifact.uri if ":/" in artifact.uri else "",
    }  # fmt: skip
    return {
        "Labels": {name: value for name, value in labels.items() if value},
        **RUNS,
        "Entrypoint": ["python3", "-m", SERVER],
        "ExposedPorts": {f"{PORT}/tcp": {}},
        # Docker's own, which OCI leaves out; other platforms have probes.
        "Healthcheck": {
            "Test": ["CMD", "python3", "-m", f"{SERVER}.health"],
            "Interval": 10 * _SECOND, "Timeout": 5 * _SECOND, "StartPeriod": 300 * _SECOND, "Retries": 3,
        },
    }  # fmt: skip
