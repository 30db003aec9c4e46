"""Endpoints of inference components: machines and copies come and go with the load, down to none.

Requests name their component, and SageMaker splits none between two, copies none and captures none. So a release is
blue-green: SageMaker replaces the copies of the component that clients name in steps, and its alarms take that back;
before and after it the other version is asked again what the log has, which the containers bring to S3 themselves.
"""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from deploy_targets.clouds import problem, wait_until_ready
from deploy_targets.protocol import Feature
from deploy_targets.sagemaker import evidence, names
from deploy_targets.sagemaker.components import ComponentFleet, Components
from deploy_targets.sagemaker.fleet import COMPONENTS, FAILED, SERVING
from deploy_targets.sagemaker.hosting import Hosting
from deploy_targets.sagemaker.scaling import ComponentScaling
from deploy_targets.sagemaker.shipped import ShippedCaptures
from deploy_targets.sagemaker.target import NO_SECRETS, SageMakerTarget, variants_of
from headgate import clock
from headgate.counts import Counts
from headgate.errors import RevisionFailedError, RolledBackError, TargetError, TargetUnavailableError
from headgate.records import EndpointState, Payload, Prediction, RevisionState, Traffic

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import pyarrow as pa

    from deploy_targets.sagemaker.components import Component
    from deploy_targets.sagemaker.settings import InferenceComponents, SageMakerSettings
    from headgate.findings import Finding
    from headgate.records import Revision, Usage, Window
    from headgate.spec import ReleaseSpec

_SCRATCH = "/tmp/headgate"  # noqa: S108 - the container's own
_LEAST_MEMORY, _LEAST_CPU = 128 * 2**20, 0.25
"""By API_InferenceComponentComputeResourceRequirements.html."""
_KNOWN_SECONDS = 5.0
"""How long we rely on who is live when we ask a revision; another process may change it."""


class _Span(NamedTuple):
    """What a component was asked while it ran a revision."""

    revision: str
    component: str
    counter: evidence.Counter


