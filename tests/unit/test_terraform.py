"""The modules of ops/terraform: each parses, and refers to nothing that it does not have."""

from __future__ import annotations

import json
import re
from pathlib import Path

import hcl2
import pytest

MODULES = sorted((Path(__file__).parents[2] / "ops" / "terraform").iterdir())
REFERENCE = re.compile(r"(?<![\w.\"])(data\.)?((?:var|local|aws|google|azurerm|random)[a-z0-9_]*)\.([a-z][a-z0-9_]*)")


def read(module: Path) -> dict:
    """All files of a module, as one."""
    read = [hcl2.loads(file.read_text()) for file in sorted(module.glob("*.tf"))]
    return {key: [block for file in read for block in file.get(key, [])] for file in read for key in file}


def names(blocks: list[dict]) -> set[str]:
    return {name.strip('"') for block in blocks for name in block}


def typed(blocks: list[dict]) -> set[tuple[str, str]]:
    return {(kind.strip('"'), name.strip('"')) for block in blocks for kind in block for name in block[kind]}


def references(module: Path) -> set[tuple[str, str, str]]:
    text = "\n".join(file.read_text() for file in sorted(module.glob("*.tf")))
    return set(REFERENCE.findall(re.sub(r"#.*", "", text)))


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name)
def test_everything_that_is_referred_to_is_there_and_every_variable_is_used(module):
    content, found = read(module), references(module)
    variables = names(content["variable"])
    assert {name for _, kind, name in found if kind == "var"} == variables
    locals_ = {name.strip('"') for block in content.get("locals", []) for name in block if not name.startswith("__")}
    assert {name for _, kind, name in found if kind == "local"} == locals_
    resources, data = typed(content["resource"]), typed(content.get("data", []))
    used = {(where, kind, name) for where, kind, name in found if kind not in {"var", "local"}}
    assert {(kind, name) for where, kind, name in used if not where} <= resources
    assert {(kind, name) for where, kind, name in used if where} == data
    for block in content["variable"]:
        for about in block.values():
            assert about["description"], "says what it is"
            assert about["type"]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name)
def test_providers_are_named_with_the_least_version(module):
    content = read(module)
    (terraform,) = content["terraform"]
    needed = {kind.partition("_")[0] for kind, _ in typed(content["resource"])}
    (providers,) = terraform["required_providers"]
    assert needed <= {name for name in providers if not name.startswith("__")}
    assert all(json.loads(one["version"]).startswith(">= ") for name, one in providers.items() if name[0] != "_")
