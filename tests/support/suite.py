"""The targets whose suite is in tests/contract, and which tests stay together where several processes run them."""

from __future__ import annotations

from pathlib import Path

from support import cluster

TARGETS = ("local", "docker", "sagemaker", "sagemaker_components", "vertex", "azure_ml", *cluster.KINDS)


def scope_of(nodeid: str) -> str:
    """What a test is not taken apart from: those of its file, or of its target, whose platform is started once."""
    file, _, test = nodeid.partition("::")
    if "/contract/" not in file:
        return file
    named = Path(file).stem.removeprefix("test_")
    asked = test.partition("[")[2].rstrip("]").partition("-")[0]
    of = [target for target in TARGETS if asked == target or (named.startswith(target) and asked not in TARGETS)]
    return f"contract/{max(of, key=len)}" if of else file