class ComponentsTarget(Hosting):
    """Inference components of one account and region.

    Args:
        settings: which, and how machines are made.
        hosting: how many machines there may be, and how a component is updated.
    """

    UNSUPPORTED: ClassVar[Mapping[Feature, str]] = {
        **dict.fromkeys((Feature.LIMITS, Feature.TIMEOUTS), "SageMaker's own gateway has the limits"),
        Feature.SPLIT: "requests name their inference component, and SageMaker splits none between two; use "
        "strategy.kind: blue-green",
        Feature.SECRETS: NO_SECRETS,
    }
    SUBSTITUTED: ClassVar[Mapping[Feature, str]] = {
        Feature.SHADOW: "asked again from the log, on a component of the candidate's own",
        Feature.MIRROR: "the version before is asked again what the log says that the new one was asked",
    }
    CALLS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "deploy": ("CreateModel", "CreateInferenceComponent"),
        "shadow": ("InvokeEndpoint, once a request that is compared",),
        "shift": (
            "AddTags, three times", "UpdateInferenceComponent", "UpdateInferenceComponentRuntimeConfig, twice",
            "DeregisterScalableTarget, RegisterScalableTarget, PutScalingPolicy, PutMetricAlarm (where it scales)",
            "InvokeEndpoint, once a request that is compared",
        ),
        "promote": (),
    }  # fmt: skip
    # A version that is asked again is not under the load of one that clients ask, so nothing is said of latencies.
    LATENCY_BOUNDS: ClassVar[tuple[float, ...]] = ()
    LOOK_SECONDS: ClassVar[float] = 10.0
    LOG_DELAY: ClassVar[float] = 10.0
    WEIGHT_STEP: ClassVar[int] = 1
    MIRROR_LIMIT: ClassVar[int] = 0
    RUNS_CONTAINERS: ClassVar[bool] = True

    def __init__(self, settings: SageMakerSettings, hosting: InferenceComponents) -> None:
        super().__init__(settings)
        self._hosting = hosting
        self._spans: dict[str, list[_Span]] = {}
        self._captures: dict[str, ShippedCaptures] = {}
        self._holders: dict[str, tuple[float, str | None]] = {}

    @classmethod
    def of(cls, settings: SageMakerSettings) -> ComponentsTarget:
        """The target that a release file describes."""
        if settings.inference_components is None:
            raise TargetError("target.inference_components is not set", fix="set it, or open the target by its kind")
        return cls(settings, settings.inference_components)

    def misfits(self, spec: ReleaseSpec) -> list[Finding]:
        """What a release file has to say for a component to be placed on a machine."""
        asked, found = spec.runtime.resources, []
        if asked.memory is None or asked.memory < _LEAST_MEMORY:
            says = "says nothing" if asked.memory is None else f"says {spec.runtime.memory}"
            told = f"machines are found for inference components by the memory that they need, 128Mi or more; it {says}"
            found.append(problem("runtime.memory", told, "set it to what a copy of the server needs, such as 2Gi"))
        if asked.cpu is not None and asked.cpu < _LEAST_CPU:
            told = f"an inference component has {_LEAST_CPU:g} of a core or more, and runtime.cpu is {asked.cpu:g}"
            found.append(problem("runtime.cpu", told, f"set it to {_LEAST_CPU:g}, or leave it out"))
        return found

    def observe(self, endpoint: str) -> EndpointState | None:
        """What SageMaker says of the endpoint and of each component, and the models that have none."""
        described, models = self._fleet(endpoint).described(), self._models(endpoint)
        if described is None and not models:
            return None
        if described is not None and variants_of(described).keys() - {COMPONENTS}:
            # Of a time before; a release says that it cannot be changed.
            return SageMakerTarget(self._settings).observe(endpoint)
        components, serves = self._components(endpoint), bool(described and described["EndpointStatus"] in SERVING)
        there = components.all() if described is not None else {}
        live = components.live(there) if serves else None
        self._holders[endpoint] = clock.monotonic(), live
        states = {}
        for model, arn in sorted(models.items()):
            name = names.revision_of(model, endpoint)
            found = there.get(endpoint if name == live else model)
            why_not = self._why_not_ready(found, arn) if serves else "is on an endpoint that does not serve"
            version = names.version_of_tags(self._tagged.facts(arn))
            states[name] = RevisionState(name=name, ready=not why_not, detail=why_not, version=version)
        traffic = Traffic.all_to(live) if live else None
        return EndpointState(endpoint=endpoint, url=self._url(endpoint), revisions=states, traffic=traffic)

    def deploy(self, endpoint: str, revision: Revision) -> None:
        """Make its model, and a component of its own, which no client names."""
        fleet, components = self._fleet(endpoint), self._components(endpoint)
        described = fleet.settled()
        if described is not None:
            self._tagged.see_that_it_is_ours(described)
        # Before anything is made: whether the name that clients are to use is somebody else's.
        components.described(endpoint)
        fleet.ensure(described)
        try:
            found = components.settled(components.own(revision.name))
            if found is not None and found["InferenceComponentStatus"] == FAILED:
                components.remove(components.own(revision.name))
                found = None
            if found is None:
                self._make_model(endpoint, revision)
                components.make(revision, self._settings.tags)
            elif self._holder(endpoint) != revision.name:
                # It may have had clients, and none of its own then.
                components.have_copies(components.own(revision.name), 1)
        except RevisionFailedError:
            self._remove_model(endpoint, revision.name)
            self._end_if_empty(endpoint)
            raise
        wait_until_ready(self.observe, endpoint, revision)

    def route(self, endpoint: str, traffic: Traffic, *, fence: int | None = None) -> None:
        """Have SageMaker replace what clients get; returns when it has."""
        wanted, components = traffic.holder, self._components(endpoint)
        if wanted is None or traffic.mirror is not None:
            raise TargetError(f"no split and no mirror on {endpoint}: {self.UNSUPPORTED[Feature.SPLIT]}")
        described, there = self._fleet(endpoint).settled() or {}, components.all()
        if components.own(wanted) not in there:
            raise TargetError(f"no traffic to {wanted} of {endpoint}: it is not deployed", fix="headgate status")
        model = names.model_arn(described, wanted)
        live, goes_back = components.settled(endpoint), self._tagged.has_served(model)
        self._tagged.keep_out(described, fence)
        if components.live({endpoint: live} if live else {}) != wanted:
            self._replace(endpoint, described, wanted, fence, goes_back=goes_back)
        elif live is not None:
            components.see_that_it_settled(live)
        found = components.live(components.all())
        self._holders[endpoint] = clock.monotonic(), found
        if found != wanted:
            raise TargetUnavailableError(f"{endpoint} was to be {wanted}, and SageMaker says {found or 'nobody'}")
        self._see_to_copies(endpoint, described, wanted)
        if not goes_back:
            for other in self._models(endpoint):
                if other != components.own(wanted):
                    # To be asked again what the new one is asked.
                    components.have_copies(other, 1)
            self._tagged.serves(model)

    def _replace(
        self, endpoint: str, described: Mapping[str, Any], wanted: str, fence: int | None, *, goes_back: bool
    ) -> None:  # fmt: skip
        components, least = self._components(endpoint), self._bounds(described, wanted)[0]
        self._scaling(endpoint).end(endpoint)
        self._counted_until_now(endpoint)
        try:
            components.give(
                wanted, least, self._settings.tags, goes_back=goes_back,
                # What was waited for may have taken long.
                allow=lambda: self._tagged.keep_out(described, fence),
            )  # fmt: skip
        except (RevisionFailedError, RolledBackError):
            self._heal(endpoint, described)
            raise
        self._counted_from_now(endpoint, wanted)

    def _heal(self, endpoint: str, described: Mapping[str, Any]) -> None:
        """Whoever clients get follows the load, also where a change of that did not come to its end."""
        if described and (live := self._components(endpoint).live(self._components(endpoint).all())):
            self._see_to_copies(endpoint, described, live)

    @property
    def counts_delay(self) -> float:
        """Seconds after which CloudWatch shows a request in `counts` at the latest."""
        return evidence.counts_delay()

    def counts(self, endpoint: str) -> Mapping[str, Counts]:
        """CloudWatch's sums of each revision's components, of the one that clients name from the next minute on."""
        there = self._components(endpoint).all()
        (spans, _), end = self._spanned(endpoint, there), evidence.end_of_counts()
        counted: dict[str, Counts] = {}
        for span in spans:
            known = counted.get(span.revision, Counts(requests=0, failures=0))
            more = span.counter.read({"InferenceComponentName": span.component}, end)
            counted[span.revision] = Counts.total([known, more])
        return {name: one for name, one in counted.items() if names.model_name(endpoint, name) in there}

    def usage(self, endpoint: str) -> Mapping[str, Usage]:
        """CloudWatch's percents of what is reserved for a copy; of what clients get from when its counts begin."""
        there = self._components(endpoint).all()
        spans, live = self._spanned(endpoint, there)
        components = {names.revision_of(name, endpoint): name for name in there if name != endpoint}
        of = {name: {"InferenceComponentName": one} for name, one in components.items() if name}
        since = {}
        if live is not None:
            of[live] = {"InferenceComponentName": endpoint}
            # While its copies were replaced, the component had those of both versions.
            since[live] = next(
                (span.counter.since for span in reversed(spans) if span[:2] == (live, endpoint)), evidence.next_minute()
            )
        return evidence.memory(self._aws, evidence.OF_COPIES, of, since)

    def _spanned(self, endpoint: str, there: Mapping[str, Component]) -> tuple[list[_Span], str | None]:
        """What is counted of the components, begun where it was not; and the revision that clients get."""
        spans = self._spans.setdefault(endpoint, [])
        for name in sorted(there):
            revision = names.revision_of(name, endpoint)
            if revision and all(span.component != name for span in spans):
                spans.append(_Span(revision, name, evidence.Counter(self._aws, latencies=False)))
        live = self._components(endpoint).live(there)
        if live is not None and all(span.component != endpoint or span.counter.until for span in spans):
            spans.append(_Span(live, endpoint, evidence.Counter(self._aws, latencies=False)))
        return spans, live

    def captured(self, endpoint: str, window: Window) -> Iterator[pa.RecordBatch]:
        """What the containers brought to S3."""
        return self._captured(endpoint).rows(window)

    def invoke(self, endpoint: str, payload: Payload, revision: str | None = None) -> Prediction:
        """InvokeEndpoint: the component that clients name, or that of one revision."""
        request_id, began = str(uuid.uuid4()), time.perf_counter()
        is_live = revision is None or revision == self._holder(endpoint)
        status, body = self._aws.invoke(
            EndpointName=endpoint, Body=payload.body, ContentType=payload.content_type, InferenceId=request_id,
            CustomAttributes=f"x-request-id={request_id}",
            InferenceComponentName=endpoint if is_live else names.model_name(endpoint, revision or ""),
        )  # fmt: skip
        return Prediction(status=status, body=body, request_id=request_id, seconds=time.perf_counter() - began)

    def retire(self, endpoint: str, revision: str, *, fence: int | None = None) -> None:
        """Remove its own component, what it wrote, and its model; the machines with the last one."""
        fleet, components = self._fleet(endpoint), self._components(endpoint)
        described = fleet.settled()
        if described is not None:
            live = components.settled(endpoint)
            if live is not None and names.revision_of(live["Specification"]["ModelName"], endpoint) == revision:
                raise TargetError(f"{revision} of {endpoint} still has traffic: it is what clients get")
            self._tagged.keep_out(described, fence)
            components.remove(components.own(revision))
        self._captured(endpoint).remove(revision)
        self._remove_model(endpoint, revision)
        self._heal(endpoint, described or {})
        self._end_if_empty(endpoint)

    def delete(self, endpoint: str, *, fence: int | None = None) -> None:
        """Remove the components and the endpoint, then what its revisions left."""
        fleet, components = self._fleet(endpoint), self._components(endpoint)
        described = fleet.settled()
        if described is not None:
            self._tagged.see_that_it_is_ours(described)
            self._tagged.keep_out(described, fence)
            self._scaling(endpoint).end(endpoint)
            # What clients name first.
            for name in sorted(components.all(), key=lambda name: (name != endpoint, name)):
                components.remove(name)
        fleet.delete()
        for model in self._models(endpoint):
            revision = names.revision_of(model, endpoint)
            self._captured(endpoint).remove(revision)
            self._remove_model(endpoint, revision)

    def _end_if_empty(self, endpoint: str) -> None:
        if not self._models(endpoint) and not self._components(endpoint).all():
            self._fleet(endpoint).delete()

    def _see_to_copies(self, endpoint: str, described: Mapping[str, Any], live: str) -> None:
        """What clients get has as many as its release file says, and the component of its own has none meanwhile."""
        components, (least, most) = self._components(endpoint), self._bounds(described, live)
        if least != most:
            self._scaling(endpoint).begin({endpoint: (least, most)})
        else:
            components.have_copies(endpoint, least)
        components.have_copies(components.own(live), 0)

    def _why_not_ready(self, found: Component | None, model_arn: str) -> str:
        if found is None:
            return "has no inference component"
        status = found["InferenceComponentStatus"]
        if status not in {"InService", "Updating"}:
            reason = found.get("FailureReason", "")
            return f"is {status}" + (f": {reason}" if reason else "")
        running, wanted = (found["RuntimeConfig"].get(key, 0) for key in ("CurrentCopyCount", "DesiredCopyCount"))
        bounds = names.replicas_of_tags(self._tagged.facts(model_arn))
        if running or (not wanted and bounds is not None and bounds[0] == 0):
            return ""
        return f"runs {running} of {wanted} copies"

    def _bounds(self, described: Mapping[str, Any], revision: str) -> tuple[int, int]:
        arn = names.model_arn(described, revision)
        return names.replicas_of_tags(self._tagged.facts(arn)) or (1, 1)

    def _holder(self, endpoint: str) -> str | None:
        at, live = self._holders.get(endpoint, (0.0, None))
        if clock.monotonic() - at > _KNOWN_SECONDS:
            components = self._components(endpoint)
            found = components.described(endpoint)
            live = components.live({endpoint: found} if found else {})
            self._holders[endpoint] = clock.monotonic(), live
        return live

    def _counted_until_now(self, endpoint: str) -> None:
        """What clients ask from then on is nobody's, until all of them get the same revision again.

        In the rest of this minute nobody gets another one yet: SageMaker takes longer to start a copy.
        """
        for span in self._spans.get(endpoint, []):
            if span.component == endpoint and span.counter.until is None:
                span.counter.until = evidence.next_minute()

    def _counted_from_now(self, endpoint: str, revision: str) -> None:
        if endpoint in self._spans:
            counter = evidence.Counter(self._aws, latencies=False, since=evidence.next_minute())
            self._spans[endpoint].append(_Span(revision, endpoint, counter))

    def _facts(self, revision: Revision) -> dict[str, str]:
        replicas = f"{revision.workers}/{revision.most_workers or revision.workers}"
        return {**super()._facts(revision), "replicas": replicas}

    def _network(self) -> dict[str, Any]:
        """Nothing: it is the endpoint's configuration that says it for components."""
        return {}

    def _environment(self, endpoint: str, revision: Revision) -> dict[str, str]:
        where = f"{self._settings.captures}?region={self._aws.region}"
        ours = {"HEADGATE_SCRATCH": _SCRATCH, "HEADGATE_CAPTURES": where, "HEADGATE_SHIPS": "on"}
        return {**super()._environment(endpoint, revision), **ours}

    def _fleet(self, endpoint: str) -> ComponentFleet:
        return ComponentFleet(self._aws, self._settings, endpoint, self._hosting)

    def _components(self, endpoint: str) -> Components:
        return Components(self._aws, endpoint, self._hosting, self._settings.alarms)

    def _scaling(self, endpoint: str) -> ComponentScaling:
        return ComponentScaling(self._aws, endpoint, self._settings.invocations_per_instance)

    def _captured(self, endpoint: str) -> ShippedCaptures:
        return self._captures.setdefault(endpoint, ShippedCaptures(self._aws, self._settings.captures, endpoint))
