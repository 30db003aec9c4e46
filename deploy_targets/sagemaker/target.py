"""The SageMaker target: a revision is a variant of a real-time endpoint.

Two variants with weights are a canary, and one with a shadow variant is a mirror; SageMaker has no third. Going from
the one to the other replaces the set of variants, which takes SageMaker minutes and no client's request, and a change
of weights within a set takes seconds.
"""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Any, ClassVar

from deploy_targets.clouds import wait_until_ready
from deploy_targets.protocol import Feature
from deploy_targets.sagemaker import evidence, names
from deploy_targets.sagemaker.capture import Captures
from deploy_targets.sagemaker.evidence import BOUNDS, Counter
from deploy_targets.sagemaker.fleet import ADOPTED_SECONDS, COMPONENTS, FAILED, PROVISION_SECONDS, SERVING, Fleet
from deploy_targets.sagemaker.hosting import Hosting
from deploy_targets.sagemaker.scaling import Scaling
from deploy_targets.sagemaker.settings import InferenceComponents
from headgate.errors import RevisionFailedError, TargetError, TargetUnavailableError
from headgate.records import EndpointState, Payload, Prediction, RevisionState, Traffic
from headgate.units import BASIS_POINTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import pyarrow as pa

    from deploy_targets.sagemaker.components_target import ComponentsTarget
    from deploy_targets.sagemaker.fleet import Variant
    from deploy_targets.sagemaker.settings import SageMakerSettings
    from headgate.counts import Counts
    from headgate.records import Revision, Usage, Window

_INSTANCE = "a machine has what its type has; choose target.instance"
NO_SECRETS = (
    "SageMaker would show their values to everybody who may describe the model; have the model read its secrets from "
    "Secrets Manager, with target.role"
)
NEW_SET = ("CreateEndpointConfig", "UpdateEndpoint", "DeleteEndpointConfig")


