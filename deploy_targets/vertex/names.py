"""What things of ours are called in Vertex AI, and how weights are written there.

An endpoint has the release file's name. `ENDPOINT--REVISION` is a revision's model, and an endpoint of its own, at
which it can be asked while it has no traffic. Within an endpoint a revision has a number, made from its name.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any

from deploy_targets.clouds import PERCENT, percents
from headgate.errors import BadInputError
from headgate.records import Traffic

if TYPE_CHECKING:
    from collections.abc import Mapping

_LONGEST = 63
_REVISION = re.compile(r"^v\d+-[0-9a-f]{8}$")
_ENDPOINT = re.compile(r"^[a-z][a-z0-9-]*$")
_DEPLOYED_IDS = 9 * 10**9


def full_name(endpoint: str, revision: str) -> str:
    """The id of a revision's model, and of the endpoint at which it alone answers."""
    return f"{endpoint}--{revision}"


def see_that_it_is_a_name(endpoint: str, revision: str) -> None:
    """Vertex's ids begin with a letter and are at most 63 characters long.

    Raises:
        BadInputError: an endpoint of this name cannot be there.
    """
    longest = _LONGEST - len(full_name("", revision))
    if not _ENDPOINT.match(endpoint) or len(endpoint) > longest:
        raise BadInputError(
            f"Vertex AI takes no endpoint {endpoint!r}: it has {len(endpoint)} characters of at most {longest}, and "
            "begins with a letter there",
            fix="set another `endpoint:` in the release file",
        )


def revision_of(name: str, endpoint: str) -> str:
    """The revision of an endpoint whose model, or own endpoint, has this id; empty where it is none."""
    revision = name.removeprefix(f"{endpoint}--")
    return revision if revision != name and _REVISION.match(revision) else ""


def deployed_id(revision: str) -> str:
    """A revision's number in an endpoint, ten digits: the same for the same name, so that it cannot be there twice."""
    digest = int.from_bytes(hashlib.sha256(revision.encode()).digest()[:8], "big")
    return str(10**9 + digest % _DEPLOYED_IDS)


def deployed(endpoint: Mapping[str, Any] | None) -> dict[str, dict[str, Any]]:
    """What is deployed on an endpoint, by the revisions' names."""
    return {one["displayName"]: one for one in (endpoint or {}).get("deployedModels", [])}


def traffic_of(endpoint: Mapping[str, Any] | None) -> Traffic | None:
    """Who answers an endpoint's requests; None where nobody does."""
    split = (endpoint or {}).get("trafficSplit", {})
    by_id = {one["id"]: name for name, one in deployed(endpoint).items()}
    # What somebody deployed by hand goes by its number while it is not listed.
    weights = {by_id.get(key, key): int(percent) * PERCENT for key, percent in split.items() if int(percent)}
    return Traffic(weights=weights) if weights else None


def split_of(traffic: Traffic) -> dict[str, int]:
    """The same as Vertex takes it.

    Raises:
        TargetError: a weight is no whole percent.
    """
    return {deployed_id(name): percent for name, percent in percents(traffic, "Vertex AI").items()}
