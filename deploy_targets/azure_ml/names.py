"""What things of ours are called in Azure ML, and how weights and copies are written there.

An endpoint has the release file's name, and a deployment that of its revision. A revision's image is a version of the
environment `headgate-ENDPOINT`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from deploy_targets.answers import reading
from deploy_targets.clouds import PERCENT, percents
from deploy_targets.copies import Copies
from headgate.errors import BadInputError, TargetError
from headgate.records import Mirror, Traffic
from headgate.units import format_percent

if TYPE_CHECKING:
    from collections.abc import Mapping

MIRROR_LIMIT = 50 * PERCENT
"""Basis points, of one deployment (https://learn.microsoft.com/azure/machine-learning/how-to-safely-rollout-online-endpoints)."""

_COPIES = "headgate-copies-"
_ENDPOINT = re.compile(r"^[a-z][a-z0-9-]{1,30}[a-z0-9]$")


def environment(endpoint: str) -> str:
    """The environment whose versions are the images of an endpoint's revisions."""
    return f"headgate-{endpoint}"


def see_that_it_is_a_name(endpoint: str) -> None:
    """Azure's begin with a letter and are 3 to 32 characters long.

    Raises:
        BadInputError: an endpoint of this name cannot be there.
    """
    if not _ENDPOINT.fullmatch(endpoint):
        raise BadInputError(
            f"Azure ML takes no endpoint {endpoint!r}: it has {len(endpoint)} characters of 3 to 32, and begins with a "
            "letter there",
            fix="set another `endpoint:` in the release file",
        )


def traffic_of(endpoint: Mapping[str, Any] | None) -> Traffic | None:
    """Return which deployments answer an endpoint's requests and which get copies; None where none answers.

    Raises:
        TargetUnavailableError: the shares cannot be read, or are none of the whole.
    """
    properties = (endpoint or {}).get("properties", {})
    weights, copied = shares_in(properties.get("traffic")), shares_in(properties.get("mirrorTraffic"))
    if not weights:
        return None
    with reading("Azure's onlineEndpoints.get (traffic)", properties.get("traffic")):
        mirrors = [Mirror(revision=name, share=share * PERCENT) for name, share in copied.items()]
        live = {name: share * PERCENT for name, share in weights.items()}
        return Traffic(weights=live, mirror=mirrors[0] if mirrors else None)


def shares_in(written: Mapping[str, Any] | None) -> dict[str, int]:
    """`traffic` or `mirrorTraffic`: the percent of each deployment that has some. Azure lists those with none too.

    Raises:
        TargetUnavailableError: a share is no whole number.
    """
    with reading("Azure's onlineEndpoints.get (traffic)", written):
        return {name: int(share) for name, share in (written or {}).items() if int(share)}


def shares_of(traffic: Traffic) -> tuple[dict[str, int], dict[str, int]]:
    """The same as Azure takes it: `traffic` and `mirrorTraffic`.

    Raises:
        TargetError: it is not possible there.
    """
    weights, mirror = percents(traffic, "Azure ML"), traffic.mirror
    if mirror is None:
        return weights, {}
    if mirror.share > MIRROR_LIMIT or mirror.share % PERCENT:
        share = format_percent(mirror.share / (100 * PERCENT))
        raise TargetError(f"Azure ML copies whole percents up to {MIRROR_LIMIT // PERCENT}, not {share}")
    if mirror.revision in weights:
        raise TargetError(f"Azure ML sends no copies to {mirror.revision}, which has live requests")
    return weights, {mirror.revision: mirror.share // PERCENT}


def copies_of(tags: Mapping[str, str]) -> dict[str, Copies]:
    """Which revisions received copies, and when, as an endpoint's tags keep it."""
    kept = {key.removeprefix(_COPIES): value for key, value in tags.items() if key.startswith(_COPIES)}
    return {name: made for name, text in kept.items() if (made := Copies.parse(text))}


def with_copies(tags: Mapping[str, str], traffic: Traffic) -> dict[str, str]:
    """Tags that keep whose copies begin with a change of traffic, and who is given live requests."""
    known, changed = copies_of(tags), dict(tags)
    for name in known.keys() & traffic.weights.keys():
        changed[_COPIES + name] = str(known[name].ended())
    if traffic.mirror is not None:
        name = traffic.mirror.revision
        changed[_COPIES + name] = str(Copies.begun(known.get(name)))
    return changed


def without_copies(tags: Mapping[str, str], revision: str) -> dict[str, str]:
    """Tags that no longer know of a revision."""
    return {key: value for key, value in tags.items() if key != _COPIES + revision}
