"""The fence of an endpoint, in a second place: Azure compares no version of an endpoint, which a PUT replaces whole.

A process that stood still between reading an endpoint and writing it puts back what it read, and so removes a higher
fence that was written meanwhile. So a fence is written first to the tags of the endpoint's environment, which no change
of the endpoint touches, and read there again after each change: of two processes that change an endpoint at the same
time, at least one sees the other. https://learn.microsoft.com/rest/api/azureml/environment-containers
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploy_targets.clouds import FENCE, fence_of, is_kept
from headgate.errors import LeaseLostError, TargetUnavailableError

if TYPE_CHECKING:
    from deploy_targets.azure_ml.arm import Arm

_CLOUD = "Azure ML"


class Fences:
    """Those of one workspace.

    Args:
        arm: the workspace.
    """

    def __init__(self, arm: Arm) -> None:
        self._arm = arm

    def announce(self, path: str, endpoint: str, fence: int) -> bool:
        """Have an environment's tags keep a fence, before the endpoint is read.

        Args:
            path: the environment's id.
            endpoint: whose it is.
            fence: of the lease.

        Returns:
            Whether it was not there before, so that what was read of the endpoint until now is too old.

        Raises:
            LeaseLostError: a higher one is there.
            TargetUnavailableError: Azure took it and does not show it.
        """
        tags = self._tags(path)
        if is_kept(tags.get(FENCE), fence, _CLOUD, endpoint):
            return False
        self._arm.call("PUT", path, {"properties": {"tags": {**tags, FENCE: str(fence)}}})
        if not is_kept(self._tags(path).get(FENCE), fence, _CLOUD, endpoint):
            raise TargetUnavailableError(f"Azure took the fence of {endpoint} and does not show it")
        return True

    def highest(self, path: str, endpoint: str) -> int:
        """The highest fence that was announced; 0 where none was."""
        return fence_of(self._tags(path).get(FENCE), _CLOUD, endpoint)

    def _tags(self, path: str) -> dict[str, str]:
        found = (self._arm.find(path) or {}).get("properties") or {}
        return dict(found.get("tags") or {})


def lost(endpoint: str, highest: int, ours: int) -> LeaseLostError:
    """The error for a change that was made over that of a later lease."""
    return LeaseLostError(
        f"a later lease of {endpoint} changed it while this process did (fence {highest}, ours was {ours}); the higher "
        "fence is back, and the traffic may be that of this process",
        fix="see headgate status; this process must not go on, and headgate reconcile sets the traffic",
    )
