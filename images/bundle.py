"""The bundle: everything that an image holds, in one folder named by the digest of its content.

model/               the model's files
headgate_server/     the server
requirements.lock    exact versions with hashes, the model's and the server's
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from headgate.errors import ArtifactError, PackageError
from headgate.records import Artifact, Image
from headgate.safe_path import ROOT
from images.pip_file import PipFile
from images.requirements import ensure_environment, lock_requirements

if TYPE_CHECKING:
    from headgate.home import Home

SERVER = "headgate_server"
"""The package that serves a model; a model's own code cannot have a module of that name."""
SERVER_CODE = "HEADGATE_SERVER_CODE"
_CHUNK = 2**20


def build_image(home: Home, artifact: Artifact) -> Image:
    """Bundle a model with its server, once per content, and prepare its environment.

    Raises:
        PackageError: a file cannot be read, or the requirements cannot be had.
    """
    asked = PipFile(artifact.requirements, artifact.path)
    lock = lock_requirements(home, asked, artifact.python)
    interpreter = ensure_environment(home, lock, artifact.python, asked)
    model = model_files(artifact.path)
    files = {f"model/{name}": path for name, path in model.items()}
    files |= {f"{SERVER}/{name}": path for name, path in server_files().items()}
    digest = _digest(files, lock)
    folder = keep_files(home, digest, files, lock, own=artifact.is_download)
    size = sum(path.stat().st_size for path in model.values())
    return Image(
        digest=f"sha256:{digest}", lock_digest=digest_of(lock), path=folder, interpreter=interpreter, size=size,
        server=SERVER,
    )  # fmt: skip


def digest_of(lock: str) -> str:
    """What a lock is known by."""
    return f"sha256:{hashlib.sha256(lock.encode()).hexdigest()}"


def keep_files(home: Home, digest: str, files: dict[str, Path], lock: str, *, own: bool) -> Path:
    """The folder of a bundle; made once.

    Args:
        home: where it is.
        digest: what it is known by, in hexadecimal.
        files: by their name in it.
        lock: the requirements.
        own: the files are ours, and need no copy.
    """
    folder = home.bundles / digest
    building = home.bundles / f".{digest}.building"
    with FileLock(home.bundles / f".{digest}.lock"):
        if folder.exists():
            return folder
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir()
        try:
            for name, path in files.items():
                destination = building / name
                destination.parent.mkdir(parents=True, exist_ok=True)
                if own and name.startswith("model/"):
                    destination.hardlink_to(path)
                else:
                    shutil.copyfile(path, destination)
            (building / "requirements.lock").write_text(lock, encoding="utf-8")
            building.rename(folder)
        except OSError as error:
            shutil.rmtree(building, ignore_errors=True)
            raise PackageError(f"image: {folder} cannot be written: {error.strerror}", fix="make room") from error
    return folder


def model_files(folder: Path) -> dict[str, Path]:
    """A model's files by relative name, in a stable order; links are followed within the folder.

    Raises:
        ArtifactError: a link leads out of the folder, to a folder, or nowhere; or there is no file.
    """
    inside = folder.resolve()
    for path in folder.rglob("*"):
        if path.is_symlink() and not (path.resolve().is_relative_to(inside) and path.is_file()):
            raise ArtifactError(
                f"artifact: {path.relative_to(folder)} is a link to {path.readlink()}, which is no file in the "
                "model's folder", fix="put the file itself there, and log the model again",
            )  # fmt: skip
    return {name: path.resolve() for name, path in _files(folder).items()}


def server_files() -> dict[str, Path]:
    """The server's code; see `code_of`."""
    return code_of(SERVER)


def code_of(package: str) -> dict[str, Path]:
    """A package's code by relative name, in a stable order.

    HEADGATE_SERVER_CODE names a folder whose `headgate_server` is taken in place of Headgate's; the tests use it.

    Raises:
        ArtifactError: the installation is broken.
    """
    root = Path(os.environ.get(SERVER_CODE) or ROOT) if package == SERVER else ROOT
    found = _files(root.joinpath(*package.split(".")), "*.py")
    if "__init__.py" not in found:
        raise ArtifactError(f"the package {package} is not in {root}", fix="install Headgate again: docs/install.md")
    return found


def _files(folder: Path, pattern: str = "*") -> dict[str, Path]:
    """Every file below a folder by its relative name, in a stable order."""
    found = {
        path.relative_to(folder).as_posix(): path
        for path in folder.rglob(pattern)
        if path.is_file() and "__pycache__" not in path.parts
    }
    return dict(sorted(found.items()))


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
