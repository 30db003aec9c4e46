"""The judge's evidence from Cloud Monitoring: how many answers, and how many of them failures.

There is one number a minute, some minutes late. A sum since a fixed moment is a counter that grows late, which is all
that the judge asks of one. Latencies are distributions there whose buckets nobody documents, and are no evidence.
https://cloud.google.com/monitoring/api/metrics_gcp_a_b: aiplatform.googleapis.com/prediction/online/response_count
"""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from deploy_targets.vertex import names
from headgate.records import Counts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from deploy_targets.vertex.google import Google

_METRIC = "aiplatform.googleapis.com/prediction/online/response_count"
_FAILED = 4
"""The first digit of a status from which on an answer is a failure."""
_MINUTE = timedelta(minutes=1)


class Counter:
    """Sums of one endpoint's metrics since the minute in which this was made."""

    def __init__(self, google: Google, endpoint: str) -> None:
        self._google, self._endpoint = google, endpoint
        self._since = datetime.now(UTC).replace(second=0, microsecond=0)

    def read(self, revisions: Iterable[str]) -> Mapping[str, Counts]:
        """Each revision's counts."""
        answers: defaultdict[str, int] = defaultdict(int)
        failures: defaultdict[str, int] = defaultdict(int)
        for series in self._series():
            labels = series["metric"]["labels"]
            number = sum(int(point["value"]["int64Value"]) for point in series.get("points", []))
            answers[labels["deployed_model_id"]] += number
            if int(labels["response_code"][0]) >= _FAILED:
                failures[labels["deployed_model_id"]] += number
        ids = {name: names.deployed_id(name) for name in revisions}
        return {name: Counts(requests=answers[one], failures=failures[one]) for name, one in ids.items()}

    def _series(self) -> Iterable[Any]:
        wanted = f'metric.type="{_METRIC}" AND resource.labels.endpoint_id="{self._endpoint}"'
        return self._google.pages(
            "monitoring", "projects.timeSeries.list", "timeSeries", name=f"projects/{self._google.project}",
            filter=wanted, interval_startTime=_rfc3339(self._since),
            interval_endTime=_rfc3339(datetime.now(UTC) + _MINUTE),
        )  # fmt: skip


def _rfc3339(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
