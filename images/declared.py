"""What MLmodel declares as code: the author's own program, as against data."""

from __future__ import annotations

import ast
import posixpath
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from pathlib import Path

_LOADER = "mlflow."
_CLOUDPICKLED = ("pickled_model", "model_path", "data")
"""Entries of a flavour that name the file that is serialised with code."""

_INSIDE = ("model.pth", "custom_objects.cloudpickle")
"""Files in a flavour's folder of data that hold classes with their code."""


@dataclass(frozen=True)
class Declared:
    """What MLmodel says of code.

    Attributes:
        program: the file that is the author's program: a custom model.
        pickled: files that are so where they hold functions with their code, and data where they do not.
        notes: of modules that are loaded, for people.
        trusted_types: what skops is told to trust.
        code: the folders of the model's own modules.
    """

    program: frozenset[str] = frozenset()
    pickled: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    trusted_types: tuple[str, ...] = ()
    code: tuple[Path, ...] = ()

    @classmethod
    def by(cls, folder: Path) -> Declared:
        """Read a model's MLmodel; one that cannot be read declares nothing."""
        try:
            flavors = yaml.load((folder / "MLmodel").read_text(encoding="utf-8"), _Loader)["flavors"]  # noqa: S506 - safe
            flavors = {name: flavor for name, flavor in flavors.items() if isinstance(flavor, dict)}
        except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, AttributeError):
            return cls()
        function = flavors.get("python_function", {})
        return cls(
            program=_names([function.get("python_model")]),
            pickled=_names([name for flavor in flavors.values() for name in _cloudpickled(flavor)]),
            notes=tuple(_notes(folder, function, list(flavors.values()))),
            trusted_types=tuple(
                str(one) for flavor in flavors.values() for one in flavor.get("skops_trusted_types") or ()
            ),
            code=tuple(folder / name for name in _code(folder, list(flavors.values()))),
        )

    def is_program(self, name: str, *, by_value: bool) -> bool:
        """Whether a file is the author's program.

        Args:
            name: of the file, in the model.
            by_value: it holds functions with their code.
        """
        return name in self.program or (by_value and name in self.pickled)

    def defines(self, joined: str) -> bool:
        """Return whether a module of the model's own defines this class or function itself.

        What such a module only imports, as `train.os`, it does not define.

        Args:
            joined: the module and the name, such as `train.LogOfProline`.
        """
        module, _, name = joined.rpartition(".")
        parts = module.split(".")
        if not all(part.isidentifier() for part in parts):
            return False
        places = [folder.joinpath(*parts) for folder in self.code]
        files = [file for place in places for file in (place.with_suffix(".py"), place / "__init__.py")]
        return any(name in _defined(file) for file in files)


def _defined(file: Path) -> frozenset[str]:
    """Return the classes and functions that a module defines; none where it is not there, or is no Python."""
    try:
        body = ast.parse(file.read_bytes()).body
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return frozenset()
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(one.name for one in body if isinstance(one, kinds))


def _code(folder: Path, flavors: list[dict[str, Any]]) -> list[str]:
    """Return the names of the folders in the model that have its own modules."""
    named = sorted(_names([flavor.get("code") for flavor in flavors]))
    return [name for name in named if not name.startswith(("/", "..")) and (folder / name).is_dir()]


_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _cloudpickled(flavor: dict[str, Any]) -> list[Any]:
    """The files of a flavour that cloudpickle wrote."""
    named = (
        [flavor.get(entry) for entry in _CLOUDPICKLED] if flavor.get("serialization_format") == "cloudpickle" else []
    )
    data = flavor.get("model_data", flavor.get("data"))
    return [*named, *(f"{data}/{name}" for name in _INSIDE if isinstance(data, str))]


def _names(found: list[Any]) -> frozenset[str]:
    return frozenset(posixpath.normpath(name) for name in found if isinstance(name, str))


def _notes(folder: Path, function: dict[str, Any], flavors: list[dict[str, Any]]) -> list[str]:
    """Which modules of the author's are loaded."""
    notes = [
        f"{script} is the model's code, which runs when it is loaded, as MLmodel says"
        for script in sorted(_names([flavor.get("model_code_path") for flavor in flavors]))
    ]
    notes += [
        f"{name}/ has modules of the model's own, which its code loads, as MLmodel says"
        for name in _code(folder, flavors)
    ]
    loader = function.get("loader_module")
    if isinstance(loader, str) and not loader.startswith(_LOADER):
        notes.append(f"the module {loader} loads the model, as MLmodel says")
    return notes
