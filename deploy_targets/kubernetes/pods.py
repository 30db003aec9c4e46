"""The pods of a revision: how many are ready, and why others are not."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeVar

from deploy_targets.kubernetes import names, servers
from deploy_targets.kubernetes.names import ENDPOINT, REVISION
from headgate import clock
from headgate.errors import RevisionFailedError, TargetUnavailableError
from headgate.units import BASIS_POINTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from deploy_targets.kubernetes.api import Api
    from deploy_targets.kubernetes.servers import Servers
    from headgate.records import Revision

PROVISION_SECONDS = 900.0
"""How long nodes may take to be had and to pull the image, besides what the model needs to load."""
MAKE_SECONDS = 60.0
"""How long whoever else makes the Deployment may take to make it."""
GONE_SECONDS = 120.0
T = TypeVar("T")

_POLL_SECONDS = 0.25
_LOG_LINES = 15
_HOPELESS = frozenset({"ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "CreateContainerConfigError"})
"""Why a container waits that will not start by itself."""


class Pods:
    """Those of one revision.

    Args:
        api: the namespace.
        endpoint: whose.
        revision: which.
        kind: of what makes them, as paths have it.
    """

    def __init__(self, api: Api, endpoint: str, revision: str, kind: str = servers.DEPLOYMENTS) -> None:
        self._api, self._endpoint, self._revision, self._kind = api, endpoint, revision, kind
        self._name = names.of_revision(endpoint, revision)

    def wait(self, wanted: int, revision: Revision) -> None:
        """Return once so many are ready.

        Raises:
            RevisionFailedError: one ended, cannot start, finds no node, or takes too long.
        """
        began, running_since, unmade_since = clock.monotonic(), None, None
        while True:
            found = self._answered(self._look)
            if found is not None and found.ready >= wanted:
                return
            pods = self._answered(self._list) or []
            if found is not None and not pods and (refused := found.refusal):
                raise RevisionFailedError(f"{revision.name} gets no pods: {refused}", fix=_fix(refused))
            now = clock.monotonic()
            # Who else makes them can do nothing either while the API server is away.
            unmade_since = (unmade_since or now) if found is not None and not found.is_made else None
            if found is not None and unmade_since is not None and now > unmade_since + MAKE_SECONDS:
                why = f"{revision.name} gets no pods after {MAKE_SECONDS:g} s: {found.says}"
                raise RevisionFailedError(why, fix=_fix(why))
            if why := next(filter(None, map(_hopeless, pods)), ""):
                raise RevisionFailedError(f"{revision.name} cannot start ({why}):\n{self._log(pods)}", fix=_fix(why))
            if running_since is None and len(pods) >= wanted and all(map(_is_running, pods)):
                running_since = now
            if running_since is not None and now > running_since + revision.ready_timeout:
                took = f"{revision.name} is not ready after {revision.ready_timeout:g} s"
                raise RevisionFailedError(
                    f"{took}; its log ends:\n{self._log(pods)}",
                    fix="raise runtime.ready_timeout, or see why loading takes so long",
                )
            if running_since is None and now > began + PROVISION_SECONDS:
                why = self.why_not() or "no pod was made"
                raise RevisionFailedError(
                    f"{revision.name} did not start in {PROVISION_SECONDS:g} s: {why}", fix=_fix(why)
                )
            clock.sleep(_POLL_SECONDS)

    def wait_until_ready(self, wanted: int, seconds: float) -> None:
        """Return once so many of a revision that has started before are ready.

        Raises:
            TargetUnavailableError: not within that time.
        """
        self._wait(lambda found: found.ready >= wanted, seconds, f"has not {wanted} ready pods")

    def wait_until_told_to_end(self, left: int, seconds: float) -> None:
        """Return once no more than so many are left that were not told to end.

        Raises:
            TargetUnavailableError: not within that time.
        """
        self._wait(
            lambda found: found.left is not None and found.left <= left, seconds,
            f"still has more than {left} pods",
        )  # fmt: skip

    def _wait(self, is_so: Callable[[Servers], bool], seconds: float, otherwise: str) -> None:
        deadline = clock.monotonic() + seconds
        while True:
            found = self._answered(self._look)
            if found is not None and is_so(found):
                return
            if clock.monotonic() > deadline:
                why = self.why_not() or "they take too long"
                raise TargetUnavailableError(f"{self._revision} {otherwise} after {seconds:g} s: {why}", fix=_fix(why))
            clock.sleep(_POLL_SECONDS)

    def wait_until_ended(self) -> None:
        """Return once no process of theirs is left; kubelets may keep what is written of them for a minute more.

        Raises:
            TargetUnavailableError: some still are after two minutes.
        """
        deadline = clock.monotonic() + GONE_SECONDS
        while pods := [one for one in self._list() if not has_ended(one)]:
            if clock.monotonic() > deadline:
                raise TargetUnavailableError(
                    f"pods of {self._revision} do not end: {', '.join(one['metadata']['name'] for one in pods)}",
                    fix="see their nodes: kubectl describe pod",
                )
            clock.sleep(_POLL_SECONDS)

    def why_not(self) -> str:
        """Why they are not ready; empty where nothing is said."""
        said = next((why for pod in self._list() for why in _reasons(pod)), "")
        if said or self._kind == servers.DEPLOYMENTS:
            return said
        found = self._look()
        return found.says if found is not None else ""

    def _look(self) -> Servers | None:
        return servers.find(self._api, self._kind, self._name)

    def _list(self) -> list[dict[str, Any]]:
        return self._api.list("pods", {ENDPOINT: self._endpoint, REVISION: self._revision})

    def _log(self, pods: list[dict[str, Any]]) -> str:
        for pod in pods:
            server = next((one["name"] for one in _statuses(pod) if one["name"] in names.SERVERS), names.SERVERS[0])
            for before in (True, False):
                if told := self._api.log(pod["metadata"]["name"], server, _LOG_LINES, before=before):
                    return told
        return "(no log)"

    @staticmethod
    def _answered(look: Callable[[], T]) -> T | None:
        """What the API server says; None while it is away, as it is when it is restarted."""
        try:
            return look()
        except TargetUnavailableError:
            return None


def has_ended(pod: Mapping[str, Any]) -> bool:
    """Whether a pod that was told to end has."""
    states = [one["state"] for one in _statuses(pod)]
    return "deletionTimestamp" in pod["metadata"] and bool(states) and all("terminated" in one for one in states)


def needed(share: int, pods: int) -> int:
    """How many pods a share of the traffic needs, of which so many have all of it; one at least.

    A third is no whole number of basis points, and two of three pods are enough for the rest of it.
    """
    return max(1, math.ceil((share - 1) * pods / BASIS_POINTS))


def _statuses(pod: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    yield from (one for one in pod.get("status", {}).get("containerStatuses", []))


def _is_running(pod: Mapping[str, Any]) -> bool:
    states = [one["state"] for one in _statuses(pod) if one["name"] in names.SERVERS]
    return bool(states) and "running" in states[0]


def _hopeless(pod: Mapping[str, Any]) -> str:
    """Why a pod will not become ready; empty where it still may."""
    if "deletionTimestamp" in pod["metadata"]:
        return ""
    for one in _statuses(pod):
        waiting = one["state"].get("waiting", {})
        if waiting.get("reason") in _HOPELESS:
            return f"{waiting['reason']}: {waiting.get('message', '')}"
        ended = one["state"].get("terminated") or one.get("lastState", {}).get("terminated")
        if ended and one["name"] in names.SERVERS:
            return _end(ended)
    return ""


def _reasons(pod: Mapping[str, Any]) -> Iterator[str]:
    if why := _hopeless(pod):
        yield why
    for condition in pod.get("status", {}).get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            yield f"{condition.get('reason', '')}: {condition.get('message', '')}"
    for one in _statuses(pod):
        if waiting := one["state"].get("waiting"):
            yield f"{waiting.get('reason', '')} {waiting.get('message', '')}".strip()
    if "deletionTimestamp" in pod["metadata"]:
        yield f"pod {pod['metadata']['name']} was told to end"


def _end(ended: Mapping[str, Any]) -> str:
    reason = ended.get("reason", "")
    return f"it ended with exit code {ended.get('exitCode')}" + (f", {reason}" if reason else "")


def _fix(why: str) -> str:
    """What mends it."""
    fixes = {
        "OOMKilled": "raise runtime.memory",
        "Image": "see that nodes may pull the image: image.repository, and target.pull_secrets",
        "quota": "raise the namespace's quota, or lower runtime's limits",
        "Unschedulable": "make room, or see runtime and the target's node_selector and tolerations",
        "exit code 3": "mend the model and log it again",
        "KServe": "see that KServe runs and that target.kserve.mode is its own name for plain Deployments, then "
        "kubectl describe inferenceservice",
    }
    return next((fix for part, fix in fixes.items() if part in why), "kubectl describe pod")
