"""The Kubernetes target: a revision is a Deployment of a namespace, or an InferenceService, behind Envoy.

Nothing has to be installed in the cluster but the gateway, which any namespace takes (gateway.py).
"""

from __future__ import annotations

import uuid
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from deploy_targets import envoy_config
from deploy_targets.behind_envoy import PROMETHEUS_RINGS
from deploy_targets.clouds import poll
from deploy_targets.kubernetes import names
from deploy_targets.kubernetes.api import Api
from deploy_targets.kubernetes.capture import Captures
from deploy_targets.kubernetes.endpoint import Endpoint, Known, known
from deploy_targets.kubernetes.fleet import Fleet
from deploy_targets.kubernetes.gateway_api import GatewayApi
from deploy_targets.kubernetes.gateways import Gateways
from deploy_targets.kubernetes.growth import Growth
from deploy_targets.kubernetes.kserve import INFERENCE_SERVICES
from deploy_targets.kubernetes.names import ENDPOINT
from deploy_targets.kubernetes.preflight import findings, misfits, role
from deploy_targets.kubernetes.servers import DEPLOYMENTS
from deploy_targets.kubernetes.usage import usage_of
from deploy_targets.protocol import Feature, ImageRepository
from headgate import clock
from headgate.errors import NobodyRoutesError, RevisionFailedError, TargetError, TargetUnavailableError
from headgate.gateway_limits import widest
from headgate.limits import EFFECT, seconds_of
from headgate.records import EndpointState, RevisionState, Traffic
from headgate.units import BASIS_POINTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import pyarrow as pa

    from deploy_targets.kubernetes.routing import Routing
    from deploy_targets.kubernetes.servers import Servers
    from deploy_targets.kubernetes.settings import KubernetesSettings
    from headgate.counts import Counts
    from headgate.findings import Finding
    from headgate.records import Alarm, Payload, Prediction, Revision, Usage, Window
    from headgate.spec import ReleaseSpec

_OF_CLUSTER = "the cluster's own gateway (target.gateway) has its own limits; set them there"
_AGREE_SECONDS = 3.0
_HEALTHY_SECONDS = 60.0
_POLL_SECONDS = 0.05


