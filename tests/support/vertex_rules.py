"""What Vertex AI refuses: names, labels and splits that are none, and what is not there."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


class Refusal(Exception):  # noqa: N818 - what the service says
    """An error of the service."""

    def __init__(self, code: int, status: str, message: str) -> None:
        super().__init__(message)
        self.code, self.status, self.message = code, status, message


def found(known: Mapping[str, Any], name: str) -> Any:
    if name not in known:
        raise Refusal(404, "NOT_FOUND", f"{name} is not found.")
    return known[name]


def checked(value: str, pattern: str) -> str:
    if not re.fullmatch(pattern, value):
        raise Refusal(400, "INVALID_ARGUMENT", f"{value!r} does not match {pattern}")
    return value


def check_split(split: Mapping[str, int], numbers: list[str]) -> None:
    if unknown := set(split) - set(numbers):
        raise Refusal(400, "INVALID_ARGUMENT", f"trafficSplit has unknown DeployedModels {sorted(unknown)}.")
    if split and sum(split.values()) != 100:
        raise Refusal(400, "INVALID_ARGUMENT", f"trafficSplit sums to {sum(split.values())}, not 100.")


def check_labels(labels: Mapping[str, str]) -> None:
    for text in (*labels, *labels.values()):
        checked(text, r"[a-z0-9_-]{0,63}")


def matches(resource: Mapping[str, Any], wanted: str) -> bool:
    """labels.NAME="value", or labels.NAME:*."""
    if not wanted:
        return True
    name, value = re.fullmatch(r'labels\.([\w-]+)(?:="([^"]*)"|:\*)', wanted).groups()
    has = resource.get("labels", {}).get(name)
    return has is not None and value in {None, has}
