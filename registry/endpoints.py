"""The endpoints that a journal knows."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from headgate.errors import BadInputError
from registry import history

if TYPE_CHECKING:
    from registry.journal import Journal

_NAMED = 10


def require_release_file(journal: Journal, endpoint: str) -> dict[str, Any]:
    """Return the release file of the endpoint's newest release.

    Raises:
        BadInputError: no release of it ever began, as of one whose history has notes alone.
    """
    require_endpoint(journal, endpoint)
    if (known := history.spec_of(journal, endpoint)) is None:
        raise BadInputError(
            f"no release of {endpoint} has begun, so its target is not known", fix="headgate release release.yaml"
        )
    return known


def require_endpoint(journal: Journal, endpoint: str) -> None:
    """Refuse a name to which nothing was ever released.

    Raises:
        BadInputError: with the endpoint that was probably meant, or those that there are.
    """
    known = journal.endpoints()
    if endpoint in known:
        return
    close = difflib.get_close_matches(endpoint, known, n=1)
    if close:
        fix = f"did you mean {close[0]}?"
    elif known:
        more = f", and {len(known) - _NAMED} more" if len(known) > _NAMED else ""
        fix = f"the endpoints are: {', '.join(known[:_NAMED])}{more}"
    else:
        fix = "nothing was released here yet: headgate release release.yaml"
    raise BadInputError(f"there is no endpoint {endpoint}", fix=fix)
