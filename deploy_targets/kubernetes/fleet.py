"""The servers of all revisions of a namespace: what is there, how they are made, and how they are taken down."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deploy_targets.kubernetes import manifests, names, scaling
from deploy_targets.kubernetes.names import ENDPOINT, REVISION
from deploy_targets.kubernetes.pods import Pods
from deploy_targets.kubernetes.servers import DEPLOYMENTS, Deployment, Servers

if TYPE_CHECKING:
    from deploy_targets.kubernetes.api import Api
    from deploy_targets.kubernetes.settings import KubernetesSettings
    from headgate.records import Revision


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
        return {one["metadata"]["labels"][ENDPOINT] for one in self._api.list(DEPLOYMENTS, ENDPOINT)}

    def of(self, endpoint: str) -> dict[str, Servers]:
        """An endpoint's, by revision."""
        found = self._api.list(DEPLOYMENTS, {ENDPOINT: endpoint, names.MANAGED: names.MANAGER})
        of_revision = ((one["metadata"]["labels"][REVISION], one) for one in found)
        return {name: Deployment(names.of_revision(endpoint, name), one) for name, one in of_revision}

    def pods(self, endpoint: str, revision: str, made: Servers | None) -> Pods:
        """Those of one revision, whose servers are as they were just read, or are to be made."""
        return Pods(self._api, endpoint, revision, made.kind if made is not None else DEPLOYMENTS)

    def manifests(self, endpoint: str, revision: Revision, pods: int) -> list[tuple[str, dict[str, Any]]]:
        """The kind and the manifest of each object of a new revision; nothing is changed."""
        return manifests.of_revision(self._settings, endpoint, revision, pods, self._api.version_of)

    def apply(self, endpoint: str, revision: Revision, pods: int, made: Servers | None) -> None:
        """Make what a revision consists of, or make it again.

        Args:
            endpoint: whose.
            revision: which.
            pods: how many it is to have.
            made: its servers as they were just read; None where there are none.
        """
        name, scaler = names.of_revision(endpoint, revision.name), scaling.kind_for(self._settings)
        other = made.scaler if made is not None else ""
        if other not in ("", scaler) and self._api.serves(other):
            # Two would each undo what the other does.
            self._api.delete(other, name)
        owner: dict[str, Any] = {}
        for kind, manifest in self.manifests(endpoint, revision, pods):
            if kind == scaling.KEDA:
                # It goes with its Deployment, also where KEDA is not in the release file any more.
                manifest["metadata"]["ownerReferences"] = [owner]
            there = self._api.apply(kind, manifest)
            if kind == DEPLOYMENTS:
                owner = {"apiVersion": "apps/v1", "kind": "Deployment", "name": name, "uid": there["metadata"]["uid"]}
        if revision.most_workers:
            # Its number is not in what we apply, as it is the autoscaler's; which looks four times a minute only.
            self._api.merge(DEPLOYMENTS, name, {"spec": {"replicas": pods}})

    def remove(self, endpoint: str, revision: str) -> None:
        """Its pods first: who still knows its Service finds them ending, and not a Service that is gone."""
        name = names.of_revision(endpoint, revision)
        self._api.delete(DEPLOYMENTS, name)
        self.pods(endpoint, revision, None).wait_until_ended()
        for kind in manifests.KINDS:
            self._api.delete(kind, name)

    def revisions(self, endpoint: str) -> set[str]:
        """Those of which any object is there."""
        found = (one for kind in manifests.KINDS for one in self._api.list(kind, {ENDPOINT: endpoint}))
        return {one["metadata"]["labels"][REVISION] for one in found}