class SageMakerTarget(Hosting):
    """Real-time endpoints of one account and region.

    Args:
        settings: which, and how machines are made.
    """

    UNSUPPORTED: ClassVar[Mapping[Feature, str]] = {
        Feature.SCALE_TO_ZERO: "only inference components scale to zero; set replicas.min to 1, or "
        "target.inference_components, which has no canary",
        Feature.CPU_LIMIT: _INSTANCE,
        Feature.MEMORY_LIMIT: _INSTANCE,
        Feature.GPU: _INSTANCE,
        **dict.fromkeys((Feature.LIMITS, Feature.TIMEOUTS), "SageMaker's own gateway has the limits"),
        Feature.SECRETS: NO_SECRETS,
        Feature.REDACT: "SageMaker captures whole bodies; leave capture.redact out, and guard the bucket",
    }
    SUBSTITUTED: ClassVar[Mapping[Feature, str]] = {}
    CALLS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "deploy": ("CreateModel", *NEW_SET),
        "shadow": ("AddTags", *NEW_SET, *NEW_SET, "AddTags"),
        "shift": ("UpdateEndpointWeightsAndCapacities, once a step",),
        "promote": ("UpdateEndpointWeightsAndCapacities",),
    }
    LATENCY_BOUNDS: ClassVar[tuple[float, ...]] = BOUNDS
    LOOK_SECONDS: ClassVar[float] = 10.0
    LOG_DELAY: ClassVar[float] = 180.0
    WEIGHT_STEP: ClassVar[int] = 1
    MIRROR_LIMIT: ClassVar[int] = BASIS_POINTS
    RUNS_CONTAINERS: ClassVar[bool] = True

    def __init__(self, settings: SageMakerSettings) -> None:
        super().__init__(settings)
        self._counters: dict[str, Counter] = {}
        self._captures: dict[str, Captures] = {}

    @classmethod
    def of(cls, settings: SageMakerSettings) -> Hosting:
        """The target that a release file describes."""
        if settings.inference_components is not None:
            return _of_components(settings)
        if settings.native_guardrails is None:
            return cls(settings)
        from deploy_targets.sagemaker.guarded import GuardedTarget  # noqa: PLC0415 - it is one of these

        return GuardedTarget(settings, settings.native_guardrails)

    def observe(self, endpoint: str) -> EndpointState | None:
        """What DescribeEndpoint says, and the models that have no machines."""
        described = self._fleet(endpoint).described()
        if described is not None and COMPONENTS in variants_of(described):
            # Of a time with other settings; a release says that it cannot be changed.
            return _of_components(self._settings).observe(endpoint)
        models = self._models(endpoint)
        if described is None and not models:
            return None
        return EndpointState(
            endpoint=endpoint,
            url=self._url(endpoint),
            revisions=self._states(endpoint, described or {}, models),
            traffic=names.traffic_of(described) if described and described["EndpointStatus"] in SERVING else None,
        )

    def deploy(self, endpoint: str, revision: Revision) -> None:
        """Make its model, and a variant without traffic; an endpoint's first variant is all that could answer."""
        fleet = self._fleet(endpoint)
        described = fleet.settled(max(ADOPTED_SECONDS, revision.ready_timeout + PROVISION_SECONDS))
        if described is not None:
            self._tagged.see_that_it_is_ours(described)
            if COMPONENTS in variants_of(described):
                raise TargetError(
                    f"{endpoint} is made of inference components, and is not changed into one of variants",
                    fix="set target.inference_components, choose another `endpoint:`, or remove this one first",
                )
            if described["EndpointStatus"] == FAILED:
                fleet.delete()
                described = None
        try:
            if described is None or not _is_on(described, revision.name):
                self._make_model(endpoint, revision)
                self._add(fleet, described, revision)
        except RevisionFailedError:
            self._remove_model(endpoint, revision.name)
            raise
        wait_until_ready(self.observe, endpoint, revision)
        if revision.most_workers:
            self._scaling(endpoint).begin({revision.name: (revision.workers, revision.most_workers)})

    def route(self, endpoint: str, traffic: Traffic, *, fence: int | None = None) -> None:
        """Set weights, or replace the set of variants where copies begin or end."""
        fleet = self._fleet(endpoint)
        described = fleet.settled() or {}
        self._see_that_it_can_be_routed(endpoint, described, traffic)
        self._tagged.keep_out(described, fence)
        before = names.traffic_of(described)
        if before != traffic:
            # Before the change: whoever dies after it would not come here again, as traffic is as it was wanted.
            for name in traffic.weights:
                if before is None or not before.weight(name):
                    self._tagged.copies_end(names.model_arn(described, name))
            self._shift(fleet, described, traffic)
        found = names.traffic_of(fleet.described() or {})
        if found != traffic:
            raise TargetUnavailableError(f"traffic of {endpoint} was to be {traffic}, and SageMaker says {found}")
        self._scale(described, traffic.weights)

    @property
    def counts_delay(self) -> float:
        """Seconds after which CloudWatch shows a request in `counts` at the latest."""
        return evidence.counts_delay()

    def counts(self, endpoint: str) -> Mapping[str, Counts]:
        """CloudWatch's sums of each variant since this target was opened."""
        described, end = self._fleet(endpoint).described() or {}, evidence.end_of_counts()
        counter = self._counters.setdefault(endpoint, Counter(self._aws))
        return {
            name: counter.read({"EndpointName": endpoint, "VariantName": name}, end) for name in variants_of(described)
        }  # fmt: skip

    def usage(self, endpoint: str) -> Mapping[str, Usage]:
        """CloudWatch's percents of the machines' memory, minutes late."""
        variants = variants_of(self._fleet(endpoint).described() or {})
        of = {name: {"EndpointName": endpoint, "VariantName": name} for name in variants}
        return evidence.memory(self._aws, evidence.OF_MACHINES, of)

    def captured(self, endpoint: str, window: Window) -> Iterator[pa.RecordBatch]:
        """What data capture wrote to S3."""
        copies = {
            revision: made
            for model, arn in self._models(endpoint).items()
            if (made := self._tagged.copies(arn)) and (revision := names.revision_of(model, endpoint))
        }
        traffic = names.traffic_of(self._fleet(endpoint).described() or {})
        mirror = traffic.mirror if traffic else None
        yield from self._captured(endpoint).read(window, copies, mirror.revision if mirror else None)

    def invoke(self, endpoint: str, payload: Payload, revision: str | None = None) -> Prediction:
        """InvokeEndpoint, of one variant if named."""
        request_id, began = str(uuid.uuid4()), time.perf_counter()
        status, body = self._aws.invoke(
            EndpointName=endpoint, Body=payload.body, ContentType=payload.content_type, InferenceId=request_id,
            **({"TargetVariant": self._variant_of(endpoint, revision)} if revision else {}),
        )  # fmt: skip
        return Prediction(status=status, body=body, request_id=request_id, seconds=time.perf_counter() - began)

    def retire(self, endpoint: str, revision: str, *, fence: int | None = None) -> None:
        """Remove the variant, what it wrote, and its model."""
        fleet = self._fleet(endpoint)
        described = fleet.settled()
        if described is not None:
            traffic = names.traffic_of(described) if described["EndpointStatus"] != FAILED else None
            if traffic is not None and traffic.uses(revision):
                raise TargetError(
                    f"{revision} of {endpoint} still has traffic: {traffic.weight(revision)} basis points"
                    + (", mirrored" if traffic.mirror and traffic.mirror.revision == revision else "")
                )
            self._tagged.keep_out(described, fence)
            if described["EndpointStatus"] == FAILED:
                # It serves nobody, and nothing else can be done with it.
                fleet.delete()
            elif _is_on(described, revision):
                production, shadow = fleet.variants(described)
                production.pop(revision)
                self._scaling(endpoint).end(revision)
                fleet.change(described, production, shadow, traffic)
        self._captured(endpoint).remove(revision)
        self._remove_model(endpoint, revision)

    def delete(self, endpoint: str, *, fence: int | None = None) -> None:
        """Remove the endpoint, then what its revisions left."""
        fleet = self._fleet(endpoint)
        described = fleet.settled()
        if described is not None:
            self._tagged.see_that_it_is_ours(described)
            self._tagged.keep_out(described, fence)
        models = self._models(endpoint)
        for name in variants_of(described or {}):
            self._scaling(endpoint).end(name)
        fleet.delete()
        for model in models:
            revision = names.revision_of(model, endpoint)
            self._captured(endpoint).remove(revision)
            self._remove_model(endpoint, revision)

    def _variant_of(self, _endpoint: str, revision: str) -> str:
        return revision

    def _captured(self, endpoint: str) -> Captures:
        return self._captures.setdefault(endpoint, Captures(self._aws, self._settings.captures, endpoint))

    def _environment(self, endpoint: str, revision: Revision) -> dict[str, str]:
        # SageMaker's own capture is the prediction log there.
        return {**super()._environment(endpoint, revision), "HEADGATE_PREDICTION_LOG": "off"}

    def _add(self, fleet: Fleet, described: Mapping[str, Any] | None, revision: Revision) -> None:
        variant, seconds = fleet.variant(revision), revision.ready_timeout + PROVISION_SECONDS
        if described is None:
            fleet.create(variant, _sample(revision), seconds)
            return
        production, shadow = fleet.variants(described)
        if shadow:
            raise TargetError(
                f"{described['EndpointName']} mirrors, and SageMaker has one variant beside the live one then",
                fix="end the mirroring first, which a release's next step does: headgate reconcile",
            )
        fleet.change(
            described, {**production, revision.name: variant}, {}, names.traffic_of(described),
            sample=_sample(revision), seconds=seconds,
        )  # fmt: skip

    def _shift(self, fleet: Fleet, described: Mapping[str, Any], traffic: Traffic) -> None:
        """Set the weights, or replace the set of variants where one gets copies, or no longer does."""
        if traffic.mirror is None and not described.get("ShadowProductionVariants"):
            live = [variant["VariantName"] for variant in described["ProductionVariants"]]
            fleet.weigh({name: traffic.weight(name) for name in live})
        else:
            production, shadow = fleet.variants(described)
            self._mirror(fleet, described, {**production, **shadow}, traffic)

    def _mirror(
        self, fleet: Fleet, described: Mapping[str, Any], every: Mapping[str, Variant], traffic: Traffic
    ) -> None:
        """Replace the set of variants by one with a shadow, or by one without; and note whose requests are copies."""
        mirror = traffic.mirror
        if mirror is None:
            fleet.change(described, every, {}, traffic)
            return
        holder, copied = traffic.holder or "", mirror.revision
        self._tagged.copies_begin(names.model_arn(described, copied))
        for name in {variant["VariantName"] for variant in described["ProductionVariants"]} - {holder}:
            self._scaling(described["EndpointName"]).end(name)
        fleet.change(
            described, {holder: every[holder]},
            {copied: {**every[copied], "InitialVariantWeight": float(mirror.share)}}, traffic,
        )  # fmt: skip

    def _see_that_it_can_be_routed(self, endpoint: str, described: Mapping[str, Any], traffic: Traffic) -> None:
        on, mirror = self._reachable(endpoint, described), traffic.mirror
        for name in traffic.weights:
            if why_not := on.get(name, "is not deployed"):
                raise TargetError(f"no traffic to {name} of {endpoint}: it {why_not}", fix="headgate status")
        if mirror is None:
            return
        if mirror.revision not in on:
            raise TargetError(f"no mirror to {mirror.revision} of {endpoint}: it is not deployed")
        if traffic.holder is None:
            raise TargetError(f"no mirror on {endpoint}: SageMaker copies the requests of one live variant only")

    def _reachable(self, _endpoint: str, described: Mapping[str, Any]) -> dict[str, str]:
        """The revisions that traffic can be given to, and what keeps each from taking it."""
        return {name: _why_not_ready(described, variant) for name, variant in variants_of(described).items()}

    def _states(
        self, endpoint: str, described: Mapping[str, Any], models: Mapping[str, str]
    ) -> dict[str, RevisionState]:
        variants, states = variants_of(described), {}
        known = {names.revision_of(model, endpoint): arn for model, arn in models.items()}
        for name in sorted({*variants, *known}):
            why_not = _why_not_ready(described, variants.get(name))
            version = names.version_of_tags(self._tagged.facts(known[name])) if name in known else None
            states[name] = RevisionState(name=name, ready=not why_not, detail=why_not, version=version)
        return states

    def _scaling(self, endpoint: str) -> Scaling:
        return Scaling(self._aws, endpoint, self._settings.invocations_per_instance)

    def _scale(self, described: Mapping[str, Any], revisions: Iterable[str]) -> None:
        """Have the machines of live revisions follow the load, where their release file said so."""
        bounds = {
            name: names.replicas_of_tags(self._tagged.facts(names.model_arn(described, name))) for name in revisions
        }
        scaled = {name: found for name, found in bounds.items() if found}
        self._scaling(described["EndpointName"]).begin(scaled)


