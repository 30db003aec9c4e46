"""The bundle: everything that an image holds, in one folder named by the digest of its content.

model/               the model's files
serving/             the server
requirements.lock    exact versions with hashes, the model's and the server's
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from headgate.errors import ArtifactError
from headgate.records import Artifact, Image
from images.requirements import ensure_environment, lock_requirements

if TYPE_CHECKING:
    from headgate.home import Home

_CHUNK = 2**20


def build_image(home: Home, artifact: Artifact) -> Image:
    """Bundle a model with its server, once per content, and prepare its environment.

    Raises:
        PackageError: a file cannot be read, or the requirements cannot be had.
    """
    lock = lock_requirements(home, artifact.requirements, artifact.python)
    interpreter = ensure_environment(home, lock, artifact.python)
    files = {f"model/{name}": path for name, path in _files(artifact.path).items()}
    size = sum(path.stat().st_size for path in files.values())
    files |= {f"serving/{name}": path for name, path in _files(_server_folder(), "*.py").items()}
    digest = _digest(files, lock)
    folder = home.bundles / digest
    with FileLock(home.bundles / f".{digest}.lock"):
        if not folder.exists():
            _copy(files, lock, home.bundles / f".{digest}.building", folder)
    return Image(
        digest=f"sha256:{digest}",
        lock_digest=f"sha256:{hashlib.sha256(lock.encode()).hexdigest()}",
        path=folder,
        interpreter=interpreter,
        size=size,
    )


def _copy(files: dict[str, Path], lock: str, building: Path, folder: Path) -> None:
    shutil.rmtree(building, ignore_errors=True)
    for name, path in files.items():
        destination = building / name
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, destination)
    (building / "requirements.lock").write_text(lock, encoding="utf-8")
    building.rename(folder)


def _files(folder: Path, pattern: str = "*") -> dict[str, Path]:
    """Every file below a folder by its relative name, in a stable order."""
    found = {
        path.relative_to(folder).as_posix(): path
        for path in folder.rglob(pattern)
        if path.is_file() and "__pycache__" not in path.parts
    }
    return dict(sorted(found.items()))


def _server_folder() -> Path:
    spec = importlib.util.find_spec("serving")
    if spec is None or spec.origin is None:
        raise ArtifactError("the server's package is not installed", fix="pip install --force-reinstall headgate")
    return Path(spec.origin).parent


def _digest(files: dict[str, Path], lock: str) -> str:
    """sha256 over names and contents."""
    whole = hashlib.sha256(lock.encode())
    for name, path in files.items():
        content = hashlib.sha256()
        try:
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    content.update(chunk)
        except OSError as error:
            raise ArtifactError(f"artifact: {path} cannot be read: {os.strerror(error.errno or 0)}") from error
        whole.update(f"{name}\0{content.hexdigest()}\n".encode())
    return whole.hexdigest()
