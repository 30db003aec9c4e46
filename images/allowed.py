"""What a model's files may name: our list, by flavour, and the release file's own entries."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection

    from images.machine import Guards

LIST = Path(__file__).with_name("allowed.json")
FILE = "file:"
"""What entries begin with that name a file."""

_TORCHSCRIPT = "__torch__"
"""Types of TorchScript, which PyTorch's own reader makes of the archive; Python has no such module."""


@dataclass(frozen=True)
class Allowed:
    """What may be named.

    Attributes:
        names: module and name.
        joined: entries of the release file, as module.name.
        files: that are not looked at.
        guarded: states that have an object run a text.
        harmful: modules that a model has no reason to call, as they run programs or code.
    """

    names: frozenset[tuple[str, str]]
    joined: frozenset[str]
    files: frozenset[str]
    guarded: Guards
    harmful: frozenset[str]

    @classmethod
    def with_entries(cls, entries: Collection[str]) -> Allowed:
        """Our list and the release file's own.

        Args:
            entries: `my_package.Class`, or `file:` and the name of a file in the model.
        """
        names, guarded, harmful = _list()
        return cls(
            names,
            frozenset(one for one in entries if not one.startswith(FILE)),
            frozenset(one.removeprefix(FILE) for one in entries if one.startswith(FILE)),
            guarded,
            harmful,
        )

    def has(self, module: str, name: str) -> bool:
        """Whether a name may be loaded; a dotted one only as it stands on the list or in the release file."""
        if module.partition(".")[0] == _TORCHSCRIPT:
            return True
        return (module, name) in self.names or f"{module}.{name}" in self.joined

    def has_joined(self, name: str) -> bool:
        """Whether a name may be loaded that is one text."""
        module, _, last = name.rpartition(".")
        return self.has(module, last)

    def does_harm(self, module: str, name: str) -> bool:
        """Whether calling it is known to run programs or code."""
        return not self.has(module, name) and (module in self.harmful or f"{module}.{name}" in self.harmful)


@cache
def _list() -> tuple[frozenset[tuple[str, str]], Guards, frozenset[str]]:
    content: dict[str, Any] = json.loads(LIST.read_text(encoding="utf-8"))
    names = frozenset(
        (module, name)
        for modules in content["flavours"].values() for module, names in modules.items() for name in names.split()
    )  # fmt: skip
    return names, content["guarded"], frozenset(content["harmful"])
