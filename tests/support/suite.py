"""The targets whose suite is in tests/contract, and which tests stay together where several processes run them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING

from support import cluster

if TYPE_CHECKING:
    import pytest

TARGETS = ("local", "docker", "sagemaker", "sagemaker_components", "vertex", "azure_ml", *cluster.KINDS)


ANYWHERE = ("cloud", "components", "guarded", "docker")
"""What the names of flow tests' files have in which no server of the stack is ended."""


def scope_of(nodeid: str, *, one_stack: bool = False) -> str:
    """Return what a test is not taken apart from: those of its file, or of its target, whose platform is started once.

    Where all processes have one stack, the tests that end some of its servers stay together too.
    """
    file, _, test = nodeid.partition("::")
    if one_stack and "/flows/" in file and not any(name in file for name in ANYWHERE):
        return "flows"
    if "/contract/" not in file:
        return file
    named = Path(file).stem.removeprefix("test_")
    asked = test.partition("[")[2].rstrip("]").partition("-")[0]
    of = [target for target in TARGETS if asked == target or (named.startswith(target) and asked not in TARGETS)]
    return f"contract/{max(of, key=len)}" if of else file


def shuffle(items: list[pytest.Item], seed: str) -> None:
    """Put the tests of each file, and of each target in it, in a random order; files stay in theirs."""
    places: dict[tuple[str, str], list[int]] = {}
    for place, item in enumerate(items):
        places.setdefault((item.nodeid.partition("::")[0], scope_of(item.nodeid)), []).append(place)
    for group, free in places.items():
        moved = [items[place] for place in free]
        # Each group has its own order, which does not depend on which others run.
        random.Random(f"{seed} {group}").shuffle(moved)
        for place, item in zip(free, moved, strict=True):
            items[place] = item
