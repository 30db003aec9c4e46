"""Headgate's own gateway: what its Envoys are to have, what is in effect there, and what they have counted."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from deploy_targets import envoy_config
from deploy_targets.clouds import problem
from deploy_targets.envoy_admin import EnvoyAdmin
from deploy_targets.kubernetes import gateway
from deploy_targets.kubernetes.names import GATEWAY, GATEWAY_LABELS, INSIDE_PORT, PORT
from deploy_targets.kubernetes.routing import Tally
from headgate.errors import HeadgateError, NobodyRoutesError, TargetError
from headgate.gateway_limits import EndpointLimits
from headgate.records import Prediction

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from deploy_targets.kubernetes.api import Api
    from deploy_targets.kubernetes.endpoint import Known
    from deploy_targets.kubernetes.settings import KubernetesSettings
    from headgate.counts import Counts
    from headgate.findings import Finding
    from headgate.records import Payload, Traffic


class Pod(NamedTuple):
    """One Envoy."""

    name: str
    start: str
    """Of its counters: they begin anew with each container."""
    is_ready: bool
    envoy: EnvoyAdmin


_RETRIES = {
    "retry_on": "connect-failure,refused-stream,reset-before-request", "num_retries": 2,
    "retry_host_predicate": [
        {
            "name": "envoy.retry_host_predicates.previous_hosts",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
            },
        }
    ],
    "host_selection_retry_max_attempts": "3",
}  # fmt: skip
"""A request that no server has begun to answer goes to another pod, where one has just ended."""


class ConfigMap:
    """An endpoint as the gateway's steering reads it."""

    kind = "configmaps"

    def content(self, endpoint: str, wanted: Known) -> dict[str, Any]:
        """The resources that Envoy is to have."""
        return {"data": resources(endpoint, wanted)}


