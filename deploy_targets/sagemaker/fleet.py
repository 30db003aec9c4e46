"""One endpoint's variants: what SageMaker says of them, and how they are changed and waited for.

A call that returned has changed nothing yet, and an endpoint that is InService again may have gone back to what it was:
so each change ends with comparing what is described with what was wanted. States and failures:
https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_DescribeEndpoint.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deploy_targets.clouds import poll
from deploy_targets.sagemaker import names
from headgate.errors import RevisionFailedError, TargetError, TargetUnavailableError
from headgate.units import BASIS_POINTS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deploy_targets.sagemaker.aws import Aws
    from deploy_targets.sagemaker.settings import SageMakerSettings
    from headgate.records import Revision, Traffic

Variant = dict[str, Any]

CHANGING = frozenset({"Creating", "Updating", "SystemUpdating", "RollingBack", "Deleting"})
SERVING = frozenset({"InService", "Updating", "SystemUpdating", "RollingBack", "UpdateRollbackFailed"})
"""In the last of them an endpoint answers with what it has of the old and the new machines."""
COMPONENTS = "components"
"""The one variant of an endpoint of inference components, which is nothing but machines (components.py)."""
FAILED = "Failed"
"""Such an endpoint can only be deleted."""

PROVISION_SECONDS = 1800.0
"""How long machines may take to be had and to pull the image, besides what the model needs to load."""
MARGIN_SECONDS = 300.0
"""How much longer than SageMaker itself we wait for it to give up an update that it makes in steps."""
_UPDATE_SECONDS = (600, 28800)
"""What MaximumExecutionTimeoutInSeconds may be."""
_SHORTEST_STARTUP, LONGEST_STARTUP = 60, 3600
"""What ContainerStartupHealthCheckTimeoutInSeconds may be."""
ADOPTED_SECONDS = PROVISION_SECONDS + LONGEST_STARTUP
"""How long a change that somebody else began is waited for: what it makes is not known, nor how long that loads."""


class Fleet:
    """The variants of one endpoint.

    Args:
        aws: the account.
        settings: how machines are made.
        endpoint: whose.
    """

    def __init__(self, aws: Aws, settings: SageMakerSettings, endpoint: str) -> None:
        self._aws, self._settings, self._endpoint = aws, settings, endpoint

    def described(self) -> dict[str, Any] | None:
        """What SageMaker says of the endpoint; None where there is none."""
        return self._aws.find("sagemaker", "describe_endpoint", EndpointName=self._endpoint)

    def settled(self, seconds: float = ADOPTED_SECONDS) -> dict[str, Any] | None:
        """The same, as soon as nobody is changing it.

        Args:
            seconds: how long that may take.

        Raises:
            TargetUnavailableError: it is still being changed after that time.
        """
        return poll(
            self.described, lambda found: found is None or found["EndpointStatus"] not in CHANGING, seconds,
            f"a change of {self._endpoint}",
        )  # fmt: skip

    def variants(self, described: Mapping[str, Any]) -> tuple[dict[str, Variant], dict[str, Variant]]:
        """The production and the shadow variants, as the configuration in effect has them."""
        config = self._aws.call(
            "sagemaker", "describe_endpoint_config", EndpointConfigName=described["EndpointConfigName"]
        )
        return tuple(
            {variant["VariantName"]: variant for variant in config.get(key, [])}
            for key in ("ProductionVariants", "ShadowProductionVariants")
        )  # type: ignore[return-value] # two of them

    def variant(self, revision: Revision) -> Variant:
        """A new revision's, without traffic."""
        return {
            "VariantName": revision.name,
            "ModelName": names.model_name(self._endpoint, revision.name),
            "InstanceType": self._settings.instance,
            "InitialInstanceCount": revision.workers,
            "InitialVariantWeight": 0.0,
            "ContainerStartupHealthCheckTimeoutInSeconds": startup_seconds(revision),
        }

    def create(self, variant: Variant, sample: int, seconds: float) -> None:
        """Make the endpoint, with one variant; returns when it serves.

        Raises:
            RevisionFailedError: the variant cannot start; the endpoint is gone again.
        """
        content = self._content({variant["VariantName"]: {**variant, "InitialVariantWeight": 1.0}}, {}, sample)
        made = names.tags({"endpoint": self._endpoint}, self._settings.tags)
        self._aws.make(
            "sagemaker", "create_endpoint", EndpointName=self._endpoint, EndpointConfigName=self._config(content),
            Tags=made,
        )  # fmt: skip
        described = self.settled(seconds)
        if described is None:
            raise TargetUnavailableError(f"SageMaker took the endpoint {self._endpoint} and does not show it")
        if described["EndpointStatus"] != "InService":
            self.delete()
            raise self._failed(variant["VariantName"], described.get("FailureReason", ""))

    def change(
        self, described: Mapping[str, Any], production: Mapping[str, Variant], shadow: Mapping[str, Variant],
        traffic: Traffic | None, *, sample: int = 0, seconds: float = PROVISION_SECONDS,
        guardrails: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """Replace the set of variants; returns when the new set is in effect.

        Machines of variants that stay keep their number, which autoscaling may have changed.

        Args:
            described: the endpoint as it is.
            production: the variants that answer clients.
            shadow: the one that gets copies, if any.
            traffic: the weights to begin with; a configuration's own are those of when it was made.
            sample: percent of requests that are captured; as it is where 0.
            seconds: how long it may take.
            guardrails: a DeploymentConfig; by default all goes over at once.

        Raises:
            RevisionFailedError: SageMaker went back to the set before.
        """
        sample = sample or int(described.get("DataCaptureConfig", {}).get("CurrentSamplingPercentage", 100))
        weighed = {
            name: {**variant, "InitialVariantWeight": float(traffic.weight(name) if traffic else BASIS_POINTS)}
            for name, variant in production.items()
        }
        wanted = self._config(self._content(weighed, shadow, sample))
        if described["EndpointConfigName"] != wanted:
            self._aws.call(
                "sagemaker", "update_endpoint", EndpointName=self._endpoint, EndpointConfigName=wanted,
                RetainAllVariantProperties=True,
                ExcludeRetainedVariantProperties=[{"VariantPropertyType": "DesiredWeight"}],
                **({"DeploymentConfig": guardrails} if guardrails else {}),
            )  # fmt: skip
            self._see_that_it_changed(described, self.settled(seconds), wanted, production)
        self.remove_configs(wanted)

    def _see_that_it_changed(
        self, before: Mapping[str, Any], after: Mapping[str, Any] | None, wanted: str, production: Mapping[str, Variant]
    ) -> None:
        """An update that failed leaves an endpoint InService, as it was, with the reason.

        Raises:
            RevisionFailedError: so it did.
            TargetUnavailableError: nothing has happened, or not yet.
        """
        if after is not None and after["EndpointConfigName"] == wanted and after["EndpointStatus"] == "InService":
            return
        reason = after.get("FailureReason", "") if after else ""
        if after is None or (not reason and after["EndpointStatus"] == "InService"):
            raise TargetUnavailableError(f"SageMaker took the change of {self._endpoint} and does not show it")
        self.remove_configs(after["EndpointConfigName"])
        known = {variant["VariantName"] for variant in before.get("ProductionVariants", [])}
        raise self._failed(
            next((name for name in production if name not in known), ""), reason or after["EndpointStatus"]
        )

    def weigh(self, weights: Mapping[str, int]) -> None:
        """Set every production variant's weight; returns when they are in effect."""
        self._aws.call(
            "sagemaker", "update_endpoint_weights_and_capacities", EndpointName=self._endpoint,
            DesiredWeightsAndCapacities=[
                {"VariantName": name, "DesiredWeight": float(weight)} for name, weight in sorted(weights.items())
            ],
        )  # fmt: skip
        self.settled()

    def delete(self) -> None:
        """Remove the endpoint and its configurations; nothing happens where they are gone."""
        if self.settled() is not None:
            self._aws.find("sagemaker", "delete_endpoint", EndpointName=self._endpoint)
            self.settled()
        self.remove_configs("")

    def remove_configs(self, besides: str) -> None:
        """Remove the endpoint's configurations but the one that is in effect."""
        listed = self._aws.pages(
            "sagemaker", "list_endpoint_configs", "EndpointConfigs", NameContains=f"{self._endpoint}--"
        )
        for name in [found["EndpointConfigName"] for found in listed]:
            if name != besides and names.is_config_of(name, self._endpoint):
                self._aws.find("sagemaker", "delete_endpoint_config", EndpointConfigName=name)

    def log_tail(self, revision: str, lines: int = 15) -> str:
        """The end of what a variant's containers wrote; empty where nothing can be read."""
        return self._aws.log_tail(f"/aws/sagemaker/Endpoints/{self._endpoint}", f"{revision}/", lines)

    def _content(self, production: Mapping[str, Variant], shadow: Mapping[str, Variant], sample: int) -> dict[str, Any]:
        key = self._settings.kms_key
        return {
            "ProductionVariants": [production[name] for name in sorted(production)],
            **({"ShadowProductionVariants": list(shadow.values())} if shadow else {}),
            "DataCaptureConfig": {
                "EnableCapture": True, "InitialSamplingPercentage": sample,
                "DestinationS3Uri": self._settings.captures,
                "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
                "CaptureContentTypeHeader": {"JsonContentTypes": ["application/json"]},
                **({"KmsKeyId": key} if key else {}),
            },
            **({"KmsKeyId": key} if key else {}),
        }  # fmt: skip

    def _config(self, content: dict[str, Any]) -> str:
        """A configuration of this content, made where there is none; its name."""
        name = names.config_name(self._endpoint, content)
        made = names.tags({"endpoint": self._endpoint}, self._settings.tags)
        self._aws.make("sagemaker", "create_endpoint_config", EndpointConfigName=name, Tags=made, **content)
        return name

    def _failed(self, revision: str, reason: str) -> TargetError:
        if not revision:
            return TargetError(f"SageMaker did not change {self._endpoint}: {reason}", fix="try again")
        if "capacity" in reason.lower():
            fix = "take another target.instance or region, or try again later"
            return RevisionFailedError(f"{revision} cannot start: {reason}", fix=fix)
        log = self.log_tail(revision)
        return RevisionFailedError(
            f"{revision} cannot start: {reason}" + (f"; its log ends:\n{log}" if log else ""),
            fix="raise runtime.ready_timeout if it was still loading, or mend the model and log it again",
        )


def startup_seconds(revision: Revision) -> int:
    """What a revision's ContainerStartupHealthCheckTimeoutInSeconds is."""
    return int(min(max(revision.ready_timeout, _SHORTEST_STARTUP), LONGEST_STARTUP))


def update_seconds(seconds: float) -> int:
    """What the MaximumExecutionTimeoutInSeconds is of an update that takes so long at most."""
    least, most = _UPDATE_SECONDS
    return int(min(max(seconds, least), most))


def is_of_an_alarm(reason: str) -> bool:
    """Whether SageMaker's reason for taking an update back is an alarm."""
    return "alarm" in reason.lower()
