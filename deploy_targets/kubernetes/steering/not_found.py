"""What a gateway answers where it has no endpoint."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

_LONGEST = 4096
"""Bytes of a body that Envoy answers itself, by default: RouteConfiguration.max_direct_response_body_size_bytes."""


def not_found_route(endpoints: Iterable[str]) -> dict[str, Any]:
    """Return the last route of a table: a 404 that names the endpoints that there are."""
    paths = [f"/{endpoint}/invocations" for endpoint in sorted(endpoints)]
    return {
        "match": {"prefix": "/"},
        "direct_response": {"status": 404, "body": {"inline_string": _body(paths)}},
        "response_headers_to_add": [
            {
                "header": {"key": "content-type", "value": "application/json"},
                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            }
        ],
    }


def _body(paths: list[str]) -> str:
    """Return the body, with as many paths as it may have."""
    for named in range(len(paths), -1, -1):
        content = {
            "error_code": "ENDPOINT_NOT_FOUND",
            "message": "there is no endpoint at this path; headgate status shows the address of each",
            "endpoints": paths[:named],
            "more": len(paths) - named,
        }
        body = json.dumps(content)
        if len(body.encode()) <= _LONGEST:
            return body
    raise AssertionError("the body without paths is short")
