"""The judge's evidence from Azure Monitor: how many requests, how many of them failures, and memory.

There is one number a minute for each deployment and class of statuses. Those of the same minute become visible at
different times, some minutes later. Minutes are read once all are there, and their sum since a fixed moment is a
counter. Latencies are percentiles there, which cannot be added, and are no evidence.
https://learn.microsoft.com/azure/azure-monitor/reference/supported-metrics/microsoft-machinelearningservices-workspaces-onlineendpoints-metrics

Memory is a deployment's: the percentage of an instance's memory that is used, its system's included, once a minute; the
greatest of all instances is asked for. CPU is a percentage too, and restarts are not there.
https://learn.microsoft.com/azure/azure-monitor/reference/supported-metrics/microsoft-machinelearningservices-workspaces-onlineendpoints-deployments-metrics
"""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from deploy_targets.answers import listed, reading
from deploy_targets.clouds import MINUTE, last_minutes, newest, settle_seconds, settled
from headgate.counts import Counts
from headgate.errors import TargetUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from deploy_targets.azure_ml.arm import Arm
    from headgate.records import Usage

_METRIC = "RequestsPerMinute"
_MEMORY = "CpuMemoryUtilizationPercentage"
_BY = ("deployment", "statusCodeClass")
_FAILED = ("4xx", "5xx")
_MOST_SERIES = "100"
_SETTLE_SECONDS = 180.0
"""Azure documents no limit for this metric."""


class Counter:
    """Sums of one endpoint's metric since the minute in which this was made.

    Args:
        arm: the workspace.
        path: the endpoint's id.
    """

    def __init__(self, arm: Arm, path: str) -> None:
        self._arm, self._path = arm, path
        self._since = datetime.now(UTC).replace(second=0, microsecond=0)

    def read(self, deployments: Iterable[str]) -> Mapping[str, Counts]:
        """Each deployment's counts.

        Raises:
            TargetUnavailableError: a series cannot be read. Nothing is judged by the others alone.
        """
        requests: defaultdict[str, int] = defaultdict(int)
        failures: defaultdict[tuple[str, str], int] = defaultdict(int)
        until = settled(settle_seconds(_SETTLE_SECONDS))
        if until <= self._since:
            return {name: Counts(requests=0, failures=0) for name in deployments}
        more = {"top": _MOST_SERIES, "$filter": " and ".join(f"{name} eq '*'" for name in _BY)}
        for series in _series(self._arm, self._path, _METRIC, "Average", self._since, until, **more):
            with reading(f"Azure Monitor's {_METRIC}", series):
                by = {one["name"]["value"].lower(): one["value"] for one in series.get("metadatavalues", [])}
                deployment, kind = (by.get(name.lower(), "") for name in _BY)
                # One sample a minute: its average is the number of requests in it.
                number = round(sum(point.get("average") or 0 for point in series.get("data", [])))
                requests[deployment] += number
                if kind.lower() in _FAILED:
                    failures[deployment, kind.lower()] += number
        by_kind = {name: tuple(failures[name, kind] for kind in _FAILED) for name in deployments}
        return {
            name: Counts(requests=requests[name], failures=clients + servers, client_errors=clients)
            for name, (clients, servers) in by_kind.items()
        }


def counts_delay() -> float:
    """Seconds after which a request is in the counts at the latest."""
    return settle_seconds(_SETTLE_SECONDS) + MINUTE.total_seconds()


def memory(arm: Arm, paths: Mapping[str, str]) -> dict[str, Usage]:
    """What the instances of deployments use, each by the one with most; one without a reading is left out.

    Args:
        arm: the workspace.
        paths: the deployments' ids, by their names.

    Raises:
        TargetUnavailableError: Azure Monitor does not answer, or a series cannot be read.
        TargetError: it refuses.
    """
    found = {}
    for name, path in paths.items():
        points = [
            point for series in _series(arm, path, _MEMORY, "Maximum", *last_minutes())
            for point in listed(series, "data", f"Azure Monitor's {_MEMORY}")
        ]  # fmt: skip
        with reading(f"Azure Monitor's {_MEMORY}", points):
            # A minute that has not come yet is there without a number.
            taken = [
                (datetime.fromisoformat(point["timeStamp"]), float(point["maximum"]))
                for point in points if point.get("maximum") is not None
            ]  # fmt: skip
            usage = newest(taken, are_percents=True)
        if usage is not None:
            found[name] = usage
    return found


def _series(
    arm: Arm, path: str, metric: str, aggregation: str, since: datetime, until: datetime, **more: str
) -> Iterable[Any]:  # fmt: skip
    reply = arm.call(
        "GET", f"{path}/providers/Microsoft.Insights/metrics", metricnames=metric, aggregation=aggregation,
        interval="PT1M", timespan=f"{_iso(since)}/{_iso(until)}", **more,
    )  # fmt: skip
    of = f"Azure Monitor's {metric}"
    for found in listed(reply, "value", of):
        if (code := found.get("errorCode", "Success")) != "Success":
            said = f"{of} cannot be had ({code}): {found.get('errorMessage')}"
            raise TargetUnavailableError(said, fix="try again")
        yield from listed(found, "timeseries", of)


def _iso(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
