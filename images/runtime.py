"""The runtime layer: the model's locked requirements and the server, once for each lock.

It is installed on this machine, from whatever index uv is configured with, and packed; nothing is run in a container
and no credential can get into an image. A package without a wheel is built by uv in an environment of its own.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from filelock import FileLock

from headgate.errors import PackageError
from headgate.home import write_atomically
from images.bundle import code_of
from images.layers import ROOT, Content, Layer
from images.manifest import TAR_GZIP, Blob
from images.requirements import install_into

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from headgate.home import Home

_CHUNK = 2**20
_LEVEL = 4
"""Of gzip: half the time of 6, for a layer that is 4 % larger."""

_FORMAT = "1"
"""Changes when the same lock shall give another layer."""


_COMPILERS = 4


@dataclass(frozen=True)
class Platform:
    """What an image runs on.

    Attributes:
        architecture: as images name it.
        wheels: as uv names it; images have at least this C library.
    """

    architecture: str
    wheels: str


PLATFORMS = {
    "x86_64": Platform("amd64", "x86_64-manylinux"),
    "aarch64": Platform("arm64", "aarch64-manylinux"),
    "arm64": Platform("arm64", "aarch64-manylinux"),
}
GLIBC = "2_28"
"""The C library that images of models have at least."""


def this_platform(glibc: str = GLIBC) -> Platform:
    """Linux on this machine's processor, with at least this C library."""
    machine = os.uname().machine
    if machine not in PLATFORMS:
        raise PackageError(f"images cannot be made on {machine}", fix=f"use one of {', '.join(PLATFORMS)}")
    found = PLATFORMS[machine]
    return Platform(found.architecture, f"{found.wheels}_{glibc}")


def runtime_layer(home: Home, lock: str, python: str, package: str = "serving", glibc: str = GLIBC) -> Blob:
    """The layer of a lock and of what runs on it; made once.

    Args:
        home: where layers are kept.
        lock: as `lock_requirements` gives it.
        python: such as 3.11.
        package: of ours; in the image it has the last part of its name.
        glibc: that its packages need.

    Raises:
        RequirementsError: a package cannot be had for the image's platform.
    """
    code = code_of(package)
    wheels = this_platform(glibc).wheels
    whole = hashlib.sha256(f"{_FORMAT}\n{python}\n{wheels}\n{lock}".encode())
    for name, path in code.items():
        whole.update(name.encode() + b"\0" + path.read_bytes())
    folder = home.layers / f"runtime-{whole.hexdigest()[:16]}"
    with FileLock(home.layers / f".{folder.name}.lock"):
        if not (folder / "layer.json").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            _make(folder, (lock, python, wheels), package.rpartition(".")[2], code)
    return stored(folder)


def stored(folder: Path) -> Blob:
    """A compressed layer that was kept in a folder by `keep`."""
    facts = json.loads((folder / "layer.json").read_text(encoding="utf-8"))
    file = folder / "layer.tar.gz"
    return Blob(facts["digest"], facts["size"], TAR_GZIP, lambda start: read_file(file, start), facts["diff_id"])


def keep(archive: Iterator[bytes], folder: Path) -> Blob:
    """Compress a layer's archive into a folder, with its digests."""
    plain, packed = hashlib.sha256(), hashlib.sha256()
    file = folder / "layer.tar.gz"
    try:
        with file.open("wb") as target, gzip.GzipFile("", "wb", _LEVEL, target, mtime=0) as zipped:
            for chunk in archive:
                plain.update(chunk)
                zipped.write(chunk)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise PackageError(f"image: {file} cannot be written: {error.strerror}", fix="make room on the disk") from error
    for chunk in read_file(file):
        packed.update(chunk)
    facts = {
        "digest": f"sha256:{packed.hexdigest()}", "size": file.stat().st_size, "diff_id": f"sha256:{plain.hexdigest()}",
    }  # fmt: skip
    write_atomically(folder / "layer.json", json.dumps(facts))
    return stored(folder)


def read_file(path: Path, start: int = 0) -> Iterator[bytes]:
    """A file's bytes from an offset on, a mebibyte at a time."""
    with path.open("rb") as file:
        file.seek(start)
        while chunk := file.read(_CHUNK):
            yield chunk


def _make(folder: Path, wanted: tuple[str, str, str], package: str, sources: dict[str, Path]) -> None:
    site, code, python = folder / "site", folder / package, wanted[1]
    try:
        install_into(site, *wanted)
        code.mkdir()
        for name, path in sources.items():
            shutil.copyfile(path, code / name)
        inside = f"{ROOT}/lib/python{python}/site-packages"
        _compile(site, f"/{inside}", python)
        _compile(code, f"/{ROOT}/{package}", python)
        files = {f"{inside}/{name}": path for name, path in _tree(site).items()}
        files |= {f"{ROOT}/{package}/{name}": path for name, path in _tree(code).items()}
        contents = {name: Content(path, 0o755 if os.access(path, os.X_OK) else 0o644) for name, path in files.items()}
        keep(Layer(contents).read(), folder)
    finally:
        shutil.rmtree(site, ignore_errors=True)
        shutil.rmtree(code, ignore_errors=True)


def _compile(folder: Path, inside: str, python: str) -> None:
    """Byte code beside the source, as a read-only image can never write it; the same bytes for the same source.

    Byte code depends a little on what its process compiled before (marshal marks what is referred to more than once),
    so which process compiles what is fixed, and not left to whichever is free.
    """
    if python != f"{sys.version_info.major}.{sys.version_info.minor}":
        return
    sources = sorted(folder.rglob("*.py"))
    compiling = []
    for part in range(_COMPILERS):
        listing = folder.with_suffix(f".{part}")
        listing.write_text("\n".join(map(str, sources[part::_COMPILERS])), encoding="utf-8")
        command = [
            sys.executable, "-m", "compileall", "-q", "-s", str(folder), "-p", inside,
            "--invalidation-mode", "unchecked-hash", "-i", str(listing),
        ]  # fmt: skip
        # Packages ship files that do not compile, such as templates; they are left as they are.
        env = {**os.environ, "PYTHONHASHSEED": "0"}
        compiling.append(
            (subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env), listing)
        )
    for process, listing in compiling:
        process.wait()
        listing.unlink()


def _tree(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if not path.is_dir()}
