"""What else a cluster routes with, by Gateway API: an endpoint is an HTTPRoute, and its servers count.

Sources: https://gateway-api.sigs.k8s.io/reference/spec for the fields; conditions of routes are in
https://gateway-api.sigs.k8s.io/geps/gep-1364. Which gateway it is does not matter, but copies are told from requests by
their host, `…-shadow`, as those do that are built on Envoy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prometheus_client.parser import text_string_to_metric_families

from deploy_targets.clouds import problem
from deploy_targets.kubernetes import names
from deploy_targets.kubernetes.endpoint import known
from deploy_targets.kubernetes.names import ENDPOINT, PORT, REVISION
from deploy_targets.kubernetes.routing import Tally
from headgate import clock
from headgate.counts import Counts, latencies
from headgate.errors import HeadgateError, TargetError, TargetUnavailableError
from headgate.records import Mirror, Prediction, Traffic
from headgate.units import BASIS_POINTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from deploy_targets.kubernetes.api import Api
    from deploy_targets.kubernetes.endpoint import Known
    from deploy_targets.kubernetes.settings import Gateway, KubernetesSettings
    from headgate.findings import Finding
    from headgate.records import Payload

LATENCY_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""The buckets of headgate_server/metrics.py."""

_HTTP_ERROR, _SERVER_ERROR = 400, 500
_QUIET_SECONDS = 5.0
_SERVICE_PORT = 80
_OF_SERVICE = "kubernetes.io/service-name"


class HttpRoute:
    """An endpoint as a gateway reads it.

    Args:
        gateway: that it is attached to.
    """

    kind = "httproutes"

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def content(self, endpoint: str, wanted: Known) -> dict[str, Any]:
        """The route; attached to nothing while nobody has the traffic."""
        if wanted.traffic is None:
            return {"spec": {}}
        parent = {
            "name": self._gateway.name,
            "namespace": self._gateway.namespace,
            "sectionName": self._gateway.section,
        }
        return {
            "spec": {
                "parentRefs": [{name: value for name, value in parent.items() if value}],
                **({"hostnames": [self._gateway.hostname]} if self._gateway.hostname else {}),
                "rules": [_rule(endpoint, wanted.traffic)],
            }
        }


def _rule(endpoint: str, traffic: Traffic) -> dict[str, Any]:
    rewrite = {
        "path": {"type": "ReplaceFullPath", "replaceFullPath": "/invocations"},
        # A server knows a copy by its host, so the host is not the client's.
        "hostname": f"{endpoint}.headgate",
    }
    filters: list[dict[str, Any]] = [{"type": "URLRewrite", "urlRewrite": rewrite}]
    if traffic.mirror is not None:
        copied: dict[str, Any] = {"backendRef": _backend(endpoint, traffic.mirror.revision)}
        if traffic.mirror.share < BASIS_POINTS:
            copied["fraction"] = {"numerator": traffic.mirror.share, "denominator": BASIS_POINTS}
        filters.append({"type": "RequestMirror", "requestMirror": copied})
    return {
        "matches": [{"path": {"type": "Exact", "value": f"/{endpoint}/invocations"}}],
        "filters": filters,
        "backendRefs": [
            {**_backend(endpoint, revision), "weight": weight} for revision, weight in traffic.weights.items()
        ],
    }


def _backend(endpoint: str, revision: str) -> dict[str, Any]:
    return {"name": names.of_revision(endpoint, revision), "port": _SERVICE_PORT}


