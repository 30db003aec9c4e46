"""The servers of all revisions of a namespace: what is there, how they are made, and how they are taken down."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deploy_targets.kubernetes import kserve, manifests, names, scaling
from deploy_targets.kubernetes.api import NotAllowedError
from deploy_targets.kubernetes.kserve import INFERENCE_SERVICES
from deploy_targets.kubernetes.names import ENDPOINT, REVISION
from deploy_targets.kubernetes.pods import GONE_SECONDS, Pods
from deploy_targets.kubernetes.servers import DEPLOYMENTS, Deployment, InferenceService, Servers
from deploy_targets.kubernetes.settings import KServe
from headgate import clock
from headgate.errors import TargetError, TargetUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from deploy_targets.kubernetes.api import Api
    from deploy_targets.kubernetes.settings import KubernetesSettings
    from headgate.records import Revision

_POLL_SECONDS = 0.25


class Fleet:
    """What makes the pods of a namespace.

    Args:
        api: the namespace.
        settings: of the target; how new revisions are made.
    """

    def __init__(self, api: Api, settings: KubernetesSettings) -> None:
        self._api, self._settings = api, settings

    def endpoints(self) -> set[str]:
        """Those that have any."""
        found = self._api.list(DEPLOYMENTS, ENDPOINT)
        return {one["metadata"]["labels"][ENDPOINT] for one in [*found, *self._of_kserve(found, ENDPOINT)]}

    def of(self, endpoint: str, *, also_hidden: bool = False) -> dict[str, Servers]:
        """An endpoint's, by revision; one may be older than the release file, and made otherwise than it says.

        Args:
            endpoint: whose.
            also_hidden: look also for InferenceServices that nothing else points at, as KServe has not seen them yet.
        """
        chosen = {ENDPOINT: endpoint, names.MANAGED: names.MANAGER}
        found = self._api.list(DEPLOYMENTS, chosen)
        made: dict[str, Servers] = {
            _revision(one): Deployment(one["metadata"]["name"], one) for one in found if not kserve.owner(one)
        }
        # KServe gives what it makes the labels of what it makes it of.
        by_owner = {kserve.owner(one): one for one in found}
        for one in self._of_kserve(found, chosen, also_hidden=also_hidden):
            name = one["metadata"]["name"]
            made[_revision(one)] = InferenceService(name, one, by_owner.get(name))
        return made

    def _of_kserve(
        self, deployments: Iterable[Mapping[str, Any]], chosen: Mapping[str, str] | str, *, also_hidden: bool = False
    ) -> list[dict[str, Any]]:
        """InferenceServices, where there may be some: KServe is in the release file, or has made a Deployment."""
        is_used = self._settings.kserve is not None or any(map(kserve.owner, deployments))
        if not (is_used or also_hidden) or not self._api.serves(INFERENCE_SERVICES):
            return []
        try:
            return self._api.list(INFERENCE_SERVICES, chosen)
        except NotAllowedError as error:
            if not is_used:
                return []
            raise NotAllowedError(
                error.message,
                fix="KServe has made servers that are there still: put target.kserve into a release file, and apply "
                "what headgate doctor --policy says of that, until the last of them is retired",
            ) from error

    def pods(self, endpoint: str, revision: str, made: Servers | None) -> Pods:
        """Those of one revision, whose servers are as they were just read, or are to be made."""
        new = INFERENCE_SERVICES if self._settings.kserve is not None else DEPLOYMENTS
        return Pods(self._api, endpoint, revision, made.kind if made is not None else new)

    def manifests(
        self, endpoint: str, revision: Revision, pods: int, made: Servers | None = None
    ) -> list[tuple[str, dict[str, Any]]]:
        """The kind and the manifest of each object of a revision; nothing is changed.

        Args:
            endpoint: whose.
            revision: which.
            pods: how many it is to have.
            made: its servers as they were just read; they stay of the kind that they are.

        Raises:
            TargetError: a name is too long.
        """
        return manifests.of_revision(self._like(made), endpoint, revision, pods, self._api.version_of)

    def _like(self, made: Servers | None) -> KubernetesSettings:
        """The settings, with servers as they were made: what answers clients is not made anew under them."""
        if isinstance(made, Deployment):
            return self._settings.model_copy(update={"kserve": None})
        if isinstance(made, InferenceService) and self._settings.kserve is None:
            return self._settings.model_copy(update={"kserve": KServe.model_validate({"mode": made.mode})})
        return self._settings

    def apply(self, endpoint: str, revision: Revision, pods: int, made: Servers | None) -> None:
        """Make what a revision consists of, or make it again.

        Args:
            endpoint: whose.
            revision: which.
            pods: how many it is to have.
            made: its servers as they were just read; None where there are none.

        Raises:
            TargetError: the cluster refuses it, or has an InferenceService of this name that is somebody else's.
        """
        name, scaler = names.of_revision(endpoint, revision.name), scaling.kind_for(self._like(made))
        if made is None and self._settings.kserve is not None:
            self._see_that_it_is_nobodys(name)
        other = made.scaler if made is not None else ""
        if other not in ("", scaler) and self._api.serves(other):
            # Two would each undo what the other does.
            self._api.delete(other, name)
        owner: dict[str, Any] = {}
        for kind, manifest in self.manifests(endpoint, revision, pods, made):
            if kind == scaling.KEDA:
                # It goes with its Deployment, also where KEDA is not in the release file any more.
                manifest["metadata"]["ownerReferences"] = [owner]
            there = self._api.apply(kind, manifest)
            if kind == DEPLOYMENTS:
                owner = {"apiVersion": "apps/v1", "kind": "Deployment", "name": name, "uid": there["metadata"]["uid"]}
        if revision.most_workers and owner:
            # Its number is not in what we apply, as it is the autoscaler's; which looks four times a minute only.
            self._api.merge(DEPLOYMENTS, name, {"spec": {"replicas": pods}})

    def _see_that_it_is_nobodys(self, name: str) -> None:
        if self._api.find(INFERENCE_SERVICES, name) is not None:
            raise TargetError(
                f"{self._api.namespace} has an InferenceService {name} that is not Headgate's",
                fix=f"choose another `endpoint:` in the release file, or: kubectl delete inferenceservice {name}",
            )

    def remove(self, endpoint: str, revision: str) -> None:
        """Its pods first: who still knows its Service finds them ending, and not a Service that is gone.

        Raises:
            TargetUnavailableError: they do not end within two minutes.
        """
        name, made = names.of_revision(endpoint, revision), self.of(endpoint, also_hidden=True).get(revision)
        self._api.delete(made.kind if made is not None else DEPLOYMENTS, name)
        if isinstance(made, InferenceService):
            self._wait_until_gone(name)
        self.pods(endpoint, revision, None).wait_until_ended()
        for kind in manifests.KINDS:
            self._api.delete(kind, name)

    def _wait_until_gone(self, name: str) -> None:
        """Until KServe has let go of an InferenceService, and its Deployment has gone with it."""
        deadline = clock.monotonic() + GONE_SECONDS
        there = {INFERENCE_SERVICES: name, DEPLOYMENTS: kserve.deployment(name)}
        while left := [f"{kind}/{one}" for kind, one in there.items() if self._api.find(kind, one) is not None]:
            if clock.monotonic() > deadline:
                raise TargetUnavailableError(
                    f"{' and '.join(left)} of {self._api.namespace} do not go within {GONE_SECONDS:g} s",
                    fix="see that KServe runs, as an InferenceService goes once its finalizers are done: "
                    f"kubectl get inferenceservice {name} -o yaml",
                )
            clock.sleep(_POLL_SECONDS)

    def revisions(self, endpoint: str) -> set[str]:
        """Those of which any object is there."""
        found = (one for kind in manifests.KINDS for one in self._api.list(kind, {ENDPOINT: endpoint}))
        return {_revision(one) for one in found} | set(self.of(endpoint, also_hidden=True))


def _revision(found: Mapping[str, Any]) -> str:
    return str(found["metadata"]["labels"][REVISION])
