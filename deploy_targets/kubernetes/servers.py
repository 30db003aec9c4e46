"""What makes a revision's pods, as it was just read, and how it is told how many there are to be.

Its Deployment says of the pods how they are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from deploy_targets.kubernetes import kserve, names, scaling
from deploy_targets.kubernetes.kserve import INFERENCE_SERVICES
from headgate.records import ModelVersion

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deploy_targets.kubernetes.api import Api

DEPLOYMENTS = "deployments"


class Change(NamedTuple):
    """A merge patch of an object."""

    kind: str
    """As paths have it, such as deployments."""
    name: str
    body: dict[str, Any]


class Servers(ABC):
    """What makes the pods of one revision.

    Args:
        name: of all objects of the revision.
        made: the object that Headgate has applied, with its notes.
        deployment: whose status tells of the pods; None where it is not there yet.
    """

    kind: ClassVar[str]
    """Of the object that Headgate applies, as paths have it."""

    def __init__(self, name: str, made: Mapping[str, Any], deployment: Mapping[str, Any] | None) -> None:
        self._name, self._made, self._deployment = name, made, deployment

    @property
    def _noted(self) -> Mapping[str, str]:
        noted: Mapping[str, str] = self._made["metadata"]["annotations"]
        return noted

    @property
    def version(self) -> ModelVersion:
        """What it serves."""
        return ModelVersion.model_validate_json(self._noted[names.VERSION])

    @property
    def own(self) -> int:
        """How many pods it has with all traffic at least."""
        return int(self._noted[names.PODS])

    @property
    def most(self) -> int | None:
        """How many it has at most, where their number follows the load."""
        return int(self._noted[names.MOST]) if names.MOST in self._noted else None

    @property
    def scaler(self) -> str:
        """What its number of pods is made to follow the load by; empty where it does not."""
        return scaling.kind_of(self._made)

    @property
    def is_leaving(self) -> bool:
        """Whether it was told to go, and is there until somebody has seen to that."""
        return "deletionTimestamp" in self._made["metadata"]

    @property
    @abstractmethod
    def asked(self) -> int:
        """How many pods there are to be now."""

    @abstractmethod
    def to_have(self, pods: int) -> Change:
        """What has it make so many."""

    @abstractmethod
    def to_leave(self, pods: int) -> Change | None:
        """What has its scaler leave it so many; None where it has no scaler."""

    @property
    def ready(self) -> int:
        """How many of its pods are ready, of those that are as it wants them."""
        return ready(self._deployment) if self._deployment is not None else 0

    @property
    def answering(self) -> int:
        """How many of its pods take requests, also while it is being changed."""
        return int((self._deployment or {}).get("status", {}).get("readyReplicas", 0))

    @property
    def left(self) -> int | None:
        """How many pods are left that were not told to end; None where that is not known of what was asked last."""
        if self._deployment is None or not _is_seen(self._deployment):
            return None
        return int(self._deployment["status"].get("replicas", 0))

    @property
    def is_asleep(self) -> bool:
        """Whether it has no pod because nobody asks, as it was made to."""
        return self._deployment is not None and not self._deployment["spec"]["replicas"] and self.own == 0

    @property
    def refusal(self) -> str:
        """Why the cluster makes no pods, such as a quota or a policy; empty where it does."""
        told = {one["type"]: one for one in (self._deployment or {}).get("status", {}).get("conditions", [])}
        failure = told.get("ReplicaFailure", {})
        return str(failure.get("message", "")) if failure.get("status") == "True" else ""

    @property
    def is_made(self) -> bool:
        """Whether there is a Deployment."""
        return self._deployment is not None

    @property
    def says(self) -> str:
        """What whoever makes the Deployment says of why it is not well; empty where nothing is said."""
        return ""


class Deployment(Servers):
    """A Deployment that Headgate applies."""

    kind = DEPLOYMENTS

    def __init__(self, name: str, found: Mapping[str, Any]) -> None:
        super().__init__(name, found, found)

    @property
    def asked(self) -> int:
        """How many pods there are to be now."""
        return int(self._made["spec"].get("replicas", 1))

    def to_have(self, pods: int) -> Change:
        """What has it make so many."""
        return Change(DEPLOYMENTS, self._name, {"spec": {"replicas": pods}})

    def to_leave(self, pods: int) -> Change | None:
        """What has its scaler leave it so many; None where it has no scaler."""
        kind = self.scaler
        return Change(kind, self._name, {"spec": scaling.at_least(kind, pods)}) if kind else None


class InferenceService(Servers):
    """An InferenceService that Headgate applies, and the Deployment that KServe makes of it.

    Its Deployment is KServe's: whoever else changed its number of pods would have it changed back.
    """

    kind = INFERENCE_SERVICES

    @property
    def asked(self) -> int:
        """How many pods there are to be now: as many as were asked for, or as KServe's autoscaler has found to do."""
        least = int(self._made["spec"]["predictor"]["minReplicas"])
        return max(least, int(self._deployment["spec"]["replicas"])) if self.scaler and self._deployment else least

    @property
    def mode(self) -> str:
        """By which KServe makes it."""
        return kserve.mode(self._made)

    def to_have(self, pods: int) -> Change:
        """What has it make so many."""
        return Change(INFERENCE_SERVICES, self._name, kserve.to_have(pods))

    def to_leave(self, pods: int) -> Change | None:
        """What has its scaler leave it so many; None where it has no scaler."""
        return self.to_have(max(1, pods)) if self.scaler else None

    @property
    def says(self) -> str:
        """What KServe says of why it is not well."""
        said = kserve.says(self._made)
        if self._deployment is not None:
            return said
        return f"KServe has made no Deployment of InferenceService {self._name}" + (f" ({said})" if said else "")


def find(api: Api, kind: str, name: str) -> Servers | None:
    """One revision's, of which the kind is known; None where it is gone. Raises as `Api.call` does."""
    found = api.find(kind, name)
    if found is None:
        return None
    if kind == DEPLOYMENTS:
        return Deployment(name, found)
    return InferenceService(name, found, api.find(DEPLOYMENTS, kserve.deployment(name)))


def ready(deployment: Mapping[str, Any]) -> int:
    """How many of a Deployment's pods are ready, of those that are as it wants them."""
    status = deployment.get("status", {})
    return 0 if not _is_seen(deployment) else int(min(status.get("readyReplicas", 0), status.get("updatedReplicas", 0)))


def _is_seen(deployment: Mapping[str, Any]) -> bool:
    """Whether what it says of its pods is said since it was changed."""
    seen = deployment.get("status", {}).get("observedGeneration", 0)
    return bool(seen >= deployment["metadata"].get("generation", 0))
