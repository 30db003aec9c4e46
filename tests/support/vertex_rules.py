"""What Vertex AI refuses: names, labels and splits that are none, and what is not there."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any

from support import cloud_http
from support.cloud_http import Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping


found = partial(cloud_http.found, code="NOT_FOUND")
checked = partial(cloud_http.checked, code="INVALID_ARGUMENT")


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
