"""What things of ours are called in Vertex AI, and how weights are written there.

An endpoint has the release file's name. `ENDPOINT--REVISION` is a revision's model, and an endpoint of its own, at
which it can be asked while it has no traffic. Within an endpoint a revision has a number, made from its name.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any

from deploy_targets.answers import reading
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
    if not _ENDPOINT.fullmatch(endpoint) or len(endpoint) > longest:
        raise BadInputError(
            f"Vertex AI takes no endpoint {endpoint!r}: it has {len(endpoint)} characters of at most {longest}, and "
            "begins with a letter there",
            fix="set another `endpoint:` in the release file",
        )


def revision_of(name: str, endpoint: str) -> str:
    """The revision of an endpoint whose model, or own endpoint, has this id; empty where it is none."""
    revision = name.removeprefix(f"{endpoint}--")
    return revision if revision != name and _REVISION.fullmatch(revision) else ""


def deployed_id(revision: str) -> str:
    """A revision's number in an endpoint, ten digits: the same for the same name, so that it cannot be there twice."""
    digest = int.from_bytes(hashlib.sha256(revision.encode()).digest()[:8], "big")
    return str(10**9 + digest % _DEPLOYED_IDS)


def deployed(endpoint: Mapping[str, Any] | None) -> dict[str, dict[str, Any]]:
    """What is deployed on an endpoint, by the revisions' names.

    What somebody deployed by hand goes by its number, whatever it is called: names for display need not be unique, and
    a revision's number is made from its name.
    """
    every = (endpoint or {}).get("deployedModels", [])
    return {(name if deployed_id(name := one.get("displayName", "")) == one["id"] else one["id"]): one for one in every}


def shares_of(split: Mapping[str, Any] | None) -> dict[str, int]:
    """A `trafficSplit`: the percent of each number that has some. Vertex may list those that have none too.

    Raises:
        TargetUnavailableError: a share is no whole number.
    """
    with reading("Google's endpoints.get (trafficSplit)", split):
        return {number: int(percent) for number, percent in (split or {}).items() if int(percent)}


def traffic_of(endpoint: Mapping[str, Any] | None) -> Traffic | None:
    """Return which deployed models answer an endpoint's requests; None where none does.

    Raises:
        TargetUnavailableError: the split cannot be read, or is none of the whole.
    """
    split = shares_of((endpoint or {}).get("trafficSplit"))
    by_id = {one["id"]: name for name, one in deployed(endpoint).items()}
    with reading("Google's endpoints.get (trafficSplit)", split):
        weights = {by_id.get(number, number): percent * PERCENT for number, percent in split.items()}
        return Traffic(weights=weights) if weights else None


def split_of(traffic: Traffic) -> dict[str, int]:
    """The same as Vertex takes it.

    Raises:
        TargetError: a weight is no whole percent.
    """
    return {deployed_id(name): percent for name, percent in percents(traffic, "Vertex AI").items()}
