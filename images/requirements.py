"""A model's requirements, locked, and an environment for each lock. Both are uv's work."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import uv
from filelock import FileLock

from headgate.errors import RequirementsError
from headgate.home import write_atomically

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
"""What `serving/` needs beside the model and MLflow."""

_TIMEOUT = 900


def lock_requirements(home: Home, requirements: tuple[str, ...], python: str, besides: tuple[str, ...] = SERVER) -> str:
    """Resolve requirements to exact versions with hashes; the same request gives the same lock again.

    Args:
        home: where locks are kept.
        requirements: a model's.
        python: such as 3.11.
        besides: what runs it.

    Raises:
        RequirementsError: a package does not exist, or the versions contradict each other.
    """
    wanted = "\n".join([*requirements, *besides, ""])
    key = hashlib.sha256(f"{python}\n{wanted}".encode()).hexdigest()[:16]
    path = home.locks / f"{key}.txt"
    if not path.exists():
        source = home.locks / f"{key}.in"
        write_atomically(source, wanted)
        lock = _uv(
            ["pip", "compile", "--quiet", "--generate-hashes", "--no-header", "--no-annotate",
             "--no-emit-index-url", "--no-emit-find-links", "--python-version", python, str(source)],
            "the model's requirements cannot be resolved",
        )  # fmt: skip
        write_atomically(path, lock)
    return path.read_text(encoding="utf-8")


def ensure_environment(home: Home, lock: str, python: str) -> Path:
    """The interpreter of an environment with exactly the locked packages; built once, shared by revisions.

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
            [
                "pip",
                "sync",
                "--quiet",
                "--require-hashes",
                "--python",
                str(building / "bin" / "python"),
                str(source),
            ],
            "the model's requirements cannot be installed",
        )
        building.rename(folder)
    return interpreter


def install_into(folder: Path, lock: str, python: str, platform: str) -> None:
    """Install exactly the locked packages into a folder, for the platform of images.

    Args:
        folder: where; made by this.
        lock: as `lock_requirements` gives it.
        python: such as 3.11.
        platform: as uv names it, such as x86_64-manylinux_2_28.

    Raises:
        RequirementsError: a package has no wheel for that platform and cannot be built here either.
    """
    source = folder.with_suffix(".txt")
    source.write_text(lock, encoding="utf-8")
    _uv(
        ["pip", "install", "--quiet", "--require-hashes", "--no-deps", "--link-mode", "copy", "--target", str(folder),
         "--python-version", python, "--python-platform", platform, "-r", str(source)],
        f"the model's requirements cannot be had for Python {python} on {platform}",
    )  # fmt: skip
    source.unlink()


def _uv(arguments: list[str], failed: str) -> str:
    done = subprocess.run(
        [uv.find_uv_bin(), *arguments],
        capture_output=True, text=True, check=False, timeout=_TIMEOUT,
        env={**os.environ, "UV_NO_PROGRESS": "1", "UV_PYTHON_DOWNLOADS": "never"},
    )  # fmt: skip
    if done.returncode != 0:
        raise RequirementsError(
            f"{failed}:\n{done.stderr.strip()}", fix="correct the model's requirements.txt and log it again"
        )
    return done.stdout
