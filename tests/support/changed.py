"""The unit tests that changed files may concern: `--changed REVISION`, which `make test-changed` runs.

Chosen is a test file that changed, that imports a module that did (of the product or of tests/support, also by way of
others), or that names, itself or by way of tests/support, a changed file that is no module, or this file's folder.
"""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import grimp

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ROOT = Path(__file__).parents[2]
_UNIT = "tests/unit"
_EVERY = {"pyproject.toml", "requirements.lock", "requirements-dev.lock", "tests/conftest.py"}
"""What concerns every test."""
_DOTTED = re.compile(r"\w+(\.\w+)+")


def changed_files(since: str, root: Path = ROOT) -> list[str]:
    """Return the files that differ from a revision of git, and those that git does not know.

    Raises:
        ValueError: there is no such revision.
    """
    found: list[str] = []
    for command in (["diff", "--name-only", since, "--"], ["ls-files", "--others", "--exclude-standard"]):
        done = subprocess.run(["git", "-C", str(root), *command], capture_output=True, text=True, check=False)
        if done.returncode:
            raise ValueError(f"--changed {since}: {done.stderr.strip()}")
        found += done.stdout.splitlines()
    return found


class UnitTests:
    """The files of unit tests of a repository, and what each uses."""

    def __init__(self, root: Path = ROOT) -> None:
        self._root = root
        self.files = sorted(file.relative_to(root).as_posix() for file in (root / _UNIT).rglob("test_*.py"))

    def concerned(self, changed: Iterable[str]) -> list[str]:
        """Return the test files that these changes may concern."""
        changed = set(changed)
        if changed & _EVERY:
            return self.files
        named = {file for one in changed - self._modules.keys() for file in self._naming(one)}
        return [file for file in self.files if file in named or self._uses(file) & changed]

    def _naming(self, changed: str) -> set[str]:
        """Return the test files that name a file; where none does, those that name its folder, and so on."""
        for name in reversed(Path(changed).parts):
            word = re.compile(rf"\b{re.escape(name)}\b")
            # A package's name says nothing about which file of it is meant.
            if name not in self._files and (found := {one for one in self.files if self._says(one, word)}):
                return found
        return set()

    def _says(self, file: str, word: re.Pattern[str]) -> bool:
        return any(word.search(self._text(one)) for one in self._uses(file) if one.startswith("tests/"))

    @cache  # noqa: B019
    def _uses(self, file: str) -> set[str]:
        """Return a test file and all modules that it imports, also by way of each other, as files."""
        found: set[str] = set()
        above = {f"{folder.as_posix()}/conftest.py" for folder in Path(file).parents} - _EVERY
        todo = [file, *(one for one in above if (self._root / one).is_file())]
        while todo:
            one = todo.pop()
            if one not in found:
                found.add(one)
                todo += self._imported(one)
        return found

    @cache  # noqa: B019 - there is one of these in a run
    def _imported(self, file: str) -> list[str]:
        if file in self._modules:
            return [
                self._files[module] for module in self._graph.find_modules_directly_imported_by(self._modules[file])
            ]
        names = set(_imports(self._text(file)))
        ours = [f"tests/{name.replace('.', '/')}.py" for name in names]
        return [
            *(self._files[name] for name in names & self._files.keys()),
            *(one for one in ours if (self._root / one).is_file()),
        ]

    @cache  # noqa: B019
    def _text(self, file: str) -> str:
        return (self._root / file).read_text(encoding="utf-8")

    @cached_property
    def _graph(self) -> grimp.ImportGraph:
        packages = tomllib.loads(self._text("pyproject.toml"))["tool"]["importlinter"]["root_packages"]
        return grimp.build_graph(*packages, cache_dir=None)

    @cached_property
    def _files(self) -> dict[str, str]:
        """Return the file of each of the product's modules."""
        paths = {module: Path(*module.split(".")) for module in self._graph.modules}
        return {
            module: (path / "__init__.py" if (self._root / path).is_dir() else path.with_suffix(".py")).as_posix()
            for module, path in paths.items()
        }

    @cached_property
    def _modules(self) -> dict[str, str]:
        return {file: module for module, file in self._files.items()}


def _imports(text: str) -> Iterator[str]:
    """Yield the modules that a test file imports, or has as a text, as those to patch are, each with its packages."""
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Import():
                names = [one.name for one in node.names]
            case ast.ImportFrom(module=str(module)):
                names = [f"{module}.{one.name}" for one in node.names]
            case ast.Constant(value=str(value)) if _DOTTED.fullmatch(value):
                names = [value]
            case _:
                names = []
        for name in names:
            parts = name.split(".")
            yield from (".".join(parts[:n]) for n in range(1, len(parts) + 1))
