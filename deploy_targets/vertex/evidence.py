"""The judge's evidence from Cloud Monitoring: how many answers, how many of them failures, and memory.

There is one number a minute for each version and status. Those of the same minute become visible at different times,
up to 240 seconds later (https://cloud.google.com/monitoring/api/v3/latency-n-retention). Minutes are read once all are
there, and their sum since a fixed moment is a counter. Latencies are distributions whose buckets are not documented,
so they are not evidence.
https://cloud.google.com/monitoring/api/metrics_gcp_a_b: aiplatform.googleapis.com/prediction/online/response_count

Memory is prediction/online/memory/bytes_used of the same page: bytes of each replica, sampled every 60 seconds, and
seen up to 360 seconds later. A replica's id is not said to change when its server is started again, so restarts are not
known; nor is CPU time, of which only the share in use is there.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from deploy_targets.answers import reading
from deploy_targets.clouds import MINUTE, last_minutes, newest, settle_seconds, settled
from deploy_targets.vertex import names
from headgate.counts import Counts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from deploy_targets.vertex.google import Google
    from headgate.records import Usage

_METRIC = "aiplatform.googleapis.com/prediction/online/response_count"
_MEMORY = "aiplatform.googleapis.com/prediction/online/memory/bytes_used"
_SETTLE_SECONDS = 240.0
_FAILED = 4
"""The first digit of a status from which on an answer is a failure."""


class Counter:
    """Sums of one endpoint's metrics since the minute in which this was made."""

    def __init__(self, google: Google, endpoint: str) -> None:
        self._google, self._endpoint = google, endpoint
        self._since = datetime.now(UTC).replace(second=0, microsecond=0)

    def read(self, revisions: Iterable[str]) -> Mapping[str, Counts]:
        """Each revision's counts.

        Raises:
            TargetUnavailableError: a series cannot be read. Nothing is judged by the others alone.
        """
        answers: defaultdict[str, int] = defaultdict(int)
        failures: defaultdict[tuple[str, str], int] = defaultdict(int)
        end = settled(settle_seconds(_SETTLE_SECONDS))
        if end <= self._since:
            return {name: Counts(requests=0, failures=0) for name in revisions}
        for series in _series(self._google, _METRIC, self._endpoint, self._since, end):
            with reading(f"Cloud Monitoring's {_METRIC}", series):
                labels = series["metric"]["labels"]
                number = sum(int(point["value"]["int64Value"]) for point in series.get("points", []))
                answers[labels["deployed_model_id"]] += number
                if int(kind := labels["response_code"][0]) >= _FAILED:
                    failures[labels["deployed_model_id"], kind] += number
        ids = {name: names.deployed_id(name) for name in revisions}
        by_kind = {name: (failures[one, "4"], failures[one, "5"]) for name, one in ids.items()}
        return {
            name: Counts(requests=answers[ids[name]], failures=clients + servers, client_errors=clients)
            for name, (clients, servers) in by_kind.items()
        }


def counts_delay() -> float:
    """Seconds after which a request is in the counts at the latest."""
    return settle_seconds(_SETTLE_SECONDS) + MINUTE.total_seconds()


def memory(google: Google, endpoint: str, revisions: Iterable[str]) -> dict[str, Usage]:
    """What the replicas of each revision use, by the one with most; a revision without a reading is left out.

    Raises:
        TargetUnavailableError: Cloud Monitoring does not answer, or a series cannot be read.
        TargetError: it refuses.
    """
    readings: defaultdict[str, list[tuple[datetime, float]]] = defaultdict(list)
    for series in _series(google, _MEMORY, endpoint, *last_minutes()):
        with reading(f"Cloud Monitoring's {_MEMORY}", series):
            readings[series["metric"]["labels"]["deployed_model_id"]] += [
                (datetime.fromisoformat(point["interval"]["endTime"]), int(point["value"]["int64Value"]))
                for point in series.get("points", [])
            ]
    found = {}
    for name in revisions:
        taken = readings[names.deployed_id(name)]
        with reading(f"Cloud Monitoring's {_MEMORY}", taken):
            usage = newest(taken, are_percents=False)
        if usage is not None:
            found[name] = usage
    return found


def _series(google: Google, metric: str, endpoint: str, since: datetime, until: datetime) -> Iterable[Any]:
    wanted = f'metric.type="{metric}" AND resource.labels.endpoint_id="{endpoint}"'
    return google.pages(
        "monitoring", "projects.timeSeries.list", "timeSeries", name=f"projects/{google.project}", filter=wanted,
        interval_startTime=_rfc3339(since), interval_endTime=_rfc3339(until),
    )  # fmt: skip


def _rfc3339(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
