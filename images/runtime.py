"""The runtime layers: the model's locked requirements, once for each lock, and the server's code.

Requirements are installed on this machine, from whatever index uv is configured with, and packed; nothing is run in a
container and no credential can get into an image. A package without a wheel is built by uv, in an environment of its
own. The code has a layer of its own, so that another version of Headgate sends no packages again.
"""

from __future__ import annotations

import csv
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
from headgate.safe_path import clean
from headgate.safe_path import python as own_python
from images.bundle import code_of
from images.layers import ROOT, Content, Layer
from images.manifest import TAR_GZIP, Blob
from images.requirements import NOTHING, install_into

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from headgate.home import Home
    from images.pip_file import PipFile

_CHUNK = 2**20
_LEVEL = 4
"""Of gzip: half the time of 6, for a layer that is 4 % larger."""

_FORMAT = "3"
"""Changes when the same lock or code shall give another layer."""


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


def packages_layer(home: Home, lock: str, python: str, glibc: str = GLIBC, asked: PipFile = NOTHING) -> Blob:
    """Return the layer of a lock's packages; made once.

    Args:
        home: where layers are kept.
        lock: as `lock_requirements` gives it.
        python: such as 3.11.
        glibc: that its packages need.
        asked: what the lock was made of.

    Raises:
        RequirementsError: a package cannot be had for the image's platform.
    """
    wheels = this_platform(glibc).wheels
    key = hashlib.sha256(f"{_FORMAT}\n{python}\n{wheels}\n{lock}".encode()).hexdigest()
    return _made_once(home, f"runtime-{key[:16]}", lambda folder: _make_packages(folder, lock, python, wheels, asked))


def code_layer(home: Home, python: str, package: str) -> Blob:
    """Return the layer of a package of Headgate's, with its byte code; made once.

    Args:
        home: where layers are kept.
        python: such as 3.11.
        package: in the image it has the last part of its name.
    """
    code, name = code_of(package), package.rpartition(".")[2]
    whole = hashlib.sha256(f"{_FORMAT}\n{python}\n{name}\n".encode())
    for file, path in code.items():
        whole.update(file.encode() + b"\0" + path.read_bytes())
    return _made_once(home, f"code-{whole.hexdigest()[:16]}", lambda folder: _make_code(folder, code, name, python))


def _made_once(home: Home, name: str, make: Callable[[Path], None]) -> Blob:
    """Return a stored layer; `make` is given its folder where it is not there yet."""
    folder = home.layers / name
    with FileLock(home.layers / f".{name}.lock"):
        if not (folder / "layer.json").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
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


def _make_packages(folder: Path, lock: str, python: str, wheels: str, asked: PipFile) -> None:
    site = folder / "site"
    try:
        install_into(site, lock, python, wheels, asked)
        _without_starters(site)
        _pack(site, f"{ROOT}/lib/python{python}/site-packages", python, folder)
    finally:
        shutil.rmtree(site, ignore_errors=True)


def _make_code(folder: Path, sources: dict[str, Path], name: str, python: str) -> None:
    code = folder / name
    try:
        code.mkdir()
        for file, path in sources.items():
            shutil.copyfile(path, code / file)
        _pack(code, f"{ROOT}/{name}", python, folder)
    finally:
        shutil.rmtree(code, ignore_errors=True)


def _pack(content: Path, inside: str, python: str, folder: Path) -> None:
    """Compile a folder, and keep it as the layer that has it at the path `inside`."""
    _compile(content, f"/{inside}", python)
    files = {f"{inside}/{name}": path for name, path in _tree(content).items()}
    contents = {name: Content(path, 0o755 if os.access(path, os.X_OK) else 0o644) for name, path in files.items()}
    keep(Layer(contents).read(), folder)


_STARTERS = ("*.pth", "sitecustomize.py", "usercustomize.py")
"""Files at the top of the packages' folder that run in every Python process before anything else."""


def _without_starters(site: Path) -> None:
    """Leave out what would run at each start of Python, and refuse programs that no package lists.

    A `.pth` file of a wheel serves tools for development (setuptools' `distutils-precedence.pth`) or runs code.

    Raises:
        PackageError: an executable file is in no package's RECORD.
    """
    for path in [path for pattern in _STARTERS for path in site.glob(pattern)]:
        path.unlink()
    listed: set[str] = set()
    for record in site.glob("*.dist-info/RECORD"):
        with record.open(encoding="utf-8", newline="") as file:
            listed |= {os.path.normpath(row[0]) for row in csv.reader(file) if row}
    for name, path in _tree(site).items():
        # Scripts are listed as ../../bin/name, wherever the installer put them.
        if os.access(path, os.X_OK) and name not in listed and not any(one.endswith(f"../{name}") for one in listed):
            raise PackageError(
                f"requirements: {name} is an executable that no installed package lists",
                fix="find the package that wrote it while it was built, and require a wheel of it",
            )


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
        command = own_python(
            "compileall", "-q", "-s", str(folder), "-p", inside, "--invalidation-mode", "unchecked-hash",
            "-i", str(listing),
        )  # fmt: skip
        # Packages ship files that do not compile, such as templates; they are left as they are.
        env = {**clean(), "PYTHONHASHSEED": "0"}
        compiling.append(
            (subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env), listing)
        )
    for process, listing in compiling:
        process.wait()
        listing.unlink()


def _tree(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if not path.is_dir()}
