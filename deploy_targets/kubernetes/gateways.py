"""The pods of a gateway: what is in effect there, and what they have counted."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

from deploy_targets.envoy_admin import EnvoyAdmin
from deploy_targets.kubernetes.names import GATEWAY_LABELS, INSIDE_PORT, PORT
from headgate.errors import TargetError, TargetUnavailableError
from headgate.records import Counts, Prediction

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from deploy_targets.kubernetes.api import Api
    from headgate.records import Payload, Traffic


class Pod(NamedTuple):
    """One Envoy."""

    name: str
    start: str
    """Of its counters: they begin anew with each container."""
    is_ready: bool
    envoy: EnvoyAdmin


class Gateways:
    """All Envoys of a namespace.

    Args:
        api: the namespace.
    """

    def __init__(self, api: Api) -> None:
        self._api = api
        self._counted: dict[str, dict[tuple[str, str], dict[str, Counts]]] = defaultdict(dict)

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
            raise TargetUnavailableError(
                f"no pod of the gateway in {self._api.namespace} is ready", fix="headgate gateway release.yaml --apply"
            )
        return found

    def traffic(self, endpoint: str) -> list[Traffic | None]:
        """What is in effect in each."""
        return [pod.envoy.routes().get(endpoint) for pod in self.ready()]

    def are_healthy(self, cluster: str) -> bool:
        """Whether each of them finds a revision's servers, all of them healthy."""
        return all(pod.envoy.health().get(cluster, False) for pod in self.ready())

    def active(self, cluster: str) -> int:
        """Requests that a revision is answering."""
        return sum(pod.envoy.active(cluster) for pod in self.pods())

    def counts(self, endpoint: str, revisions: Mapping[str, str]) -> dict[str, Counts]:
        """The sum over all of them; what one had counted that is gone, or began anew, stays in it.

        Args:
            endpoint: whose.
            revisions: by the name of their cluster.
        """
        known = self._counted[endpoint]
        for pod in self.pods():
            try:
                known[pod.name, pod.start] = pod.envoy.counts(endpoint, revisions)
            except TargetError:
                # It has just ended, or cannot be asked now: what it said last is late, and not wrong.
                if pod.is_ready and (pod.name, pod.start) not in known:
                    raise
        return {revision: _sum([one[revision] for one in known.values() if revision in one])
                for revision in revisions.values()}  # fmt: skip

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


def _sum(some: Sequence[Counts]) -> Counts:
    buckets = [one.latency for one in some if one.latency]
    return Counts(
        requests=sum(one.requests for one in some), failures=sum(one.failures for one in some),
        latency=tuple(map(sum, zip(*buckets, strict=True))) if buckets else (),
    )  # fmt: skip
