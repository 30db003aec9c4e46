"""What a revision's pods use: restarts as their status has them, memory where the cluster has a metrics server."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from deploy_targets.kubernetes import names
from deploy_targets.kubernetes.names import ENDPOINT, REVISION
from headgate.records import Usage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deploy_targets.kubernetes.api import Api

_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "m": 0.001}
"""https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/"""


def usage_of(api: Api, endpoint: str) -> Mapping[str, Usage]:
    """What the servers of each of an endpoint's revisions use; the CPU time is not known.

    Raises:
        TargetUnavailableError: the cluster does not answer.
    """
    memory = {one["metadata"]["name"]: _memory(one) for one in api.pod_metrics({ENDPOINT: endpoint})}
    servers: defaultdict[str, list[str]] = defaultdict(list)
    most: dict[str, int] = {}
    for pod in api.list("pods", {ENDPOINT: endpoint}):
        revision, name = pod["metadata"].get("labels", {}).get(REVISION, ""), pod["metadata"]["name"]
        if not revision or "deletionTimestamp" in pod["metadata"]:
            continue
        statuses = pod.get("status", {}).get("containerStatuses", [])
        servers[revision] += [f"{name}@{one['restartCount']}" for one in statuses if one["name"] in names.SERVERS]
        if name in memory:
            most[revision] = max(most.get(revision, 0), memory[name])
    return {
        revision: Usage(memory=most.get(revision), cpu=None, servers=tuple(sorted(found)))
        for revision, found in servers.items() if found
    }  # fmt: skip


def _memory(measured: Mapping[str, Any]) -> int:
    used = [one["usage"]["memory"] for one in measured.get("containers", []) if one["name"] in names.SERVERS]
    return sum(map(_bytes, used))


def _bytes(quantity: str) -> int:
    number = quantity.rstrip("KMGTikm")
    return round(float(number) * _UNITS[quantity[len(number) :]])
