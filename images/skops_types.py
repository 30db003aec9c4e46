"""The types that a file of skops names."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from images.wrappings import Unreadable

if TYPE_CHECKING:
    from images.wrappings import Part

_LARGEST = 256 * 2**20


def types_of(part: Part) -> set[str]:
    """Every type and function that a schema of skops names; nothing where it is another file.

    Raises:
        Unreadable: it is larger than schemas are.
    """
    if part.size > _LARGEST:
        raise Unreadable(f"{part.name} has more than {_LARGEST >> 20} MiB")
    part.file.seek(0)
    try:
        schema = json.loads(part.file.read())
    except (ValueError, RecursionError):
        return set()
    found: set[str] = set()
    waits: list[Any] = [schema] if isinstance(schema, dict) and "_skops_version" in schema else []
    while waits:
        node = waits.pop()
        if isinstance(node, dict):
            module, name = node.get("__module__", node.get("module_path")), node.get("__class__", node.get("function"))
            if isinstance(module, str) and isinstance(name, str):
                found.add(f"{module}.{name}")
            waits += node.values()
        elif isinstance(node, list):
            waits += node
    return found
