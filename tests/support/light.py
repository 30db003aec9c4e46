"""Serves models of behaviour.py with support/light_server.py where a test is not about the server.

The code that goes into bundles and images is that of `serving/` with another `__main__`. Processes that a test starts
find it by PYTHONPATH. `@pytest.mark.real_server` leaves a test, or a file, the server itself.
"""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

import images.bundle
import images.runtime

if TYPE_CHECKING:
    from collections.abc import Iterator

MARKER = "real_server"
FOLDERS = ("tests/flows/", "tests/contract/", "tests/cli/")
"""Whose tests are not about the server."""

_SERVER = Path(__file__).with_name("light_server.py")
_REAL = images.bundle.code_of
_PATHS = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]


def code(folder: Path) -> Path:
    """Return a folder for PYTHONPATH with the package; made by the first process that asks."""
    with FileLock(folder / ".lock"):
        if not (package := folder / "serving").exists():
            making = folder / "making"
            making.mkdir()
            for name, path in _REAL("serving").items():
                shutil.copyfile(path, making / name)
            (making / "__main__.py").rename(making / "whole.py")
            shutil.copyfile(_SERVER, making / "__main__.py")
            making.rename(package)
    return folder


def use(folder: Path | None) -> None:
    """Release models with the package in this folder from now on; with the real one where it is None."""
    for module in (images.bundle, images.runtime):
        module.code_of = _REAL if folder is None else lambda package: _code_of(folder, package)
    paths = [*([str(folder)] if folder else []), *_PATHS]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    if not paths:
        del os.environ["PYTHONPATH"]


@contextmanager
def real_server() -> Iterator[None]:
    """Release with the server itself meanwhile, in a test that otherwise does without."""
    light = os.environ["PYTHONPATH"].partition(os.pathsep)[0]
    use(None)
    yield
    use(Path(light))


def _code_of(folder: Path, package: str) -> dict[str, Path]:
    if package != "serving":
        return _REAL(package)
    return {path.name: path for path in sorted((folder / package).glob("*.py"))}
