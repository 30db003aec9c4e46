"""What an endpoint is in a namespace: one ConfigMap, which is changed as a whole or not at all.

It has what Headgate knows (`state`), and the resources that the gateway's steering hands to Envoy. Who changes it has
read it, as the API server compares its resourceVersion; so the fence that is kept there is a compare-and-swap.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pydantic import Field

from deploy_targets import envoy_config
from deploy_targets.kubernetes import names
from deploy_targets.kubernetes.api import ChangedError
from deploy_targets.kubernetes.gateway import HOSTS
from headgate.errors import LeaseLostError
from headgate.records import ModelVersion, Record, Traffic

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from deploy_targets.kubernetes.api import Api

_TRIES = 20
_RETRIES = {"retry_on": "connect-failure,refused-stream,reset-before-request", "num_retries": 2,
            "retry_host_predicate": [{
                "name": "envoy.retry_host_predicates.previous_hosts",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
                },
            }], "host_selection_retry_max_attempts": "3"}  # fmt: skip
"""A request that no server has begun to answer goes to another pod, where one has just ended."""


class Known(Record):
    """What is known of an endpoint.

    Attributes:
        fence: the highest that was seen.
        traffic: what is wanted.
        revisions: what the gateway knows, and the version of each.
    """

    fence: int = 0
    traffic: Traffic | None = None
    revisions: dict[str, ModelVersion] = Field(default_factory=dict)


class Endpoint:
    """One endpoint's ConfigMap.

    Args:
        api: the namespace.
        name: the endpoint's.
        labels: on what is made.
    """

    def __init__(self, api: Api, name: str, labels: Mapping[str, str]) -> None:
        self._api, self._name, self._labels = api, name, labels

    def known(self) -> Known:
        """What is there."""
        return known(self._api.find("configmaps", names.of_endpoint(self._name)))

    def change(self, fence: int | None, to: Callable[[Known], Known]) -> Known:
        """Change it, on what others have made of it by now.

        Args:
            fence: of the caller's lease.
            to: what is to become of what is there.

        Raises:
            LeaseLostError: a higher fence was seen.
        """
        for tried in range(_TRIES):
            found = self._api.find("configmaps", names.of_endpoint(self._name))
            before = known(found)
            wanted = to(self._raised(before, fence))
            if found is not None and wanted == before:
                return wanted
            try:
                if found is None:
                    self._api.create("configmaps", self.manifest(wanted))
                else:
                    self._api.replace("configmaps", self.manifest(wanted, found["metadata"]["resourceVersion"]))
            except ChangedError:
                if tried == _TRIES - 1:
                    raise
                continue
            return wanted
        raise AssertionError("it returns, or raises")

    def remove(self, fence: int | None) -> None:
        """Remove it; nothing happens where it is gone. Raises LeaseLostError where a higher fence was seen."""
        for tried in range(_TRIES):
            found = self._api.find("configmaps", names.of_endpoint(self._name))
            if found is None:
                return
            self._raised(known(found), fence)
            try:
                version = found["metadata"]["resourceVersion"]
                self._api.delete("configmaps", names.of_endpoint(self._name), version)
            except ChangedError:
                if tried == _TRIES - 1:
                    raise
                continue
            return

    def _raised(self, before: Known, fence: int | None) -> Known:
        if fence is not None and fence < before.fence:
            raise LeaseLostError(
                f"the cluster has seen a later lease of {self._name} than that of this change "
                f"(fence {before.fence}, ours was {fence})",
                fix="see headgate status; this process must not go on",
            )
        return before if fence is None else before.model_copy(update={"fence": fence})

    def manifest(self, wanted: Known, version: str = "") -> dict[str, Any]:
        """The ConfigMap as it is to be; of a version, it replaces that one only."""
        path, name = self._api.version_of("configmaps"), names.of_endpoint(self._name)
        labels = names.labels(self._name, more=self._labels)
        made = names.object_of("configmaps", path, self._api.namespace, name, labels)
        if version:
            made["metadata"]["resourceVersion"] = version
        data = {"state": wanted.model_dump_json(), **resources(self._name, wanted)}
        return made | {"data": data}


def known(found: Mapping[str, Any] | None) -> Known:
    """What a ConfigMap says; nothing where there is none."""
    return Known.model_validate_json(found["data"]["state"]) if found is not None else Known()


def resources(endpoint: str, wanted: Known) -> dict[str, str]:
    """What Envoy is to have: clusters, the way of clients' requests, and ways to single revisions."""
    clusters, inside = [], []
    for revision, version in sorted(wanted.revisions.items()):
        name = envoy_config.cluster_name(endpoint, revision)
        hosts = envoy_config.in_file(HOSTS, name)
        cluster = envoy_config.cluster(endpoint, revision, version, hosts)
        # Asking one revision is not a request of a client's, and is counted apart.
        asked = {**cluster, "name": f"ask--{name}", "metadata": {}}
        del asked["health_checks"]
        clusters += [cluster, asked]
        path = {"path": f"/{endpoint}/{revision}/invocations"}
        inside.append(
            {"match": path, "route": {"cluster": asked["name"], "prefix_rewrite": "/invocations",
                                      "timeout": envoy_config.ROUTE_TIMEOUT}}
        )  # fmt: skip
    routes = []
    if wanted.traffic is not None:
        route = envoy_config.route(endpoint, wanted.traffic)
        routes.append({**route, "route": {**route["route"], "retry_policy": _RETRIES}})
    return {"clusters": json.dumps(clusters), "routes": json.dumps(routes), "inside": json.dumps(inside)}
