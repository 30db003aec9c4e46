"""What an endpoint is in a namespace: one object, which is changed as a whole or not at all.

It has what Headgate knows, and what routes its traffic is made of that. Who changes it has read it, as the API server
compares its resourceVersion; so the fence that is kept there is a compare-and-swap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from pydantic import Field

from deploy_targets.kubernetes import names
from deploy_targets.kubernetes.api import ChangedError
from headgate.errors import LeaseLostError
from headgate.gateway_limits import EndpointLimits
from headgate.records import ModelVersion, Record, Traffic

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from deploy_targets.kubernetes.api import Api

_TRIES = 20


class Known(Record):
    """What is known of an endpoint.

    Attributes:
        fence: the highest that was seen.
        traffic: what is wanted.
        revisions: what the gateway knows, and the version of each.
        served: those of them that have had all traffic.
        limits: of the gateway, by revision.
    """

    fence: int = 0
    traffic: Traffic | None = None
    revisions: dict[str, ModelVersion] = Field(default_factory=dict)
    served: tuple[str, ...] = ()
    limits: dict[str, EndpointLimits] = Field(default_factory=dict)

    def uses(self, revision: str) -> bool:
        """Whether a revision receives live or mirrored requests."""
        return self.traffic is not None and self.traffic.uses(revision)


class Form(Protocol):
    """The kind of object that an endpoint is, and what is in it for those who route."""

    @property
    def kind(self) -> str:
        """As paths have it, such as configmaps."""
        ...

    def content(self, endpoint: str, wanted: Known) -> dict[str, Any]:
        """What the object has beside its metadata."""
        ...


class Endpoint:
    """One endpoint's object.

    Args:
        api: the namespace.
        name: the endpoint's.
        form: the kind of object.
        labels: on what is made.
    """

    def __init__(self, api: Api, name: str, form: Form, labels: Mapping[str, str]) -> None:
        self._api, self._name, self._form, self._labels = api, name, form, labels
        self._object = names.of_endpoint(name)

    def known(self) -> Known:
        """What is there."""
        return known(self._api.find(self._form.kind, self._object))

    def change(self, fence: int | None, to: Callable[[Known], Known]) -> Known:
        """Change it, on what others have made of it by now.

        Args:
            fence: of the caller's lease.
            to: what is to become of what is there.

        Raises:
            LeaseLostError: a higher fence was seen.
        """
        for tried in range(_TRIES):
            found = self._api.find(self._form.kind, self._object)
            before = known(found)
            wanted = to(self._raised(before, fence))
            if found is not None and wanted == before:
                return wanted
            try:
                if found is None:
                    self._api.create(self._form.kind, self.manifest(wanted))
                else:
                    self._api.replace(self._form.kind, self.manifest(wanted, found))
            except ChangedError:
                if tried == _TRIES - 1:
                    raise
                continue
            return wanted
        raise AssertionError("it returns, or raises")

    def remove(self, fence: int | None) -> None:
        """Remove it; nothing happens where it is gone. Raises LeaseLostError where a higher fence was seen."""
        for tried in range(_TRIES):
            found = self._api.find(self._form.kind, self._object)
            if found is None:
                return
            self._raised(known(found), fence)
            try:
                version = found["metadata"]["resourceVersion"]
                self._api.delete(self._form.kind, self._object, version)
            except ChangedError:
                if tried == _TRIES - 1:
                    raise
                continue
            return

    def _raised(self, before: Known, fence: int | None) -> Known:
        if fence is not None and fence < before.fence:
            raise LeaseLostError(
                f"the cluster has seen a later lease of {self._name} than that of this change "
                f"(fence {before.fence}, ours was {fence})",
                fix="see headgate status; this process must not go on",
            )
        return before if fence is None else before.model_copy(update={"fence": fence})

    def manifest(self, wanted: Known, found: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The object as it is to be; in the place of the one that was found, with what others have noted on it."""
        labels = names.labels(self._name, more=self._labels)
        state = {names.STATE: wanted.model_dump_json()}
        made = names.object_of(
            self._form.kind, self._api.version_of(self._form.kind), self._api.namespace, self._object, labels, state
        )
        if found is not None:
            there = found["metadata"]
            for part in ("labels", "annotations"):
                made["metadata"][part] = {**there.get(part, {}), **made["metadata"][part]}
            made["metadata"]["resourceVersion"] = there["resourceVersion"]
        return made | self._form.content(self._name, wanted)


def known(found: Mapping[str, Any] | None) -> Known:
    """What an endpoint's object says; nothing where there is none."""
    return Known.model_validate_json(found["metadata"]["annotations"][names.STATE]) if found is not None else Known()
