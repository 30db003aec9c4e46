"""The judge's evidence from Azure Monitor: how many requests, and how many of them failures.

There is one number a minute, some minutes late. A sum since a fixed moment is a counter that grows late, which is all
that the judge asks of one. Latencies are percentiles there, which cannot be added, and are no evidence.
https://learn.microsoft.com/azure/azure-monitor/reference/supported-metrics/microsoft-machinelearningservices-workspaces-onlineendpoints-metrics
"""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from headgate.records import Counts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from deploy_targets.azure_ml.arm import Arm

_METRIC = "RequestsPerMinute"
_BY = ("deployment", "statusCodeClass")
_FAILED = ("4xx", "5xx")
_MOST_SERIES = "100"
_MINUTE = timedelta(minutes=1)


class Counter:
    """Sums of one endpoint's metric since the minute in which this was made.

    Args:
        arm: the workspace.
        path: the endpoint's id.
    """

    def __init__(self, arm: Arm, path: str) -> None:
        self._arm, self._path = arm, f"{path}/providers/Microsoft.Insights/metrics"
        self._since = datetime.now(UTC).replace(second=0, microsecond=0)

    def read(self, deployments: Iterable[str]) -> Mapping[str, Counts]:
        """Each deployment's counts."""
        requests: defaultdict[str, int] = defaultdict(int)
        failures: defaultdict[str, int] = defaultdict(int)
        for series in self._series():
            by = {one["name"]["value"].lower(): one["value"] for one in series.get("metadatavalues", [])}
            deployment, kind = (by.get(name.lower(), "") for name in _BY)
            # One sample a minute: its average is the number of requests in it.
            number = round(sum(point.get("average") or 0 for point in series.get("data", [])))
            requests[deployment] += number
            if kind.lower() in _FAILED:
                failures[deployment] += number
        return {name: Counts(requests=requests[name], failures=failures[name]) for name in deployments}

    def _series(self) -> Iterable[Any]:
        until = datetime.now(UTC) + _MINUTE
        reply = self._arm.call(
            "GET", self._path, metricnames=_METRIC, aggregation="Average", interval="PT1M", top=_MOST_SERIES,
            timespan=f"{_iso(self._since)}/{_iso(until)}", **{"$filter": " and ".join(f"{by} eq '*'" for by in _BY)},
        )  # fmt: skip
        for metric in reply.get("value", []):
            yield from metric.get("timeseries", [])


def _iso(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
