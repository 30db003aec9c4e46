"""What differs between two models: their files, their requirements and their signatures."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import yaml

from headgate.errors import ArtifactError
from headgate.plan import Changes
from images.bundle import model_files
from images.pip_file import PipFile

if TYPE_CHECKING:
    from pathlib import Path

    from headgate.records import Artifact

_TOLD_APART = frozenset({
    "MLmodel", "requirements.txt", "conda.yaml", "python_env.yaml", "input_example.json", "serving_input_example.json",
    "serving_input_payload.json", "input_example_metadata.json", "registered_model_meta", "metadata",
})  # fmt: skip
"""What MLflow writes beside a model, with times and ids that differ each time; signature and requirements are read."""
_PARTS = {"inputs": "input", "outputs": "output", "params": "parameter"}


def compare(new: Artifact, live: Artifact, live_size: int) -> Changes:
    """Hold a model against the one that is live.

    Args:
        new: the one to release.
        live: the one that is live, as far as it is on this machine.
        live_size: bytes of all files of the live one; where fewer are here, its large files are in its image only.
    """
    ours, theirs = _weights(new.path), _weights(live.path)
    is_whole = sum(path.stat().st_size for path in model_files(live.path).values()) >= live_size
    if not is_whole:
        # What is not here cannot be compared; what is here can.
        ours = {name: path for name, path in ours.items() if name in theirs}
    files = [
        *(f"new: {name}" for name in ours if name not in theirs),
        *(f"gone: {name}" for name in theirs if name not in ours),
        *(f"changed: {name}" for name in ours if name in theirs and _digest(ours[name]) != _digest(theirs[name])),
    ]
    return Changes(
        weights=tuple(files), weights_compared=is_whole, requirements=tuple(_requirements(new, live)),
        signature=tuple(_signature(new.path, live.path)),
    )  # fmt: skip


def signature_of(model: Path) -> dict[str, dict[str, str]]:
    """Return the columns, tensors and parameters that a model declares, each with its type; none without a signature.

    Args:
        model: the folder with MLmodel.

    Returns:
        For each of inputs, outputs and params: the type by name. What has no name is counted, from 0.

    Raises:
        ArtifactError: the signature is none of MLflow's.
    """
    declared = yaml.safe_load((model / "MLmodel").read_text(encoding="utf-8")).get("signature") or {}
    found = {}
    try:
        for part in _PARTS:
            specs: list[dict[str, Any]] = json.loads(declared.get(part) or "[]")
            found[part] = {str(spec.get("name", number)): _type_of(spec) for number, spec in enumerate(specs)}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"artifact: the {part} of the signature in MLmodel cannot be read: {error}", fix="log the model again"
        ) from error
    return found


def _weights(folder: Path) -> dict[str, Path]:
    return {name: path for name, path in model_files(folder).items() if name.split("/")[0] not in _TOLD_APART}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _requirements(new: Artifact, live: Artifact) -> list[str]:
    ours, theirs = (PipFile(one.requirements, one.path) for one in (new, live))
    python = [f"Python {live.python} becomes {new.python}"] if new.python != live.python else []
    added, gone = (sorted(set(a.shown()) - set(b.shown())) for a, b in ((ours, theirs), (theirs, ours)))
    return [*python, *(f"new: {line}" for line in added), *(f"gone: {line}" for line in gone)]


def _signature(new: Path, live: Path) -> list[str]:
    found = []
    ours, theirs = signature_of(new), signature_of(live)
    for part, word in _PARTS.items():
        found += [f"new {word} {name} ({kind})" for name, kind in ours[part].items() if name not in theirs[part]]
        found += [f"{word} {name} ({kind}) is gone" for name, kind in theirs[part].items() if name not in ours[part]]
        found += [
            f"{word} {name} was {theirs[part][name]}, and is {kind}" for name, kind in ours[part].items()
            if theirs[part].get(name, kind) != kind
        ]  # fmt: skip
    return found


def _type_of(spec: dict[str, Any]) -> str:
    if spec.get("type") == "tensor":
        tensor = spec["tensor-spec"]
        return f"{tensor['dtype']}{tensor['shape']}"
    kind = str(spec.get("type") or spec.get("dtype"))
    nested = {key: spec[key] for key in ("items", "properties", "values") if key in spec}
    optional = "" if spec.get("required", True) else ", optional"
    return kind + (f" {json.dumps(nested, sort_keys=True)}" if nested else "") + optional
