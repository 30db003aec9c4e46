"""Read the faults of faults.yaml, plant one in a copy of the product, and take it out again."""

from __future__ import annotations

import hashlib
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

FILE = Path(__file__).with_name("faults.yaml")
ROOT = Path(__file__).parents[2]

BY_HAND = "by hand"
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_SOURCE = re.compile(rf"{BY_HAND}|mutation: \S+ \S+|fix reverted: [0-9a-f]{{7,40}}")


class PlantingError(ValueError):
    """Say why faults cannot be read, or one cannot be planted."""


@dataclass(frozen=True)
class Fault:
    """Hold one small change that breaks a promise of the product.

    Attributes:
        name: in words with hyphens; no other has it.
        promise: what no longer holds with it, as a sentence.
        source: `by hand`, `mutation: TOOL OPERATOR`, or `fix reverted: COMMIT`.
        file: of the product, from the root of the repository.
        find: a text that occurs once in that file.
        put: what takes its place.
        ring: where only a test of real servers, containers or flows is expected to find it, that test, or its file.
    """

    name: str
    promise: str
    source: str
    file: str
    find: str
    put: str
    ring: str = ""

    @property
    def key(self) -> str:
        """Tell this fault from another one under the same name, by what it changes."""
        return hashlib.sha256(f"{self.file}\0{self.find}\0{self.put}".encode()).hexdigest()[:16]


def load(file: Path = FILE, root: Path = ROOT) -> tuple[Fault, ...]:
    """Return the faults of a file, each of which can be planted below `root`.

    Raises:
        PlantingError: one has a key too many or too few, a name twice, or cannot be planted; all of them are named.
    """
    faults = [_fault(entry) for entry in yaml.safe_load(file.read_text(encoding="utf-8"))]
    problems = [*_twice(faults), *(f"{fault.name}: {why}" for fault in faults if (why := why_not(fault, root)))]
    if problems:
        raise PlantingError("\n".join(problems))
    return tuple(faults)


def _fault(entry: dict[str, Any]) -> Fault:
    try:
        return Fault(**entry)
    except TypeError as error:
        raise PlantingError(f"{entry}: {error}") from error


def _twice(faults: list[Fault]) -> Iterator[str]:
    seen: set[str] = set()
    for fault in faults:
        if fault.name in seen:
            yield f"{fault.name}: two faults have this name"
        seen.add(fault.name)


def why_not(fault: Fault, root: Path) -> str:
    """Say why a fault cannot be planted below `root`; empty where it can."""
    if not _NAME.fullmatch(fault.name) or not _SOURCE.fullmatch(fault.source) or not fault.promise.endswith("."):
        return "its name, source or promise is not written as planting.py says"
    path = root / fault.file
    return _why_not_in(fault, _read(path)) if path.is_file() else f"there is no {fault.file}"


def _why_not_in(fault: Fault, text: str) -> str:
    if text.count(fault.find) != 1:
        return f"`find` occurs {text.count(fault.find)} times in {fault.file}, and not once"
    if fault.put == fault.find:
        return "`put` is what `find` is"
    changed = text.replace(fault.find, fault.put)
    if changed.count(fault.put) != 1:
        return "`put` occurs elsewhere in the file too, so it could not be taken out again: give both more context"
    try:
        compile(changed, fault.file, "exec")
    except SyntaxError as error:
        return f"{fault.file} does not compile with it: {error}"
    return ""


def apply(fault: Fault, root: Path) -> None:
    """Plant a fault below `root`.

    Raises:
        PlantingError: its text is not there, or more than once.
    """
    _exchange(root / fault.file, fault.find, fault.put)


def revert(fault: Fault, root: Path) -> None:
    """Take a fault out again, which leaves the file as it was.

    Raises:
        PlantingError: it is not planted.
    """
    _exchange(root / fault.file, fault.put, fault.find)


def _exchange(path: Path, old: str, new: str) -> None:
    text = _read(path)
    if text.count(old) != 1:
        raise PlantingError(f"{path} has {text.count(old)} times what is to be exchanged: {old!r}")
    before = path.stat().st_mtime
    path.write_bytes(text.replace(old, new).encode())
    # Byte code is told from that of another source by its size and the whole second of its time.
    moment = max(time.time(), before + 1)
    os.utime(path, (moment, moment))


def _read(path: Path) -> str:
    """Return a file's text with its line ends as they are."""
    return path.read_bytes().decode()
