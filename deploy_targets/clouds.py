"""What the targets of clouds have in common."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from headgate.errors import RevisionFailedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from headgate.records import EndpointState, Revision

_POLL_SECONDS = 1.0


def image_name(model: str) -> str:
    """What a model's images are called in a cloud's own registry."""
    return re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")


def wait_until_ready(observe: Callable[[str], EndpointState | None], endpoint: str, revision: Revision) -> None:
    """Return once the platform says that a revision is ready.

    Args:
        observe: the target's own.
        endpoint: where.
        revision: which.

    Raises:
        RevisionFailedError: it does not within `revision.ready_timeout`.
    """
    deadline = time.monotonic() + revision.ready_timeout
    while True:
        state = observe(endpoint)
        seen = state.revisions.get(revision.name) if state else None
        if seen is not None and seen.ready:
            return
        if time.monotonic() > deadline:
            why = seen.detail if seen else "is gone"
            raise RevisionFailedError(
                f"{revision.name} is not ready after {revision.ready_timeout:g} s: it {why}", fix="headgate status"
            )
        time.sleep(_POLL_SECONDS)
