"""Bodies in a cloud's log: JSON as MLflow's server takes it, with the tokens NaN and Infinity, and what is no JSON."""

from __future__ import annotations

import json
from typing import Any

import orjson

JSON, CSV = "application/json", "text/csv"


def parsed(text: str | bytes) -> Any:  # noqa: ANN401 - whatever JSON holds
    """Parse JSON in which NaN and Infinity may stand.

    Raises:
        ValueError: it is no JSON.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def written(document: object) -> bytes:
    """Return a document as JSON, with NaN and Infinity where it has them."""
    return json.dumps(document, separators=(",", ":")).encode()


def content_type_of(body: bytes) -> str:
    """Return the content type of a request that was answered, where a log does not have it: JSON, or else CSV."""
    try:
        parsed(body)
    except ValueError:
        return CSV
    return JSON
