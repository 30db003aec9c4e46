"""What things of ours are called in SageMaker, and how weights are written there.

An endpoint has the release file's name. `ENDPOINT--REVISION` is a revision's model, and `ENDPOINT--HASH` a
configuration, named by its content: configurations cannot be changed, and the same content is the same one.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Any

from headgate.records import Mirror, ModelVersion, Revision, Traffic
from headgate.units import BASIS_POINTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PREFIX = "headgate:"
"""Of the tags that we read; people's own are passed over."""
FENCE = f"{PREFIX}fence"
OURS = f"{PREFIX}endpoint"

_MODEL = re.compile(r"^(?P<endpoint>.+?)--(?P<revision>v\d+-[0-9a-f]{8})$")
_CONFIG = re.compile(r"^(?P<endpoint>.+?)--[0-9a-f]{12}$")


def model_name(endpoint: str, revision: str) -> str:
    """The SageMaker model of a revision."""
    return f"{endpoint}--{revision}"


def model_arn(described: Mapping[str, Any], revision: str) -> str:
    """The ARN of a revision's model, from what DescribeEndpoint says; no call is needed for it."""
    account, _, _ = described["EndpointArn"].rpartition(":")
    return f"{account}:model/{model_name(described['EndpointName'], revision)}"


def revision_of(model: str, endpoint: str = "") -> str:
    """The revision whose model this is, of one endpoint if named; empty where it is no model of ours."""
    found = _MODEL.fullmatch(model)
    return found["revision"] if found and endpoint in {"", found["endpoint"]} else ""


def endpoint_of(model: str) -> str:
    """The endpoint whose model this is; empty where it is no model of ours."""
    found = _MODEL.fullmatch(model)
    return found["endpoint"] if found else ""


def is_config_of(name: str, endpoint: str) -> bool:
    """Whether a configuration was made for an endpoint."""
    found = _CONFIG.fullmatch(name)
    return found is not None and found["endpoint"] == endpoint


def config_name(endpoint: str, content: Mapping[str, Any]) -> str:
    """A configuration's name, from what is in it."""
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return f"{endpoint}--{digest[:12]}"


def tags(ours: Mapping[str, str], theirs: Mapping[str, str]) -> list[dict[str, str]]:
    """Tags as AWS takes them; ours under our prefix."""
    named = {**theirs, **{f"{PREFIX}{name}": value for name, value in ours.items()}}
    return [{"Key": key, "Value": value} for key, value in sorted(named.items())]


def read_tags(found: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Tags as AWS gives them."""
    return {tag["Key"]: tag["Value"] for tag in found}


def tags_of(revision: Revision) -> dict[str, str]:
    """What a model's tags say of its revision; AWS takes no braces in a tag."""
    version = revision.version
    return {
        "model": version.name, "version": str(version.version), "digest": version.digest,
        **({"run": version.run_id} if version.run_id else {}),
        **({"replicas": f"{revision.workers}/{revision.most_workers}"} if revision.most_workers else {}),
    }  # fmt: skip


def replicas_of_tags(found: Mapping[str, str]) -> tuple[int, int] | None:
    """The least and the most machines of a revision whose number follows the load; else None."""
    least, _, most = found.get(f"{PREFIX}replicas", "").partition("/")
    return (int(least), int(most)) if most else None


def version_of_tags(found: Mapping[str, str]) -> ModelVersion | None:
    """A version from its model's tags; None where they are not ours."""
    if f"{PREFIX}version" not in found:
        return None
    return ModelVersion(
        name=found[f"{PREFIX}model"], version=int(found[f"{PREFIX}version"]), digest=found[f"{PREFIX}digest"],
        run_id=found.get(f"{PREFIX}run"),
    )  # fmt: skip


def traffic_of(described: Mapping[str, Any]) -> Traffic | None:
    """Who answers, from what DescribeEndpoint says; None where nobody does."""
    weights = {
        variant["VariantName"]: float(variant.get("CurrentWeight", 0))
        for variant in described.get("ProductionVariants", [])
    }
    total = sum(weights.values())
    if not total:
        return None
    live = {name: round(weight / total * BASIS_POINTS) for name, weight in weights.items() if weight}
    # What rounding lost or made up goes to the largest.
    largest = max(live, key=live.__getitem__)
    live[largest] += BASIS_POINTS - sum(live.values())
    return Traffic(weights=live, mirror=_mirror_of(described, total))


def _mirror_of(described: Mapping[str, Any], total: float) -> Mirror | None:
    for shadow in described.get("ShadowProductionVariants", []):
        share = round(float(shadow.get("CurrentWeight", 0)) / total * BASIS_POINTS)
        if share:
            return Mirror(revision=shadow["VariantName"], share=min(share, BASIS_POINTS))
    return None
