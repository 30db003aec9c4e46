"""A model's requirements.txt, which is a file of pip's: packages, options, and files beside it.

uv reads it. Here is only what uv is not told by the file when it installs a lock, and what a lock depends on besides.
Source: https://pip.pypa.io/en/stable/reference/requirements-file-format/.
"""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from headgate.credentials import redact
from headgate.errors import RequirementsError

if TYPE_CHECKING:
    from collections.abc import Iterator

REQUIREMENTS = "requirements.txt"
_INCLUDES = {"-r": "--requirement", "-c": "--constraint"}
_PATHS = frozenset({*_INCLUDES.values(), "--editable", "--find-links"})
"""Options whose value may be a path."""
_SHORT = {**_INCLUDES, "-i": "--index-url", "-f": "--find-links", "-e": "--editable"}
_COMMENT = re.compile(r"(^|\s+)#.*$")
_EXTRAS = re.compile(r"\[[^\]/]*\]$")


@dataclass(frozen=True)
class PipFile:
    """What a model asks for.

    Attributes:
        lines: of the file, without comments; one that went on on the next line is whole.
        folder: which files are named from.
    """

    lines: tuple[str, ...] = ()
    folder: Path | None = None

    @classmethod
    def read(cls, folder: Path) -> PipFile:
        """Read the file of a model's folder; without one, nothing is asked for.

        Raises:
            RequirementsError: it cannot be read.
        """
        path = folder / REQUIREMENTS
        return cls(tuple(_lines(path)) if path.exists() else (), folder)

    def names(self) -> set[str]:
        """Return the packages that it asks for, as packages are compared; also in files that it includes.

        A constraint asks for nothing: it says which version, if another line asks for the package.
        """
        asked = _with_included(self.lines, self.folder or Path(), set(), ("--requirement",))
        return {name for line, _ in asked if (name := _name_of(line))}

    def files(self) -> list[Path]:
        """Return the files that it refers to: others of its kind, wheels, and folders of packages or of wheels."""
        found = []
        for line, folder in self._all():
            option, value = _option(line)
            path = _local(value if option in _PATHS else "" if option else _path_of(line))
            if path is not None:
                found.append(folder / path)
        return found

    def environment(self) -> dict[str, str]:
        """Return uv's variables for the indexes and links that it names, added to those of this process.

        With another index every index is asked for the best version, as pip does; uv alone would stop at the first.
        """
        options = [_option(line) for line, _ in self._all()]

        def given(name: str) -> list[str]:
            return [value for option, value in options if option == name]

        found: dict[str, str] = {}
        if first := given("--index-url"):
            found["UV_DEFAULT_INDEX"] = first[-1]
        if more := given("--extra-index-url"):
            found |= {"UV_INDEX": _added("UV_INDEX", " ", more), "UV_INDEX_STRATEGY": "unsafe-best-match"}
        if links := given("--find-links"):
            found["UV_FIND_LINKS"] = _added("UV_FIND_LINKS", ",", links)
        if hosts := given("--trusted-host"):
            found["UV_INSECURE_HOST"] = _added("UV_INSECURE_HOST", " ", hosts)
        if any(option == "--no-index" for option, _ in options):
            found["UV_NO_INDEX"] = "1"
        return found

    def sources(self) -> list[str]:
        """Return what it takes from elsewhere than this machine's index, for people, without passwords."""
        found = []
        for line, _ in self._all():
            option, _value = _option(line)
            if option not in _INCLUDES.values() and (option or _path_of(line) or " @ " in line):
                found.append(redact(line))
        return found

    def shown(self) -> list[str]:
        """Return all its lines, and those of the files that it includes, for people, without passwords."""
        return [redact(line) for line, _ in self._all() if _option(line)[0] not in _INCLUDES.values()]

    def all_lines(self) -> list[str]:
        """Return its lines and those of the files that it includes, as they stand there.

        Raises:
            RequirementsError: a file that it includes cannot be read.
        """
        return [line for line, _ in self._all()]

    def missing(self) -> list[Path]:
        """Return the files that it refers to and that are not there."""
        return [path for path in self.files() if not path.exists()]

    def _all(self) -> Iterator[tuple[str, Path]]:
        """Yield its lines and those of the files that it includes, each with the folder that files are named from."""
        yield from _with_included(self.lines, self.folder or Path(), set(), tuple(_INCLUDES.values()))


def _with_included(
    lines: tuple[str, ...], folder: Path, seen: set[Path], options: tuple[str, ...]
) -> Iterator[tuple[str, Path]]:
    """Yield lines, and those of the files that these options include."""
    for line in lines:
        yield line, folder
        option, value = _option(line)
        path = (folder / value).resolve()
        if option in options and not urlsplit(value).scheme and path not in seen:
            seen.add(path)
            yield from _with_included(tuple(_lines(path)), path.parent, seen, options)


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequirementsError(
            f"the model's requirements name {path.name}, which cannot be read: {error}",
            fix=f"log {path.name} in the model's folder, beside {REQUIREMENTS}",
        ) from error
    whole = re.sub(r"\\\r?\n", " ", text)
    return [stripped for line in whole.splitlines() if (stripped := _COMMENT.sub("", line).strip())]


def _option(line: str) -> tuple[str, str]:
    """Return an option's long name and its value; empty where the line is a package."""
    if not line.startswith("-"):
        return "", ""
    first = line.split(maxsplit=1)[0]
    name, _, value = line.partition("=" if first.startswith("--") and "=" in first else " ")
    words = shlex.split(value) if value.strip() else []
    return _SHORT.get(name, name), words[0] if words else ""


def _name_of(line: str) -> str:
    if line.startswith("-"):
        return ""
    try:
        return canonicalize_name(Requirement(re.split(r"\s+--", line)[0]).name)
    except InvalidRequirement:
        pass
    try:
        return str(parse_wheel_filename(Path(urlsplit(line).path).name)[0])
    except InvalidWheelFilename:
        return ""


def _path_of(line: str) -> str:
    """Return the path or the address where a line is one, or has one after a package's name."""
    if line.startswith("-"):
        return ""
    try:
        return Requirement(re.split(r"\s+--", line)[0]).url or ""
    except InvalidRequirement:
        return _EXTRAS.sub("", line.split(maxsplit=1)[0].split(";", maxsplit=1)[0])


def _local(path: str) -> str | None:
    """Return the path of a file or folder on this machine; None for an address of another one."""
    parts = urlsplit(path)
    if parts.scheme == "file" and parts.netloc in {"", "localhost"}:
        return unquote(parts.path)
    return path if path and not parts.scheme else None


def _added(variable: str, separator: str, values: list[str]) -> str:
    return separator.join([*filter(None, [os.environ.get(variable, "")]), *values])
