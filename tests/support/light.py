"""Serves models of behaviour.py with support/light_server.py where a test is not about the server.

The code that goes into bundles and images is that of `headgate_server/` with another `__main__`. This process, and
those that a test starts, find it by HEADGATE_SERVER_CODE. `@pytest.mark.real_server` leaves a test, or a file, the
server itself.
"""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from images.bundle import SERVER, SERVER_CODE, code_of

if TYPE_CHECKING:
    from collections.abc import Iterator

MARKER = "real_server"
FOLDERS = ("tests/flows/", "tests/contract/", "tests/cli/")
"""Whose tests are not about the server."""

_SERVER = Path(__file__).with_name("light_server.py")


def code(folder: Path) -> Path:
    """Return a folder for HEADGATE_SERVER_CODE with the package; made by the first process that asks."""
    with FileLock(folder / ".lock"):
        if not (package := folder / SERVER).exists():
            use(None)
            making = folder / "making"
            making.mkdir()
            for name, path in code_of(SERVER).items():
                shutil.copyfile(path, making / name)
            (making / "__main__.py").rename(making / "whole.py")
            shutil.copyfile(_SERVER, making / "__main__.py")
            making.rename(package)
    return folder


def use(folder: Path | None) -> None:
    """Release models with the package in this folder from now on; with the real one where it is None."""
    if folder is None:
        os.environ.pop(SERVER_CODE, None)
    else:
        os.environ[SERVER_CODE] = str(folder)


@contextmanager
def real_server() -> Iterator[None]:
    """Release with the server itself meanwhile, in a test that otherwise does without."""
    light = Path(os.environ[SERVER_CODE])
    use(None)
    try:
        yield
    finally:
        use(light)
