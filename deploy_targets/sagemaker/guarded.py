"""SageMaker's deployment guardrails: it shifts live traffic itself, and CloudWatch alarms take it back.

They act only where the variant keeps its name from one configuration to the next, so the one whose machines take over
is always called `live` here, whatever revision it runs; its model says which. All else is as without them: a candidate
has a variant of its own without traffic, where it is smoked, then one that gets copies; and the version that was
replaced gets copies, to be compared with. Sources:
https://docs.aws.amazon.com/sagemaker/latest/dg/deployment-guardrails.html, …/deployment-guardrails-exclusions.html (the
names), …/deployment-guardrails-configuration.html (the alarms).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from deploy_targets.protocol import Feature
from deploy_targets.sagemaker import evidence, names
from deploy_targets.sagemaker.capture import Captures
from deploy_targets.sagemaker.fleet import (
    ADOPTED_SECONDS,
    MARGIN_SECONDS,
    PROVISION_SECONDS,
    Fleet,
    is_of_an_alarm,
    update_seconds,
)
from deploy_targets.sagemaker.target import NEW_SET, SageMakerTarget, variants_of
from headgate.errors import RevisionFailedError, RolledBackError, TargetError
from headgate.records import Traffic

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from deploy_targets.sagemaker.aws import Aws
    from deploy_targets.sagemaker.fleet import Variant
    from deploy_targets.sagemaker.settings import NativeGuardrails, SageMakerSettings
    from headgate.counts import Counts
    from headgate.records import EndpointState, Usage

LIVE = "live"


class GuardedTarget(SageMakerTarget):
    """Endpoints whose live traffic SageMaker shifts.

    Args:
        settings: which account, and how machines are made.
        guardrails: how it shifts.
    """

    UNSUPPORTED: ClassVar[Mapping[Feature, str]] = {
        **SageMakerTarget.UNSUPPORTED,
        Feature.SPLIT: "SageMaker's guardrails shift live traffic themselves; use strategy.kind: blue-green",
        Feature.AUTOSCALING: "each release has a fleet of its own under the variant `live`; scale that by a policy of "
        "your own, and set replicas.min and replicas.max alike",
    }
    CALLS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **SageMakerTarget.CALLS, "shift": (*NEW_SET, *NEW_SET, "AddTags", *NEW_SET), "promote": NEW_SET,
    }  # fmt: skip

    def __init__(self, settings: SageMakerSettings, guardrails: NativeGuardrails) -> None:
        super().__init__(settings)
        self._guardrails = guardrails
        self._live: dict[str, str] = {}

    def observe(self, endpoint: str) -> EndpointState | None:
        """What SageMaker says; while it shifts, nobody holds the traffic."""
        state, fleet = super().observe(endpoint), self._fleet(endpoint)
        if state is not None and fleet.is_shifting():
            return state.model_copy(update={"traffic": None})
        return state

    def counts(self, endpoint: str) -> Mapping[str, Counts]:
        """CloudWatch's sums of each revision's variant; of the live one from the next whole minute on.

        What the version before was asked in this minute is counted under the same name.
        """
        end = evidence.end_of_counts()
        return {
            name: self._counter(endpoint, name, variant).read({"EndpointName": endpoint, "VariantName": variant}, end)
            for name, variant in self._variants(endpoint).items()
        }

    def usage(self, endpoint: str) -> Mapping[str, Usage]:
        """CloudWatch's percents of the machines' memory; of the live ones from when the version's counts begin."""
        variants = self._variants(endpoint)
        of = {name: {"EndpointName": endpoint, "VariantName": variant} for name, variant in variants.items()}
        since = {
            name: self._counter(endpoint, name, variant).since for name, variant in variants.items() if variant == LIVE
        }
        return evidence.memory(self._aws, evidence.OF_MACHINES, of, since)

    def _variants(self, endpoint: str) -> dict[str, str]:
        """What each revision's variant is called."""
        fleet = self._fleet(endpoint)
        described = fleet.described() or {}
        return {name: fleet.variant_name(described["EndpointConfigName"], name) for name in variants_of(described)}

    def _counter(self, endpoint: str, revision: str, variant: str) -> evidence.Counter:
        key = f"{endpoint}/{revision}/{variant}"
        if key not in self._counters:
            since = evidence.next_minute() if variant == LIVE else None
            self._counters[key] = evidence.Counter(self._aws, since=since)
        return self._counters[key]

    def _variant_of(self, endpoint: str, revision: str) -> str:
        fleet = self._fleet(endpoint)
        return fleet.variant_name((fleet.described() or {}).get("EndpointConfigName", ""), revision)

    def _fleet(self, endpoint: str) -> GuardedFleet:
        return GuardedFleet(self._aws, self._settings, endpoint, self._guardrails, self._live)

    def _captured(self, endpoint: str) -> Captures:
        return self._captures.setdefault(endpoint, GuardedCaptures(self._aws, self._settings.captures, endpoint))

    def _reachable(self, endpoint: str, described: Mapping[str, Any]) -> dict[str, str]:
        # Machines are made by the change itself, and those of before are gone where one was interrupted.
        known = dict.fromkeys((names.revision_of(model, endpoint) for model in self._models(endpoint)), "")
        return {**known, **super()._reachable(endpoint, described)}

    def _shift(self, fleet: Fleet, described: Mapping[str, Any], traffic: Traffic) -> None:
        assert isinstance(fleet, GuardedFleet)  # noqa: S101 - ours
        holder, before = traffic.holder, names.traffic_of(described)
        if holder is None:
            raise TargetError(f"no split of {described['EndpointName']}: {self.UNSUPPORTED[Feature.SPLIT]}")
        every = fleet.every(described, traffic)
        if before is None or before.holder != holder:
            for variant in described.get("ProductionVariants", []):
                # Of a time without guardrails; a variant that is scaled cannot be removed.
                self._scaling(described["EndpointName"]).end(variant["VariantName"])
            fleet.hand_over(described, every, traffic)
            described = fleet.described() or {}
        if names.traffic_of(described) != traffic:
            self._mirror(fleet, described, every, traffic)

    def _scale(self, described: Mapping[str, Any], revisions: Iterable[str]) -> None:
        """Nothing follows the load."""