class Gateways:
    """All Envoys of a namespace.

    Args:
        api: the namespace.
        settings: of the target.
    """

    latency_bounds = envoy_config.LATENCY_SECONDS

    def __init__(self, api: Api, settings: KubernetesSettings) -> None:
        self._api, self._settings = api, settings
        self._tally = Tally()
        self.form = ConfigMap()

    def url(self, endpoint: str) -> str:
        """What clients call."""
        return f"{self._settings.url.rstrip('/') or gateway.address(self._settings)}/{endpoint}/invocations"

    def problems(self) -> Iterator[Finding]:
        """Whether there is one that takes requests."""
        try:
            for pod in self.ready():
                pod.envoy.routes()
        except NobodyRoutesError as error:
            yield problem("gateway", error.message, error.fix)
        except HeadgateError as error:
            fix = f"let the API server reach ports {PORT} and {INSIDE_PORT} of pods, and the caller use pods/proxy"
            yield problem("gateway", error.message, fix)

    def why_not(self, endpoint: str) -> str:  # noqa: ARG002 - it is of all endpoints
        """Where it is said why a change does not come into effect."""
        return f"see kubectl logs -n {self._settings.namespace} deployment/{GATEWAY} -c steering"

    def pods(self) -> list[Pod]:
        """Those that take requests, or finish some."""
        return [
            self._pod(found)
            for found in self._api.list("pods", GATEWAY_LABELS)
            if found["status"].get("phase") == "Running"
        ]

    def ready(self) -> list[Pod]:
        """Those that new requests go to.

        Raises:
            TargetUnavailableError: there is none.
        """
        found = [pod for pod in self.pods() if pod.is_ready]
        if not found:
            raise NobodyRoutesError(
                f"no pod of the gateway in {self._api.namespace} is ready", fix="headgate gateway release.yaml --apply"
            )
        return found

    def traffic(self, endpoint: str) -> list[Traffic | None]:
        """What is in effect in each."""
        return [pod.envoy.routes().get(endpoint) for pod in self.ready()]

    def limited(self, endpoint: str, wanted: Known) -> bool:
        """Whether each of them has the limits that are wanted."""
        if wanted.traffic is None:
            return True
        limits = envoy_config.limits_now(wanted.traffic, wanted.limits)
        ways = [pod.envoy.ways().get(endpoint) for pod in self.ready()]
        return all(way is not None and way.limits == limits for way in ways)

    def are_reached(self, endpoint: str, revision: str, pods: int) -> bool:
        """Whether each of them finds so many healthy servers of a revision."""
        name = envoy_config.cluster_name(endpoint, revision)
        return all(pod.envoy.healthy_hosts().get(name, 0) >= pods for pod in self.ready())

    def active(self, endpoint: str, revision: str) -> int:
        """Requests that a revision is answering."""
        name = envoy_config.cluster_name(endpoint, revision)
        return sum(pod.envoy.active(name) for pod in self.pods() if pod.is_ready)

    def counts(self, endpoint: str, revisions: Iterable[str]) -> dict[str, Counts]:
        """The sum over all of them; what one had counted that is gone, or began anew, stays in it."""
        by_cluster = {envoy_config.cluster_name(endpoint, name): name for name in revisions}
        for pod in self.pods():
            source = (pod.name, pod.start)
            try:
                self._tally.take(endpoint, source, pod.envoy.counts(endpoint, by_cluster))
            except TargetError:
                self._tally.miss(endpoint, source)
        return self._tally.total(endpoint, by_cluster.values())

    def ask(self, endpoint: str, payload: Payload, revision: str | None, request_id: str) -> Prediction:
        """A prediction: by whoever has the traffic, or by one revision."""
        headers = {"content-type": payload.content_type, "x-request-id": request_id}
        path = f"/{endpoint}/{revision}/invocations" if revision else f"/{endpoint}/invocations"
        reply = self._api.post(self.ready()[0].name, INSIDE_PORT if revision else PORT, path, payload.body, headers)
        return Prediction(
            status=reply.status_code, body=reply.content, request_id=request_id,
            seconds=reply.elapsed.total_seconds(),
        )  # fmt: skip

    def _pod(self, found: Mapping[str, Any]) -> Pod:
        name, status = found["metadata"]["name"], found["status"]

        def ask(path: str, **params: str) -> Any:  # noqa: ANN401 - JSON
            return self._api.ask(name, INSIDE_PORT, path, **params).json()

        conditions = {one["type"]: one["status"] for one in status.get("conditions", [])}
        envoy: dict[str, Any] = next((one for one in status.get("containerStatuses", []) if one["name"] == "envoy"), {})
        is_ready = conditions.get("Ready") == "True" and "deletionTimestamp" not in found["metadata"]
        return Pod(name, str(envoy.get("containerID", "")), is_ready, EnvoyAdmin(ask))


def resources(endpoint: str, wanted: Known) -> dict[str, str]:
    """What Envoy is to have: clusters, the way of clients' requests, and ways to single revisions."""
    clusters, inside = [], []
    for revision, version in sorted(wanted.revisions.items()):
        name = envoy_config.cluster_name(endpoint, revision)
        limits = wanted.limits.get(revision, EndpointLimits())
        cluster = envoy_config.cluster(endpoint, revision, version, envoy_config.in_file(gateway.HOSTS, name), limits)
        # Asking one revision is not a request of a client's, and is counted apart.
        asked = {**cluster, "name": f"ask--{name}", "metadata": {}}
        del asked["health_checks"]
        clusters += [cluster, asked]
        way = {"cluster": asked["name"], "prefix_rewrite": "/invocations", "timeout": f"{limits.request:g}s"}
        inside.append({"match": {"path": f"/{endpoint}/{revision}/invocations"}, "route": way})
    routes = []
    if wanted.traffic is not None:
        limits = envoy_config.limits_now(wanted.traffic, wanted.limits)
        routes += envoy_config.ways(endpoint, wanted.traffic, limits, _RETRIES)
    return {"clusters": json.dumps(clusters), "routes": json.dumps(routes), "inside": json.dumps(inside)}
