"""One endpoint's inference components: what SageMaker says of them, and how they are changed and waited for.

A component is copies of a container that SageMaker finds machines for. Each revision has one of its own, called
`ENDPOINT--REVISION`, from its deployment to its end, where it is smoked and asked again. Clients name the one that is
called as the endpoint is; which revision that runs is its model's name. Sources:
https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_DescribeInferenceComponent.html (the states),
https://docs.aws.amazon.com/sagemaker/latest/dg/deployment-guardrails-rolling.html (how one is updated).
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Any

from deploy_targets.clouds import poll
from deploy_targets.sagemaker import names
from deploy_targets.sagemaker.fleet import (
    COMPONENTS,
    FAILED,
    LONGEST_STARTUP,
    MARGIN_SECONDS,
    PROVISION_SECONDS,
    Fleet,
    is_of_an_alarm,
    startup_seconds,
    update_seconds,
)
from headgate.errors import RevisionFailedError, RolledBackError, TargetError, TargetUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from deploy_targets.sagemaker.aws import Aws
    from deploy_targets.sagemaker.settings import InferenceComponents, SageMakerSettings
    from headgate.records import Revision

Component = dict[str, Any]

_CHANGING = frozenset({"Creating", "Updating", "Deleting"})
_SERVING = frozenset({"InService", "Updating"})
_SPECIFIED = ("ModelName", "StartupParameters", "ComputeResourceRequirements")
_BECOMES, _SAID = f"{names.PREFIX}becomes", f"{names.PREFIX}said"
"""Tags of the component that clients name: what SageMaker is replacing it by, and what had failed before that."""
_MEBIBYTE = 2**20


class ComponentFleet(Fleet):
    """The machines of an endpoint whose components come and go.

    Args:
        aws: the account.
        settings: how machines are made.
        endpoint: whose.
        hosting: how many there may be.
    """

    def __init__(self, aws: Aws, settings: SageMakerSettings, endpoint: str, hosting: InferenceComponents) -> None:
        super().__init__(aws, settings, endpoint)
        self._hosting = hosting

    def ensure(self, described: Mapping[str, Any] | None) -> None:
        """See that the endpoint is there, on the machines of the settings; returns when it serves.

        Raises:
            TargetError: it was made for variants, or SageMaker does not make it.
        """
        if described is not None and described["EndpointStatus"] == FAILED:
            self.delete()
            described = None
        variants = described.get("ProductionVariants", []) if described is not None else []
        if any(one["VariantName"] != COMPONENTS for one in variants):
            raise TargetError(
                f"{self._endpoint} is made of variants, and is not changed into one of inference components",
                fix="choose another `endpoint:` in the release file, or remove this one first",
            )
        wanted = self._config(self._machines())
        if described is None:
            made = names.tags({"endpoint": self._endpoint}, self._settings.tags)
            self._aws.make(
                "sagemaker", "create_endpoint", EndpointName=self._endpoint, EndpointConfigName=wanted, Tags=made
            )
        elif described["EndpointConfigName"] != wanted:
            self._aws.call(
                "sagemaker", "update_endpoint", EndpointName=self._endpoint, EndpointConfigName=wanted,
                RetainAllVariantProperties=True,
            )  # fmt: skip
        else:
            return
        after = self.settled()
        if after is None or after["EndpointStatus"] != "InService" or after["EndpointConfigName"] != wanted:
            reason = (after or {}).get("FailureReason", "it does not show it")
            if described is None:
                self.delete()
            raise TargetError(
                f"SageMaker did not make the machines of {self._endpoint}: {reason}",
                fix="take another target.instance or region, or try again later",
            )
        self.remove_configs(wanted)

    def _machines(self) -> dict[str, Any]:
        settings, hosting = self._settings, self._hosting
        network = {"Subnets": list(settings.subnets), "SecurityGroupIds": list(settings.security_groups)}
        return {
            "ExecutionRoleArn": settings.role,
            "ProductionVariants": [{
                "VariantName": COMPONENTS, "InstanceType": settings.instance, "InitialInstanceCount": 1,
                "ManagedInstanceScaling": {
                    "Status": "ENABLED", "MinInstanceCount": 0, "MaxInstanceCount": hosting.machines,
                },
                "RoutingConfig": {"RoutingStrategy": "LEAST_OUTSTANDING_REQUESTS"},
            }],
            **({"VpcConfig": network} if settings.subnets else {}),
            **({"KmsKeyId": settings.kms_key} if settings.kms_key else {}),
        }  # fmt: skip


class Components:
    """The components of one endpoint.

    Args:
        aws: the account.
        endpoint: whose; the component that clients name is called so.
        hosting: how one is updated.
        alarms: that take an update back.
    """

    def __init__(self, aws: Aws, endpoint: str, hosting: InferenceComponents, alarms: tuple[str, ...]) -> None:
        self._aws, self._endpoint, self._hosting, self._alarms = aws, endpoint, hosting, alarms

    def all(self) -> dict[str, Component]:
        """Each component of the endpoint, as SageMaker describes it, by its name."""
        listed = self._aws.pages(
            "sagemaker", "list_inference_components", "InferenceComponents", EndpointNameEquals=self._endpoint
        )
        described = {name: self.described(name) for name in [one["InferenceComponentName"] for one in listed]}
        return {name: found for name, found in described.items() if found is not None}

    def described(self, name: str) -> Component | None:
        """What SageMaker says of one; None where there is none.

        Raises:
            TargetError: it is another endpoint's; an account has one of a name.
        """
        found = self._aws.find("sagemaker", "describe_inference_component", InferenceComponentName=name)
        if found is not None and found["EndpointName"] != self._endpoint:
            raise TargetError(
                f"the account has an inference component {name} on the endpoint {found['EndpointName']}",
                fix="choose another `endpoint:` in the release file",
            )
        return found

    def settled(self, name: str, seconds: float = 0.0) -> Component | None:
        """The same, as soon as nobody is changing it.

        Args:
            name: the component's.
            seconds: how long that may take; 0: the longest time that the process that began it may wait.

        Raises:
            TargetUnavailableError: it is still being changed after that time.
        """
        return poll(
            lambda: self.described(name),
            lambda found: found is None or found["InferenceComponentStatus"] not in _CHANGING,
            seconds or self._longest(), f"a change of {name}",
        )  # fmt: skip

    def own(self, revision: str) -> str:
        """The name of a revision's own component."""
        return names.model_name(self._endpoint, revision)

    def live(self, there: Mapping[str, Component]) -> str | None:
        """The revision that clients get; None where there is none, or while SageMaker replaces it.

        Args:
            there: what `all` says.
        """
        found = there.get(self._endpoint)
        if found is None or found["InferenceComponentStatus"] not in _SERVING:
            return None
        # Copies that come and go are an update too.
        if found["InferenceComponentStatus"] == "Updating" and self._notes(found).get(_BECOMES):
            return None
        return names.revision_of(found["Specification"]["ModelName"], self._endpoint) or None

    def make(self, revision: Revision, tags: Mapping[str, str]) -> None:
        """A revision's own component, with one copy; returns when that serves.

        Raises:
            RevisionFailedError: it cannot; the component is gone again.
        """
        asked = revision.resources
        needs = {
            # `plan` has refused what says nothing of it.
            "MinMemoryRequiredInMb": math.ceil((asked.memory or 0) / _MEBIBYTE),
            **({"NumberOfCpuCoresRequired": asked.cpu} if asked.cpu else {}),
            **({"NumberOfAcceleratorDevicesRequired": asked.gpu} if asked.gpu else {}),
        }
        specification = {
            "ModelName": self.own(revision.name), "ComputeResourceRequirements": needs,
            "StartupParameters": {"ContainerStartupHealthCheckTimeoutInSeconds": startup_seconds(revision)},
        }  # fmt: skip
        self._create(self.own(revision.name), specification, 1, tags, revision.ready_timeout)

    def give(
        self, revision: str, least: int, tags: Mapping[str, str], *, goes_back: bool, allow: Callable[[], None]
    ) -> None:  # fmt: skip
        """Have clients get a revision; returns when all of them do.

        SageMaker replaces the copies in steps, and takes that back when an alarm rings; but for the way back.

        Args:
            revision: whose own component is there.
            least: how many copies there are at least, where clients had none so far.
            tags: of the component that clients name.
            goes_back: whether clients had it before. An alarm that rings then does so for the version that is left.
            allow: is asked right before the change, and raises where it may not be made any more.

        Raises:
            RolledBackError: an alarm rang.
            RevisionFailedError: its copies cannot be had, or do not get ready.
        """
        # It need not run: a machine for it may be waited for.
        own = self.described(self.own(revision))
        if own is None:
            raise TargetError(f"no traffic to {revision} of {self._endpoint}: it is not deployed")
        specification = {key: own["Specification"][key] for key in _SPECIFIED if key in own["Specification"]}
        live = self._awake()
        allow()
        if live is not None and live["InferenceComponentStatus"] == FAILED:
            # Nothing else can be done with it.
            self.remove(self._endpoint)
            live = None
        if live is None:
            self._create(self._endpoint, specification, max(least, 1), tags, PROVISION_SECONDS)
        else:
            self._update(live, revision, specification, goes_back=goes_back)

    def _awake(self) -> Component | None:
        """The component that clients name, with a copy: of none, there is nothing to be replaced in steps."""
        live = self.settled(self._endpoint)
        if live is None or live["InferenceComponentStatus"] == FAILED or live["RuntimeConfig"].get("DesiredCopyCount"):
            return live
        self.have_copies(self._endpoint, 1)
        return self.settled(self._endpoint)

    def have_copies(self, name: str, copies: int) -> None:
        """Have a component run as many; not waited for, and nothing happens where it is so or cannot be."""
        found = self.settled(name)
        if found is None or found["InferenceComponentStatus"] == FAILED:
            return
        if found["RuntimeConfig"].get("DesiredCopyCount") != copies:
            self._aws.call(
                "sagemaker", "update_inference_component_runtime_config", InferenceComponentName=name,
                DesiredRuntimeConfig={"CopyCount": copies},
            )  # fmt: skip

    def remove(self, name: str) -> None:
        """End a component; returns when it is gone."""
        if self.settled(name) is None:
            return
        self._aws.find("sagemaker", "delete_inference_component", InferenceComponentName=name)
        poll(lambda: self.described(name), lambda found: found is None, PROVISION_SECONDS, f"the end of {name}")

    def log_tail(self, name: str, lines: int = 15) -> str:
        """The end of what a component's containers wrote; empty where nothing can be read."""
        return self._aws.log_tail(f"/aws/sagemaker/InferenceComponents/{name}", "", lines)

    def _longest(self) -> float:
        """The seconds of an update in steps whose copies load for as long as SageMaker lets them."""
        steps = math.ceil(1 / self._hosting.batch)
        return steps * (self._hosting.wait + LONGEST_STARTUP) + PROVISION_SECONDS + MARGIN_SECONDS

    def _create(
        self, name: str, specification: Mapping[str, Any], copies: int, tags: Mapping[str, str], seconds: float
    ) -> None:
        self._aws.make(
            "sagemaker", "create_inference_component", InferenceComponentName=name, EndpointName=self._endpoint,
            VariantName=COMPONENTS, Specification=specification, RuntimeConfig={"CopyCount": copies},
            Tags=names.tags({"endpoint": self._endpoint}, tags),
        )  # fmt: skip
        found = self.settled(name, seconds + PROVISION_SECONDS)
        if found is None:
            raise TargetUnavailableError(f"SageMaker took the component {name} and does not show it")
        if found["InferenceComponentStatus"] != "InService":
            failed = self._failed(name, found)
            self.remove(name)
            raise failed

    def _update(self, live: Component, revision: str, specification: Mapping[str, Any], *, goes_back: bool) -> None:
        hosting, name, noted = self._hosting, self._endpoint, self._notes(live)
        said = live.get("FailureReason", "")
        if noted.get(_BECOMES) == revision and is_of_an_alarm(said) and noted.get(_SAID) != _short(said):
            # Whoever began it did not live to see it.
            self.see_that_it_settled(live)
            raise self._taken_back(live)
        alarms = [] if goes_back else [{"AlarmName": one} for one in self._alarms]
        wait, steps = 0.0 if goes_back else hosting.wait, math.ceil(1 / hosting.batch)
        seconds = steps * (wait + _startup_of(specification)) + PROVISION_SECONDS
        self._note(live, {_BECOMES: revision, _SAID: _short(said)})
        self._aws.call(
            "sagemaker", "update_inference_component", InferenceComponentName=name, Specification=specification,
            DeploymentConfig={
                "RollingUpdatePolicy": {
                    "MaximumBatchSize": {"Type": "CAPACITY_PERCENT", "Value": round(hosting.batch * 100)},
                    "WaitIntervalInSeconds": int(wait),
                    "MaximumExecutionTimeoutInSeconds": update_seconds(seconds),
                },
                **({"AutoRollbackConfiguration": {"Alarms": alarms}} if alarms else {}),
            },
        )  # fmt: skip
        after = self.settled(name, seconds + MARGIN_SECONDS)
        if after is None:
            raise TargetUnavailableError(f"the component {name} went away while it was updated")
        is_new, reason = after["Specification"]["ModelName"] == specification["ModelName"], after.get("FailureReason")
        if not is_new and not reason and after["InferenceComponentStatus"] != FAILED:
            raise TargetUnavailableError(f"SageMaker took the update of {name} and does not show it")
        self.see_that_it_settled(after)
        if not is_new and is_of_an_alarm(reason or ""):
            raise self._taken_back(after)
        if not is_new or after["InferenceComponentStatus"] == FAILED:
            raise self._failed(name, after)

    def see_that_it_settled(self, live: Component) -> None:
        """Note that nobody replaces what clients get any more."""
        if self._notes(live).get(_BECOMES):
            self._note(live, {_BECOMES: ""})

    def _note(self, live: Component, noted: Mapping[str, str]) -> None:
        tags = [{"Key": key, "Value": value} for key, value in noted.items()]
        self._aws.call("sagemaker", "add_tags", ResourceArn=live["InferenceComponentArn"], Tags=tags)

    def _notes(self, live: Component) -> dict[str, str]:
        listed = self._aws.pages("sagemaker", "list_tags", "Tags", ResourceArn=live["InferenceComponentArn"])
        return names.read_tags(listed)

    def _taken_back(self, live: Component) -> RolledBackError:
        holder = names.revision_of(live["Specification"]["ModelName"])
        return RolledBackError(
            f"SageMaker gave {self._endpoint} back to {holder}: {live['FailureReason']}",
            fix="see what the alarm measures: aws cloudwatch describe-alarms",
        )

    def _failed(self, name: str, found: Component) -> RevisionFailedError:
        reason = found.get("FailureReason", "") or f"SageMaker left it {found['InferenceComponentStatus']}"
        log = self.log_tail(name)
        return RevisionFailedError(
            f"{name} cannot start: {reason}" + (f"; its log ends:\n{log}" if log else ""),
            fix="raise target.inference_components.machines or lower runtime.memory where there was no room, raise "
            "runtime.ready_timeout if it was still loading, or mend the model and log it again",
        )


def _startup_of(specification: Mapping[str, Any]) -> int:
    seconds: int = specification["StartupParameters"]["ContainerStartupHealthCheckTimeoutInSeconds"]
    return seconds


def _short(reason: str) -> str:
    """A reason as a tag takes it."""
    return hashlib.sha256(reason.encode()).hexdigest()[:12] if reason else ""