class KubernetesTarget:
    """One namespace of a cluster.

    Args:
        settings: which, and how pods are made.
    """

    UNSUPPORTED: ClassVar[Mapping[Feature, str]] = {
        Feature.SCALE_TO_ZERO: "Kubernetes' own autoscaler leaves one pod; have KEDA scale, by target.keda, or set "
        "replicas.min to 1",
        Feature.ALARMS: PROMETHEUS_RINGS,
    }
    SUBSTITUTED: ClassVar[Mapping[Feature, str]] = {}
    CALLS: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    LATENCY_BOUNDS: ClassVar[tuple[float, ...]] = envoy_config.LATENCY_SECONDS
    LOOK_SECONDS: ClassVar[float] = 1.0
    LOG_DELAY: ClassVar[float] = 10.0
    WEIGHT_STEP: ClassVar[int] = 1
    MIRROR_LIMIT: ClassVar[int] = BASIS_POINTS
    RUNS_CONTAINERS: ClassVar[bool] = True

    def __init__(self, settings: KubernetesSettings) -> None:
        self._settings = settings
        self._api = Api(settings.context, settings.namespace)
        self._routing: Routing = (
            GatewayApi(self._api, settings, settings.gateway) if settings.gateway else Gateways(self._api, settings)
        )
        servers = DEPLOYMENTS if settings.kserve is None else INFERENCE_SERVICES
        self.CALLS = _calls(servers, self._routing.form.kind)  # type: ignore[misc]
        # The kind of target says what Headgate's own gateway has.
        self.LATENCY_BOUNDS = self._routing.latency_bounds  # type: ignore[misc]
        if settings.keda is not None:
            able = {Feature.SCALE_TO_ZERO}
            self.UNSUPPORTED = {one: why for one, why in self.UNSUPPORTED.items() if one not in able}  # type: ignore[misc]
        if settings.kserve is not None:
            why_not = {Feature.SCALE_TO_ZERO: "KServe's autoscaler leaves one pod; set replicas.min to 1"}
            self.UNSUPPORTED = {**self.UNSUPPORTED, **why_not}  # type: ignore[misc]
        if settings.gateway is not None:
            self.UNSUPPORTED = {**self.UNSUPPORTED, **dict.fromkeys((Feature.LIMITS, Feature.TIMEOUTS), _OF_CLUSTER)}  # type: ignore[misc]
        self._captures, self._fleet = Captures(settings.captures), Fleet(self._api, settings)

    @classmethod
    def of(cls, settings: KubernetesSettings) -> KubernetesTarget:
        """The target that a release file describes."""
        return cls(settings)

    def preflight(self) -> list[Finding]:
        """Whether the cluster knows us, what we may, and whether it has the gateway and the place of the log."""
        return findings(self._api, self._routing, self._captures, self._settings)

    def misfits(self, spec: ReleaseSpec) -> list[Finding]:
        """What pods cannot be."""
        return list(misfits(self._settings, spec))

    def permissions(self) -> str:
        """A Role, as `kubectl apply -f -` takes it."""
        return role(self._settings)

    def repository(self, model: str, named: str) -> ImageRepository:  # noqa: ARG002 - none is made
        """What the release file names; without one, nodes have to share this machine's Docker daemon."""
        return ImageRepository(named)

    def endpoints(self) -> list[str]:
        """Those with servers, or a ConfigMap that says more than a fence."""
        kept = {
            one["metadata"]["labels"][ENDPOINT]
            for one in self._api.list(self._routing.form.kind, ENDPOINT)
            if _has_content(known(one))
        }
        return sorted(self._fleet.endpoints() | kept)

    def observe(self, endpoint: str) -> EndpointState | None:
        """What servers, pods and who routes say."""
        there, made = self._endpoint(endpoint).known(), self._fleet.of(endpoint)
        if not made and not _has_content(there):
            return None
        states = {name: self._state(endpoint, name, found, there) for name, found in made.items()}
        for name, version in there.revisions.items():
            states.setdefault(
                name, RevisionState(name=name, ready=False, detail="what made its pods is gone", version=version)
            )
        return EndpointState(
            endpoint=endpoint, url=self._routing.url(endpoint), revisions=states,
            traffic=self._traffic(endpoint, there),
        )  # fmt: skip

    def deploy(self, endpoint: str, revision: Revision) -> None:
        """Make what a revision consists of, wait for its pods, and make it known to the gateway."""
        names.of_revision(endpoint, revision.name)
        there = self._endpoint(endpoint).known()
        made = self._fleet.of(endpoint).get(revision.name)
        if made is not None and made.is_leaving:
            # Whoever retired it did not live to see it gone.
            self._fleet.remove(endpoint, revision.name)
            made = None
        # One that is to get a part of the traffic grows with it.
        is_first = there.traffic is None or there.traffic.weight(revision.name) > 0
        pods = max(1, revision.workers if is_first else 1, made.asked if made else 0)
        if made is None:
            self._growth(endpoint, there).admit()
        try:
            self._fleet.apply(endpoint, revision, pods, made)
            self._fleet.pods(endpoint, revision.name, made).wait(pods, revision)
            self._endpoint(endpoint).change(None, lambda now: _with(now, revision))
            self._wait_until_reached(endpoint, revision.name, pods)
        except RevisionFailedError:
            # What may still become ready is tried again; and another process may have made more of it by now.
            if made is None and not self._endpoint(endpoint).known().uses(revision.name):
                self._remove(endpoint, revision.name, fence=None)
            raise

    def manifests(self, endpoint: str, revision: Revision) -> list[dict[str, Any]]:
        """What `deploy` applies, at its full size, and the endpoint's object after it; nothing is changed."""
        there_already = self._fleet.of(endpoint).get(revision.name)
        made = self._fleet.manifests(endpoint, revision, revision.workers, there_already)
        there = self._endpoint(endpoint)
        return [*(manifest for _, manifest in made), there.manifest(_with(there.known(), revision))]

    def route(self, endpoint: str, traffic: Traffic, *, fence: int | None = None) -> None:
        """Let those that get more grow first, then write the weights."""
        if fence is not None:
            # Pods are not added for one who is late.
            self.fence(endpoint, fence)
        made = self._fleet.of(endpoint)
        there = self._endpoint(endpoint).known()
        for name in (*traffic.weights, *([traffic.mirror.revision] if traffic.mirror else [])):
            if name not in made or name not in there.revisions:
                raise TargetError(f"no traffic to {name} of {endpoint}: it is not deployed", fix="headgate status")
        for name in traffic.weights:
            if not (made[name].answering or made[name].is_asleep):
                why = self._fleet.pods(endpoint, name, made[name]).why_not() or "is not ready"
                raise TargetError(f"no traffic to {name} of {endpoint}: it {why}", fix="headgate status")
        for stage in self._growth(endpoint, there).stages(traffic, made):
            wanted = self._endpoint(endpoint).change(fence, partial(_routed, traffic=stage))
            self._wait_for_effect(endpoint, stage, wanted)

    def fence(self, endpoint: str, fence: int) -> None:
        """Have the endpoint's object keep the number."""
        self._endpoint(endpoint).change(fence, lambda now: now)

    def counts(self, endpoint: str) -> Mapping[str, Counts]:
        """The counters of all who count, one reading of each."""
        there = self._endpoint(endpoint).known()
        return self._routing.counts(endpoint, there.revisions)

    def usage(self, endpoint: str) -> Mapping[str, Usage]:
        """Restarts of each revision's pods, and their memory where the cluster has a metrics server."""
        return usage_of(self._api, endpoint)

    def alarms(self) -> list[Alarm]:
        """None: those of Prometheus come to the receiver."""
        return []

    def captured(self, endpoint: str, window: Window) -> Iterator[pa.RecordBatch]:
        """What servers brought to `captures`."""
        return self._captures.read(endpoint, window)

    def invoke(self, endpoint: str, payload: Payload, revision: str | None = None) -> Prediction:
        """Ask through the gateway, which is reached through the API server."""
        return self._routing.ask(endpoint, payload, revision, str(uuid.uuid4()))

    def retire(self, endpoint: str, revision: str, *, fence: int | None = None) -> None:
        """Take the revision out of the routes once its last request is answered, then remove what it consists of."""
        there = self._endpoint(endpoint).known()
        traffic = there.traffic
        if traffic is not None and traffic.uses(revision):
            raise TargetError(
                f"{revision} of {endpoint} still has traffic: {traffic.weight(revision)} basis points"
                + (", mirrored" if traffic.mirror and traffic.mirror.revision == revision else "")
            )
        if fence is not None:
            # Nor are they changed, for one who is late.
            self.fence(endpoint, fence)
        # No answer takes longer than the route lets it.
        deadline = clock.monotonic() + widest(there.limits.values()).request
        while self._routing.active(endpoint, revision) and clock.monotonic() < deadline:
            clock.sleep(_POLL_SECONDS)
        self._growth(endpoint, self._endpoint(endpoint).known()).relax(revision)
        self._remove(endpoint, revision, fence)

    def delete(self, endpoint: str, *, fence: int | None = None) -> None:
        """Remove the endpoint's object, and so its routes; then every revision."""
        there = self._endpoint(endpoint).known()
        found = self._fleet.revisions(endpoint)
        self._endpoint(endpoint).remove(fence)
        for revision in sorted(found | set(there.revisions)):
            self._fleet.remove(endpoint, revision)
        self._captures.remove(endpoint)

    def _remove(self, endpoint: str, revision: str, fence: int | None) -> None:
        self._endpoint(endpoint).change(fence, lambda now: _without(now, revision))
        self._fleet.remove(endpoint, revision)
        self._captures.remove(endpoint, revision)
        there = self._endpoint(endpoint).known()
        if not _has_content(there) and not there.fence:
            self._endpoint(endpoint).remove(None)

    def _wait_until_reached(self, endpoint: str, revision: str, pods: int) -> None:
        poll(
            lambda: self._routing.are_reached(endpoint, revision, pods), bool, _HEALTHY_SECONDS,
            f"the gateway's look at the pods of {revision}",
        )  # fmt: skip

    def _wait_for_effect(self, endpoint: str, traffic: Traffic, wanted: Known) -> None:
        seconds = seconds_of(EFFECT)
        deadline = clock.monotonic() + seconds
        while any(told != traffic for told in self._routing.traffic(endpoint)) or not self._routing.limited(
            endpoint, wanted
        ):
            if clock.monotonic() > deadline:
                raise TargetError(
                    f"the gateway did not take over the routes of {endpoint} within {seconds:g} s",
                    fix=self._routing.why_not(endpoint),
                )
            clock.sleep(_POLL_SECONDS)

    def _traffic(self, endpoint: str, there: Known) -> Traffic | None:
        """What is in effect everywhere, or will be when somebody routes."""
        deadline = clock.monotonic() + _AGREE_SECONDS
        while True:
            try:
                told = self._routing.traffic(endpoint)
            except NobodyRoutesError:
                return there.traffic
            if all(one == told[0] for one in told):
                return told[0]
            if clock.monotonic() > deadline:
                raise TargetUnavailableError(
                    f"the gateway's pods do not agree on the traffic of {endpoint}",
                    fix=self._routing.why_not(endpoint),
                )
            clock.sleep(_POLL_SECONDS)

    def _state(self, endpoint: str, name: str, found: Servers, there: Known) -> RevisionState:
        is_well = found.answering or found.is_asleep
        detail = "" if is_well else self._fleet.pods(endpoint, name, found).why_not() or "has no ready pod"
        if not detail and name not in there.revisions:
            detail = "is not known to the gateway"
        return RevisionState(name=name, ready=not detail, detail=detail, version=found.version)

    def _growth(self, endpoint: str, there: Known) -> Growth:
        look, reached = partial(self._fleet.of, endpoint), partial(self._wait_until_reached, endpoint)
        return Growth(self._api, endpoint, there, look, reached, self._settings)

    def _endpoint(self, endpoint: str) -> Endpoint:
        return Endpoint(self._api, endpoint, self._routing.form, self._settings.labels)


