"""Looking for code in a model's files before anything loads them; the looking is picklescan's work."""

from __future__ import annotations

import bz2
import gzip
import logging
import lzma
import zlib
from io import BytesIO
from typing import TYPE_CHECKING, Literal

import yaml
from picklescan.scanner import SafetyLevel, ScanResult, scan_bytes, scan_file_path

from headgate.errors import ArtifactError, UnsafeArtifactError
from images.bundle import model_files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PICKLES = frozenset({".pkl", ".pickle", ".joblib", ".pt", ".pth", ".ckpt", ".bin", ".npy", ".npz", ".dill", ".zip"})
"""Endings of files that loading may run code from."""

_BY_VALUE = "cloudpickle."
"""What makes functions and classes from what a pickle holds of them."""

_PACKED: dict[bytes, Callable[[bytes], bytes]] = {
    b"\x78": zlib.decompress, b"\x1f\x8b": gzip.decompress, b"BZh": bz2.decompress, b"\xfd7zXZ": lzma.decompress,
}  # fmt: skip
"""How joblib compresses pickles, by what such a file begins with."""

# It logs what it finds, and we say it ourselves.
logging.getLogger("picklescan").setLevel(logging.CRITICAL)


def scan_artifact(folder: Path, policy: Literal["block", "warn", "off"]) -> list[str]:
    """Look at every file of a model.

    Args:
        folder: the model.
        policy: what to do about code that is known to do harm.

    Returns:
        What was found, for people: under `warn` all of it, under `block` only files that could not be read whole.

    Raises:
        UnsafeArtifactError: under `block`, a file runs what is known to do harm when it is loaded.
        ArtifactError: a file is empty, or a link leads out of the folder.
    """
    harmful, notes, with_code = [], [], _declared_code(folder)
    for name, path in model_files(folder).items():
        if path.suffix.lower() not in PICKLES:
            continue
        if path.stat().st_size == 0:
            raise ArtifactError(f"artifact: {name} is empty (0 bytes)", fix="log the model again")
        if policy == "off":
            continue
        found, whole = _look(path)
        if name in with_code and (own := [one for one in found if one.startswith(_BY_VALUE)]):
            notes.append(f"{name} carries code of its own, which runs when it is loaded, as MLmodel says")
            found = [one for one in found if one not in own]
        if found:
            harmful.append(f"{name} runs {', '.join(found)} when it is loaded")
        elif not whole:
            notes.append(f"{name} could not be read as a pickle to its end, so it is not known what it runs")
    if harmful and policy == "block":
        raise UnsafeArtifactError(
            "artifact: " + "; ".join(harmful),
            fix="do not load this model anywhere; if you know why it does that, set image.scan to warn",
        )
    return [*harmful, *notes]


def _declared_code(folder: Path) -> set[str]:
    """The files that MLmodel says are pickled with their code, as MLflow stores what people write themselves.

    Such a file is a program like the model's `code/` folder, by its author's wish; in any other file the same is a way
    to hide one.
    """
    try:
        flavors = yaml.safe_load((folder / "MLmodel").read_text(encoding="utf-8"))["flavors"]
        declared = {flavors.get("python_function", {}).get("python_model")}
        for flavor in flavors.values():
            if flavor.get("serialization_format") == "cloudpickle":
                declared |= {flavor.get("pickled_model"), flavor.get("model_path"), flavor.get("data")}
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        return set()
    return {name for name in declared if isinstance(name, str)}


def _look(path: Path) -> tuple[list[str], bool]:
    """What a file names that is known to do harm, and whether all of it could be read."""
    try:
        result = _scan(path)
    except Exception:  # noqa: BLE001 - whatever a hostile file makes a parser raise, it was not read
        return [], False
    harmful = {f"{found.module}.{found.name}" for found in result.globals if found.safety is SafetyLevel.Dangerous}
    return sorted(harmful), not result.scan_err


def _scan(path: Path) -> ScanResult:
    with path.open("rb") as file:
        begins = file.read(8)
    unpack = next((unpack for magic, unpack in _PACKED.items() if begins.startswith(magic)), None)
    if unpack is None:
        return scan_file_path(str(path))
    return scan_bytes(BytesIO(unpack(path.read_bytes())), str(path))
