"""What every way of hosting on SageMaker has: the account, the models of revisions, and whose an endpoint is.

A revision is a model. What runs it, and how clients get there, is a variant (target.py, guarded.py) or an inference
component (components_target.py).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from deploy_targets.sagemaker import names
from deploy_targets.sagemaker.aws import Aws
from deploy_targets.sagemaker.ecr import repository
from deploy_targets.sagemaker.fleet import Fleet
from deploy_targets.sagemaker.preflight import findings, policy
from deploy_targets.sagemaker.tagged import Tagged
from headgate.errors import TargetError
from headgate.records import Alarm

if TYPE_CHECKING:
    from deploy_targets.protocol import ImageRepository
    from deploy_targets.sagemaker.settings import SageMakerSettings
    from headgate.findings import Finding
    from headgate.records import Revision


class Hosting:
    """One account and region.

    Args:
        settings: which, and how machines are made.
    """

    def __init__(self, settings: SageMakerSettings) -> None:
        self._settings = settings
        self._aws = Aws(settings.region)
        self._tagged = Tagged(self._aws)

    def preflight(self) -> list[Finding]:
        """Whether AWS knows us, and what the settings name is there."""
        return findings(self._aws, self._settings)

    def permissions(self) -> str:
        """An IAM policy."""
        return json.dumps(policy(self._settings), indent=2)

    def repository(self, model: str, named: str) -> ImageRepository:
        """A repository of the account's ECR, made where there is none; or what the release file names."""
        return repository(self._aws, model, named)

    def endpoints(self) -> list[str]:
        """Those that have a model of ours."""
        models = self._aws.pages("sagemaker", "list_models", "Models", NameContains="--")
        return sorted({name for found in models if (name := names.endpoint_of(found["ModelName"]))})

    def fence(self, endpoint: str, fence: int) -> None:
        """Have the endpoint's tags keep the number."""
        described = self._fleet(endpoint).described()
        if described is not None:
            self._tagged.keep_out(described, fence)

    def alarms(self) -> list[Alarm]:
        """Those of CloudWatch that the settings name."""
        if not self._settings.alarms:
            return []
        named = list(self._settings.alarms)
        return [
            Alarm(
                name=one["AlarmName"],
                reason=one.get("StateReason", ""),
                # The other one is that of the last evaluation that said something new too.
                since=one.get("StateTransitionedTimestamp") or one["StateUpdatedTimestamp"],
            )
            for one in self._aws.pages("cloudwatch", "describe_alarms", "MetricAlarms", AlarmNames=named)
            if one["StateValue"] == "ALARM"
        ]

    def _fleet(self, endpoint: str) -> Fleet:
        return Fleet(self._aws, self._settings, endpoint)

    def _url(self, endpoint: str) -> str:
        return f"{self._aws.url('sagemaker-runtime')}/endpoints/{endpoint}/invocations"

    def _models(self, endpoint: str) -> dict[str, str]:
        """The endpoint's models, and each one's ARN."""
        listed = self._aws.pages("sagemaker", "list_models", "Models", NameContains=f"{endpoint}--")
        return {
            found["ModelName"]: found["ModelArn"] for found in listed if names.revision_of(found["ModelName"], endpoint)
        }

    def _make_model(self, endpoint: str, revision: Revision) -> None:
        """An image with its environment, under a name of its own: an existing one is the same, or not ours."""
        name = names.model_name(endpoint, revision.name)
        container = {"Image": revision.image.reference, "Environment": self._environment(endpoint, revision)}
        made = self._aws.make(
            "sagemaker", "create_model", ModelName=name, PrimaryContainer=container,
            ExecutionRoleArn=self._settings.role, **self._network(),
            Tags=names.tags({"endpoint": endpoint, **self._facts(revision)}, self._settings.tags),
        )  # fmt: skip
        if made:
            return
        there = self._aws.call("sagemaker", "describe_model", ModelName=name)["PrimaryContainer"]
        if (there.get("Image"), there.get("Environment", {})) != (container["Image"], container["Environment"]):
            raise TargetError(
                f"SageMaker has another model of the name {name}: {there.get('Image')}, not {container['Image']}",
                fix=f"see whose it is, and remove it: aws sagemaker delete-model --model-name {name}",
            )

    def _remove_model(self, endpoint: str, revision: str) -> None:
        self._aws.find("sagemaker", "delete_model", ModelName=names.model_name(endpoint, revision))

    def _network(self) -> dict[str, Any]:
        """What a model says of the network that its containers are in."""
        settings = self._settings
        network = {"Subnets": list(settings.subnets), "SecurityGroupIds": list(settings.security_groups)}
        return {"EnableNetworkIsolation": settings.isolated, **({"VpcConfig": network} if settings.subnets else {})}

    def _facts(self, revision: Revision) -> dict[str, str]:
        """What a model's tags are to say."""
        return names.tags_of(revision)

    def _environment(self, endpoint: str, revision: Revision) -> dict[str, str]:
        return {**revision.env, "HEADGATE_REVISION": revision.name, "HEADGATE_ENDPOINT": endpoint}
