"""Machines that follow the load: an autoscale setting of Azure Monitor on a deployment.

Source: https://learn.microsoft.com/azure/machine-learning/how-to-autoscale-endpoints.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headgate.errors import TargetUnavailableError

if TYPE_CHECKING:
    from deploy_targets.azure_ml.arm import Arm

_METRIC = "CpuUtilizationPercentage"
_QUIET = 0.5
"""Below this share of the target, machines go."""


class Scaling:
    """The autoscale settings of a resource group.

    Args:
        arm: the workspace.
        target: percent of CPU that the number of machines is to come to.
    """

    def __init__(self, arm: Arm, target: int) -> None:
        self._arm, self._target = arm, target

    def begin(self, deployment: str, least: int, most: int) -> None:
        """Scale a deployment, named by its id."""
        rules = [
            _rule(deployment, "GreaterThan", self._target, "Increase"),
            _rule(deployment, "LessThan", round(self._target * _QUIET), "Decrease"),
        ]
        profile = {
            "name": "load", "rules": rules,
            "capacity": {"minimum": str(least), "maximum": str(most), "default": str(least)},
        }  # fmt: skip
        content = {"enabled": True, "targetResourceUri": deployment, "profiles": [profile]}
        path = self._path(deployment)
        self._arm.call("PUT", path, {"location": self._arm.location, "properties": content})
        if self._arm.find(path) is None:
            raise TargetUnavailableError(f"Azure took the scaling of {path.rpartition('/')[2]} and does not show it")

    def end(self, deployment: str) -> None:
        """Leave a deployment's machines as many as they are; nothing happens where it is not scaled."""
        if self._arm.find(self._path(deployment)) is not None:
            self._arm.change("DELETE", self._path(deployment), None, 60)

    def _path(self, deployment: str) -> str:
        *_, endpoint, _, name = deployment.split("/")
        return f"{self._arm.group}/providers/Microsoft.Insights/autoscaleSettings/headgate-{endpoint}-{name}"


def _rule(deployment: str, operator: str, threshold: int, direction: str) -> dict[str, Any]:
    trigger = {
        "metricName": _METRIC, "metricResourceUri": deployment, "operator": operator, "threshold": threshold,
        "timeAggregation": "Average", "statistic": "Average", "timeGrain": "PT1M", "timeWindow": "PT5M",
    }  # fmt: skip
    return {
        "metricTrigger": trigger,
        "scaleAction": {"direction": direction, "type": "ChangeCount", "value": "1", "cooldown": "PT5M"},
    }