def variants_of(described: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What DescribeEndpoint says of each variant."""
    keys = ("ProductionVariants", "ShadowProductionVariants")
    return {variant["VariantName"]: variant for key in keys for variant in described.get(key, [])}


def _is_on(described: Mapping[str, Any], revision: str) -> bool:
    return revision in variants_of(described)


def _why_not_ready(described: Mapping[str, Any], variant: Mapping[str, Any] | None) -> str:
    status = described.get("EndpointStatus", "")
    if status and status not in SERVING:
        reason = described.get("FailureReason", "")
        return f"is on an endpoint that is {status}" + (f": {reason}" if reason else "")
    if variant is None:
        return "has no machines"
    running, wanted = variant.get("CurrentInstanceCount", 0), variant.get("DesiredInstanceCount", 0)
    return "" if running else f"runs on {running} of {wanted} machines"


def _sample(revision: Revision) -> int:
    """Percent of requests that are captured; SageMaker takes whole ones."""
    return max(1, round(float(revision.env.get("HEADGATE_LOG_SAMPLE", "1")) * 100))


def _of_components(settings: SageMakerSettings) -> ComponentsTarget:
    from deploy_targets.sagemaker.components_target import ComponentsTarget  # noqa: PLC0415 - it knows this one

    return ComponentsTarget(settings, settings.inference_components or InferenceComponents.model_validate({}))