def _calls(servers: str, routes: str) -> Mapping[str, tuple[str, ...]]:
    """What the steps of a release ask besides reading, by the kinds of what makes pods and of what an endpoint is."""
    return {
        "deploy": (f"PATCH {servers}, services, poddisruptionbudgets, networkpolicies", f"PUT {routes}"),
        "shadow": (f"PUT {routes}, twice",),
        "shift": (f"PATCH {servers}, where its pods are too few", f"PUT {routes}, once a step"),
        "promote": (f"PUT {routes}",),
    }


def _has_content(there: Known) -> bool:
    return there.traffic is not None or bool(there.revisions)


def _with(now: Known, revision: Revision) -> Known:
    return now.model_copy(
        update={
            "revisions": {**now.revisions, revision.name: revision.version},
            "limits": {**now.limits, revision.name: revision.limits},
        }
    )


def _routed(now: Known, traffic: Traffic) -> Known:
    """Raises TargetError where somebody has removed one of them meanwhile."""
    if gone := [name for name in traffic.weights if name not in now.revisions]:
        raise TargetError(f"no traffic to {gone[0]}: it is not deployed any more", fix="headgate status")
    served = {*now.served, *([traffic.holder] if traffic.holder else [])}
    return now.model_copy(update={"traffic": traffic, "served": tuple(sorted(served))})


def _without(now: Known, revision: str) -> Known:
    """Raises TargetError where somebody has given it traffic meanwhile."""
    if now.uses(revision):
        raise TargetError(f"{revision} still has traffic, live or mirrored", fix="headgate status")
    left = {name: one for name, one in now.revisions.items() if name != revision}
    limits = {name: one for name, one in now.limits.items() if name != revision}
    served = tuple(name for name in now.served if name != revision)
    return now.model_copy(update={"revisions": left, "served": served, "limits": limits})
