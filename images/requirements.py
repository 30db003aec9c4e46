"""A model's requirements, locked, and an environment for each lock. Both are uv's work."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import uv
from filelock import FileLock

from headgate.errors import RequirementsError
from headgate.home import write_atomically
from headgate.inherited import for_builds
from headgate.limits import BUILD, seconds_of
from images.pip_file import PipFile

if TYPE_CHECKING:
    from pathlib import Path

    from headgate.home import Home

SERVER = (
    "httptools>=0.6",
    "nvidia-ml-py>=12",
    "opentelemetry-exporter-otlp-proto-http>=1.30",
    "orjson>=3.10",
    "prometheus-client>=0.21",
    "pyarrow>=15",
    "uvicorn>=0.30",
    "uvloop>=0.20",
)
"""What `headgate_server/` needs beside the model and MLflow."""

NOTHING = PipFile()

_OTHERWISE = "correct the model's requirements.txt, and log the model again"
_FIXES = (
    (
        r"no interpreter found",
        "install that Python (uv python install), or log the model with one that is here",
    ),
    (
        r"git operation failed",
        "git cannot fetch what requirements.txt names: check the address, and git's sign-in where releases run",
    ),
    (
        r"\b(401 unauthorized|403 forbidden)\b|authentication credentials",
        "the index asks for a user: set it in ~/.netrc, or by UV_INDEX_…_USERNAME and _PASSWORD, where releases run",
    ),
    (
        r"error sending request|failed to fetch:|dns error|operation timed out|peer certificate",
        "an index does not answer: check the network and HTTPS_PROXY where releases run (headgate doctor)",
    ),
    (
        r"hash mismatch",
        "the index has another file than when it was locked: remove the lock in HEADGATE_HOME/locks, and release again",
    ),
    (
        r"no such file|failed to read|distribution not found at|not found at",
        "log the files that requirements.txt names in the model's folder, beside it",
    ),
    (
        r"failed to build|build backend|no wheels|only has wheels|no matching distribution",
        "name a version that has a wheel for that Python and platform, and log the model again",
    ),
    (
        r"not found in the (package registry|provided package locations)|there (is|are) no versions? of",
        "name a version that the index has, or another index (--extra-index-url) in requirements.txt, and log it again",
    ),
    (
        r"are unsatisfiable|conflicting (urls|requirements)|are incompatible",
        "loosen the versions in requirements.txt that contradict each other, and log the model again",
    ),
)
"""What mends each failure of uv, by words of its message; the first that fits.

A message repeats names, versions and hashes, so no pattern is a word or a number that these can have.
"""


def lock_requirements(home: Home, asked: PipFile, python: str, besides: tuple[str, ...] = SERVER) -> str:
    """Resolve requirements to exact versions with hashes; the same request gives the same lock again.

    Args:
        home: where locks are kept.
        asked: what a model's requirements.txt says; the files that it names are part of the request.
        python: such as 3.11.
        besides: what runs it.

    Raises:
        RequirementsError: a package does not exist, or the versions contradict each other.
    """
    wanted = "\n".join([*asked.lines, *besides, ""])
    key = hashlib.sha256(f"{python}\n{wanted}".encode())
    for file in asked.files():
        for part in sorted(file.rglob("*")) if file.is_dir() else [file]:
            if part.is_file():
                key.update(part.read_bytes())
    path = home.locks / f"{key.hexdigest()[:16]}.txt"
    if not path.exists():
        # By its standard input, and from its folder: the file may have passwords in addresses, and names of files.
        lock = _uv(
            ["pip", "compile", "--quiet", "--generate-hashes", "--no-header", "--no-annotate",
             "--no-emit-index-url", "--no-emit-find-links", "--python-version", python, "-"],
            "the model's requirements cannot be resolved", asked, wanted,
        )  # fmt: skip
        write_atomically(path, lock)
    return path.read_text(encoding="utf-8")


def ensure_environment(home: Home, lock: str, python: str, asked: PipFile = NOTHING) -> Path:
    """The interpreter of an environment with exactly the locked packages; built once, shared by revisions.

    Args:
        home: where environments are kept.
        lock: as `lock_requirements` gives it.
        python: such as 3.11.
        asked: what the lock was made of: it has the indexes, which no lock has, and the files that are named.

    Raises:
        RequirementsError: that Python is not installed, or a package cannot be had or built.
    """
    digest = hashlib.sha256(f"{python}\n{lock}".encode()).hexdigest()[:16]
    folder = home.envs / digest
    interpreter = folder / "bin" / "python"
    with FileLock(home.envs / f".{digest}.lock"):
        if interpreter.exists():
            return interpreter
        building = home.envs / f".{digest}.building"
        shutil.rmtree(building, ignore_errors=True)
        _uv(["venv", "--quiet", "--relocatable", "--python", python, str(building)],
            f"the model was trained with Python {python}, which is not to be had here")  # fmt: skip
        source = building / "requirements.txt"
        source.write_text(lock, encoding="utf-8")
        _uv(
            ["pip", "sync", "--quiet", "--require-hashes", "--python", str(building / "bin" / "python"), str(source)],
            "the model's requirements cannot be installed", asked,
        )  # fmt: skip
        building.rename(folder)
    return interpreter


def install_into(folder: Path, lock: str, python: str, platform: str, asked: PipFile = NOTHING) -> None:
    """Install exactly the locked packages into a folder, for the platform of images.

    Args:
        folder: where; made by this.
        lock: as `lock_requirements` gives it.
        python: such as 3.11.
        platform: as uv names it, such as x86_64-manylinux_2_28.
        asked: what the lock was made of.

    Raises:
        RequirementsError: a package has no wheel for that platform and cannot be built here either.
    """
    source = folder.with_suffix(".txt")
    source.write_text(lock, encoding="utf-8")
    _uv(
        ["pip", "install", "--quiet", "--require-hashes", "--no-deps", "--link-mode", "copy", "--target", str(folder),
         "--python-version", python, "--python-platform", platform, "-r", str(source)],
        f"the model's requirements cannot be had for Python {python} on {platform}", asked,
    )  # fmt: skip
    source.unlink()


def _uv(arguments: list[str], failed: str, asked: PipFile = NOTHING, text: str = "") -> str:
    """Run uv in the folder that files are named from; return what it prints.

    Raises:
        RequirementsError: it failed, or takes longer than HEADGATE_BUILD_SECONDS.
    """
    seconds = seconds_of(BUILD)
    try:
        done = subprocess.run(
            [uv.find_uv_bin(), *arguments], input=text, cwd=asked.folder,
            capture_output=True, text=True, check=False, timeout=seconds,
            env={**for_builds(), **asked.environment(), "UV_NO_PROGRESS": "1", "UV_PYTHON_DOWNLOADS": "never"},
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise RequirementsError(
            f"{failed}: uv has not ended after {seconds:g} s",
            fix=f"see whether the package index answers, or set {BUILD} to more seconds",
        ) from error
    if done.returncode != 0:
        raise RequirementsError(f"{failed}:\n{done.stderr.strip()}", fix=fix_of(done.stderr))
    return done.stdout


def fix_of(said: str) -> str:
    """Return what mends a failure of uv, by its words."""
    return next((fix for words, fix in _FIXES if re.search(words, said, re.IGNORECASE)), _OTHERWISE)
