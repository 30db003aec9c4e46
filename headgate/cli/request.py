"""A request that can be copied into a shell: curl, with the model's input example, or a body from its signature."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from headgate.errors import HeadgateError
from headgate.home import Home
from headgate.records import EXAMPLE_FILES

if TYPE_CHECKING:
    from registry import Journal

_SHOWN = 300
"""Longer bodies are named by their file."""
_NAME = "@request.json"
"""Stands for a body that is not known."""
_SIGNED = {"sagemaker", "vertex", "azure-ml"}
"""Targets that take signed requests only."""


def request_of(endpoint: str, url: str) -> str:
    """Return a command that asks an endpoint; empty where its platform wants a signature, or the journal is away."""
    from registry.journal import open_journal

    try:
        with open_journal(Home.from_env().journal_url) as journal:
            return request_to(journal, endpoint, url)
    except HeadgateError:
        return ""


def request_to(journal: Journal, endpoint: str, url: str) -> str:
    """Return a command that asks an endpoint, from what the journal has of it."""
    from registry import history

    spec, reign = history.spec_of(journal, endpoint), history.champion(journal, endpoint)
    if spec is None or reign is None or not url.startswith("http") or spec["target"]["kind"] in _SIGNED:
        return ""
    return curl(url, Path(reign.revision.image.path) / "model")


def curl(url: str, model: Path) -> str:
    """Return the command.

    Args:
        url: what clients call.
        model: the model's folder. Without an input example the body is one that its signature allows; without a
            signature, or where the folder is not on this machine, a name stands for a file with one.
    """
    example = next((model / name for name in EXAMPLE_FILES if (model / name).exists()), None)
    if example is None:
        body = _made(model)
    else:
        body = _on_one_line(example)
        if len(body) > _SHOWN:
            body = f"@{example}"
    return f"curl -H 'Content-Type: application/json' -d {shlex.quote(body)} {url}"


def _on_one_line(example: Path) -> str:
    text = example.read_text(encoding="utf-8")
    try:
        return json.dumps(json.loads(text))
    except ValueError:
        return f"@{example}"


def _made(model: Path) -> str:
    """Return a body from the model's signature."""
    if not (model / "MLmodel").exists():
        return _NAME
    # It takes a second to import, and models usually have an example.
    from images.signature import signature_request

    made = signature_request(model)
    body = made.body.decode() if made else _NAME
    return body if len(body) <= _SHOWN else _NAME