def traffic_of(endpoint: str, route: Mapping[str, Any]) -> Traffic | None:
    """What a route's own fields say, as the API server has kept them: one without `fraction` copies everything."""
    if not (rules := route["spec"].get("rules")) or not route["spec"].get("parentRefs"):
        return None
    prefix, rule = names.of_revision(endpoint, ""), rules[0]
    weights = {one["name"].removeprefix(prefix): one.get("weight", 1) for one in rule.get("backendRefs", [])}
    mirror = None
    for one in rule.get("filters", []):
        if one["type"] == "RequestMirror":
            copied = one["requestMirror"]
            part = copied.get("fraction", {"numerator": 1, "denominator": 1})
            share = round(BASIS_POINTS * part["numerator"] / part.get("denominator", 100))
            mirror = Mirror(revision=copied["backendRef"]["name"].removeprefix(prefix), share=share)
    return Traffic(weights=weights, mirror=mirror) if sum(weights.values()) == BASIS_POINTS else None


class GatewayApi:
    """One gateway of the cluster, and the servers behind it.

    Args:
        api: the namespace.
        settings: of the target.
        gateway: which.
    """

    latency_bounds = LATENCY_SECONDS

    def __init__(self, api: Api, settings: KubernetesSettings, gateway: Gateway) -> None:
        self._api, self._settings, self._gateway = api, settings, gateway
        self._tally = Tally()
        self._quiet: dict[tuple[str, str], tuple[int, float]] = {}
        self.form = HttpRoute(gateway)

    def url(self, endpoint: str) -> str:
        """What clients call."""
        return f"{self._settings.url.rstrip('/') or f'http://{self._gateway.hostname}'}/{endpoint}/invocations"

    def problems(self) -> Iterator[Finding]:
        """Whether the cluster has Gateway API."""
        try:
            self._api.version_of(HttpRoute.kind)
        except HeadgateError as error:
            fix = "install Gateway API and a gateway, or leave target.gateway out for Headgate's own"
            yield problem("target.gateway", error.message, fix)

    def traffic(self, endpoint: str) -> list[Traffic | None]:
        """What the route says, once its gateway has accepted that."""
        found = self._api.find(HttpRoute.kind, names.of_endpoint(endpoint))
        if found is None:
            return [None]
        return [traffic_of(endpoint, found) if not self._refusal(found) else None]

    def limited(self, endpoint: str, wanted: Known) -> bool:  # noqa: ARG002 - another's gateway has its own
        """Yes: `plan` refuses a release file that asks for limits."""
        return True

    def why_not(self, endpoint: str) -> str:
        """What the gateway says of the route."""
        found = self._api.find(HttpRoute.kind, names.of_endpoint(endpoint))
        return (self._refusal(found) if found else "") or "the cluster keeps other weights or copies than it was told"

    def _refusal(self, route: Mapping[str, Any]) -> str:
        """Why a route is not in effect; empty where its gateway has accepted it as it is now."""
        generation = route["metadata"].get("generation", 0)
        for parent in route.get("status", {}).get("parents", []):
            if parent["parentRef"]["name"] != self._gateway.name:
                continue
            told = {one["type"]: one for one in parent.get("conditions", [])}
            for kind in ("Accepted", "ResolvedRefs"):
                one = told.get(kind, {})
                if one.get("status") != "True":
                    return f"{kind} is {one.get('status', 'not told')}: {one.get('message', '')}"
                if one.get("observedGeneration", 0) < generation:
                    return f"gateway {self._gateway.name} has not looked at it since it was changed"
            return ""
        return f"gateway {self._gateway.name} says nothing of it"

    def are_reached(self, endpoint: str, revision: str, pods: int) -> bool:
        """Whether the revision's Service has so many ready pods; a weight before that is refused requests."""
        slices = self._api.list("endpointslices", {_OF_SERVICE: names.of_revision(endpoint, revision)})
        ready = [
            one for found in slices for one in found.get("endpoints") or [] if one.get("conditions", {}).get("ready")
        ]
        return len(ready) >= pods

    def active(self, endpoint: str, revision: str) -> int:
        """Requests that its servers are answering; one at least until none has come for some seconds.

        That a gateway has accepted a route does not say that all of its proxies have it.
        """
        told = [values for _, values in self._told(endpoint, revision)]
        seen, now = sum(_counts(values).requests for values in told), clock.monotonic()
        last, since = self._quiet.get((endpoint, revision), (-1, now))
        if seen != last:
            since = now
        self._quiet[endpoint, revision] = seen, since
        in_progress = sum(int(values.get("headgate_requests_in_progress", 0)) for values in told)
        return max(in_progress, int(bool(told) and now - since < _QUIET_SECONDS))

    def counts(self, endpoint: str, revisions: Iterable[str]) -> dict[str, Counts]:
        """What the servers of each have counted; what one had counted that is gone stays in it."""
        wanted = list(revisions)
        for revision in wanted:
            for source, told in self._told(endpoint, revision):
                self._tally.take(endpoint, source, {revision: _counts(told)})
        return self._tally.total(endpoint, wanted)

    def ask(self, endpoint: str, payload: Payload, revision: str | None, request_id: str) -> Prediction:
        """A prediction of a pod's own server: of one revision, or of the one with most of the traffic."""
        traffic = known(self._api.find(HttpRoute.kind, names.of_endpoint(endpoint))).traffic
        asked = revision or (max(traffic.weights, key=traffic.weights.__getitem__) if traffic else "")
        pods = [one for one in self._pods(endpoint, asked) if _is_ready(one)]
        if not pods:
            raise TargetUnavailableError(f"{asked or 'nothing'} of {endpoint} has a ready pod", fix="headgate status")
        headers = {"content-type": payload.content_type, "x-request-id": request_id}
        reply = self._api.post(pods[0]["metadata"]["name"], PORT, "/invocations", payload.body, headers)
        return Prediction(
            status=reply.status_code, body=reply.content, request_id=request_id, seconds=reply.elapsed.total_seconds()
        )

    def _told(self, endpoint: str, revision: str) -> Iterator[tuple[tuple[str, str], dict[str, float]]]:
        """Each server's metrics by their name, or their name and label; those that cannot be asked now are left out."""
        for pod in self._pods(endpoint, revision):
            statuses: list[dict[str, Any]] = pod["status"].get("containerStatuses", [])
            server = next((one for one in statuses if one["name"] in names.SERVERS), {})
            source = (pod["metadata"]["name"], str(server.get("containerID", "")))
            if "running" not in server.get("state", {}):
                continue
            try:
                text = self._api.ask(source[0], PORT, "/metrics").text
            except TargetError:
                # It is ending, or loads its model.
                self._tally.miss(endpoint, source)
                continue
            yield source, _metrics(text)

    def _pods(self, endpoint: str, revision: str) -> list[dict[str, Any]]:
        return self._api.list("pods", {ENDPOINT: endpoint, REVISION: revision})


def _is_ready(pod: Mapping[str, Any]) -> bool:
    conditions = {one["type"]: one["status"] for one in pod["status"].get("conditions", [])}
    return conditions.get("Ready") == "True" and "deletionTimestamp" not in pod["metadata"]


def _metrics(text: str) -> dict[str, float]:
    """Values by the metric's name, and the value of its one label where it has one."""
    return {
        " ".join([sample.name, *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def _counts(told: Mapping[str, float]) -> Counts:
    by_status = {
        int(name.rpartition(" ")[2]): round(value)
        for name, value in told.items() if name.startswith("headgate_requests_total ")
    }  # fmt: skip
    below = sorted(
        (float(name.rpartition(" ")[2]), round(value))
        for name, value in told.items() if name.startswith("headgate_request_seconds_bucket ")
    )  # fmt: skip
    cumulative = [value for _, value in below]
    return Counts(
        requests=sum(by_status.values()),
        failures=sum(value for status, value in by_status.items() if status >= _HTTP_ERROR),
        client_errors=sum(value for status, value in by_status.items() if _HTTP_ERROR <= status < _SERVER_ERROR),
        histograms=latencies(value - before for value, before in zip(cumulative, [0, *cumulative[:-1]], strict=True)),
    )