class GuardedFleet(Fleet):
    """One endpoint's variants, by the names of the revisions that they run.

    Args:
        aws: the account.
        settings: how machines are made.
        endpoint: whose.
        guardrails: how SageMaker shifts.
        live: the revision that `live` runs, by the name of the configuration, which does not change.
    """

    def __init__(
        self, aws: Aws, settings: SageMakerSettings, endpoint: str, guardrails: NativeGuardrails, live: dict[str, str]
    ) -> None:
        super().__init__(aws, settings, endpoint)
        self._guardrails, self._live = guardrails, live

    def described(self) -> dict[str, Any] | None:
        """What SageMaker says of the endpoint, with revisions as the names of variants."""
        found = super().described()
        if found is None:
            return None
        config = found["EndpointConfigName"]
        renamed = [
            {**variant, "VariantName": self._revision(config) if variant["VariantName"] == LIVE
             else variant["VariantName"]}
            for variant in found.get("ProductionVariants", [])
        ]  # fmt: skip
        return {**found, "ProductionVariants": renamed} if renamed else found

    def variants(self, described: Mapping[str, Any]) -> tuple[dict[str, Variant], dict[str, Variant]]:
        """The same of what the configuration in effect has."""
        return tuple(
            {name: {**variant, "VariantName": name} for variant in found.values()
             for name in [names.revision_of(variant["ModelName"], self._endpoint)]}
            for found in super().variants(described)
        )  # type: ignore[return-value] # fmt: skip # two of them

    def every(self, described: Mapping[str, Any], traffic: Traffic) -> dict[str, Variant]:
        """All variants there are, and those that traffic names: they have a model, and machines like the others'."""
        production, shadow = self.variants(described)
        machines = {name: one.get("DesiredInstanceCount") for name, one in variants_of(described).items()}
        every = {
            name: {**one, "InitialInstanceCount": machines.get(name) or one["InitialInstanceCount"]}
            for name, one in {**production, **shadow}.items()
        }
        traffic_now = names.traffic_of(described)
        like = every[traffic_now.holder or ""] if traffic_now and traffic_now.holder else next(iter(every.values()))
        for name in (*traffic.weights, *((traffic.mirror.revision,) if traffic.mirror else ())):
            every.setdefault(
                name, {**like, "VariantName": name, "ModelName": names.model_name(self._endpoint, name)}
            )  # fmt: skip
        return every

    def is_shifting(self) -> bool:
        """Whether another revision is to be `live` once the change that goes on has ended."""
        described = super().described() or {}
        pending = described.get("PendingDeploymentSummary", {}).get("EndpointConfigName", "")
        return bool(pending) and self._revision(pending) != self._revision(described["EndpointConfigName"])

    def settled(self, seconds: float = 0.0) -> dict[str, Any] | None:
        """The same, as soon as nobody is changing it; a shift takes as long as it is told to."""
        shifted = self._guardrails.seconds + PROVISION_SECONDS + MARGIN_SECONDS
        return super().settled(max(seconds or ADOPTED_SECONDS, shifted))

    def change(
        self, described: Mapping[str, Any], production: Mapping[str, Variant], shadow: Mapping[str, Variant],
        traffic: Traffic | None, **more: Any,  # noqa: ANN401 - as they are
    ) -> None:  # fmt: skip
        """Replace the set of variants, and see that captures go to the folder of the one that is `live`."""
        super().change(described, production, shadow, traffic, **more)
        found = self.described() or {}
        where = found.get("DataCaptureConfig", {}).get("DestinationS3Uri", "")
        if not where.endswith(f"/{self._revision(found.get('EndpointConfigName', ''))}"):
            raise TargetError(
                f"SageMaker goes on writing captures of {self._endpoint} to {where}, so they cannot be told apart",
                fix="leave native_guardrails out, and say so to Headgate's authors",
            )

    def hand_over(self, described: Mapping[str, Any], every: Mapping[str, Variant], wanted: Traffic) -> None:
        """Give one revision all live traffic; returns when that is so.

        SageMaker shifts it where the one before gets copies from then on, which is the way forward. The way back is
        watched by no alarm: one that rings does so for the version that is left.

        Raises:
            RolledBackError: an alarm rang.
            RevisionFailedError: its machines cannot be had, or do not get ready.
        """
        traffic, holder = names.traffic_of(described), wanted.holder or ""
        before, to = traffic.holder if traffic else None, {holder: every[holder]}
        production, shadow = self.variants(described)
        if before is None or wanted.mirror is None or wanted.mirror.revision != before:
            if holder in production and not shadow:
                # It is warm.
                self.weigh({name: int(name == holder) for name in production})
            else:
                self.change(described, to, {}, Traffic.all_to(holder))
            return
        if is_of_an_alarm(described.get("FailureReason", "")):
            # Whoever began it did not live to see it.
            raise self._taken_back(described, before)
        if [*production, *shadow] != [before]:
            # Guardrails want the same names before and after.
            self.change(described, {before: every[before]}, {}, Traffic.all_to(before))
            described = self.described() or {}
        try:
            seconds = self._guardrails.seconds + PROVISION_SECONDS
            self.change(
                described, to, {}, Traffic.all_to(holder), seconds=seconds + MARGIN_SECONDS,
                guardrails=self._deployment(seconds),
            )  # fmt: skip
        except RevisionFailedError as error:
            after = self.described() or {}
            if not is_of_an_alarm(after.get("FailureReason", "")):
                raise
            raise self._taken_back(after, before) from error

    def _taken_back(self, described: Mapping[str, Any], before: str) -> RolledBackError:
        return RolledBackError(
            f"SageMaker gave {self._endpoint} back to {before}: {described['FailureReason']}",
            fix="see what the alarm measures: aws cloudwatch describe-alarms",
        )

    def log_tail(self, revision: str, lines: int = 15) -> str:
        """The end of what a revision's containers wrote; empty where nothing can be read."""
        return super().log_tail(revision, lines) or super().log_tail(LIVE, lines)

    def weigh(self, weights: Mapping[str, int]) -> None:
        """Set every production variant's weight, of each by its revision; returns when they are in effect."""
        config = (self.described() or {}).get("EndpointConfigName", "")
        super().weigh({self.variant_name(config, name): weight for name, weight in weights.items()})

    def variant_name(self, config: str, revision: str) -> str:
        """What a configuration calls a revision's variant."""
        return LIVE if revision == self._revision(config) else revision

    def _revision(self, config: str) -> str:
        """The revision that is `live` in a configuration; empty where none is."""
        if config and config not in self._live:
            found = self._aws.find("sagemaker", "describe_endpoint_config", EndpointConfigName=config) or {}
            models = [one["ModelName"] for one in found.get("ProductionVariants", []) if one["VariantName"] == LIVE]
            self._live[config] = names.revision_of(models[0], self._endpoint) if models else ""
        return self._live.get(config, "")

    def _content(self, production: Mapping[str, Variant], shadow: Mapping[str, Variant], sample: int) -> dict[str, Any]:
        """Whoever has the traffic is called `live`."""
        holder = _holder(production)
        named = {
            (LIVE if name == holder else name): {**variant, "VariantName": LIVE if name == holder else name}
            for name, variant in production.items()
        }
        content = super()._content(named, shadow, sample)
        # The captures of `live` say nothing of its revision.
        content["DataCaptureConfig"]["DestinationS3Uri"] += f"/{self._endpoint}/{holder}"
        return content

    def _deployment(self, seconds: float) -> dict[str, Any]:
        how = self._guardrails
        size = {"Type": "CAPACITY_PERCENT", "Value": round(how.size * 100)}
        return {
            "BlueGreenUpdatePolicy": {
                "TrafficRoutingConfiguration": {
                    "Type": how.kind.upper(), "WaitIntervalInSeconds": int(how.wait),
                    "CanarySize" if how.kind == "canary" else "LinearStepSize": size,
                },
                "MaximumExecutionTimeoutInSeconds": update_seconds(seconds),
            },
            "AutoRollbackConfiguration": {"Alarms": [{"AlarmName": name} for name in self._settings.alarms]},
        }  # fmt: skip


class GuardedCaptures(Captures):
    """What SageMaker wrote of one endpoint, in a folder for each revision that was `live`.

    PREFIX/ENDPOINT/LIVE-REVISION/ENDPOINT/VARIANT/yyyy/mm/dd/hh/*.jsonl
    """

    def _folders(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for live in self._inside(self._prefix):
            if any(name.isdigit() for name in self._inside(f"{self._prefix}{live}/")):
                # Years, of the time before guardrails.
                found.setdefault(live, []).append(f"{self._prefix}{live}/")
            inside = f"{self._prefix}{live}/{self._endpoint}/"
            for variant in self._inside(inside):
                found.setdefault(live if variant == LIVE else variant, []).append(f"{inside}{variant}/")
        return found


def _holder(production: Mapping[str, Variant]) -> str:
    return max(production, key=lambda name: float(production[name]["InitialVariantWeight"]))
