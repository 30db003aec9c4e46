"""The judge's evidence from CloudWatch: how many invocations, failures, and answers of each latency.

CloudWatch has one number a minute, and late. A sum since a fixed moment is a counter that grows late, which is all that
the judge asks of one. Latencies are counted by the trimmed count, TC(low:high), the number of values above `low` and up
to `high`. Sources: https://docs.aws.amazon.com/sagemaker/latest/dg/monitoring-cloudwatch.html (the metrics),
https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/Statistics-definitions.html (the statistics).
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from headgate.records import Counts

if TYPE_CHECKING:
    from deploy_targets.sagemaker.aws import Aws

BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds; each is a metric that is paid for at each reading."""

_MICROSECONDS = 1_000_000
_MINUTE = timedelta(minutes=1)
_MOST_POINTS = 1440
_COUNTS = ("Invocations", "Invocation4XXErrors", "Invocation5XXErrors")


class Counter:
    """Sums of one endpoint's metrics, since the minute in which this was made if nothing else is said."""

    def __init__(self, aws: Aws, endpoint: str, *, since: datetime | None = None) -> None:
        self._aws, self._endpoint = aws, endpoint
        self._since = since or datetime.now(UTC).replace(second=0, microsecond=0)

    def read(self, variant: str) -> Counts:
        """A variant's counts."""
        sums = self._sums(variant)
        return Counts(
            requests=sums[0], failures=min(sums[1] + sums[2], sums[0]),
            latency=tuple(sums[len(_COUNTS) :]),
        )  # fmt: skip

    def _sums(self, variant: str) -> list[int]:
        now = datetime.now(UTC)
        minutes = max(1, -(-int((now - self._since).total_seconds()) // 60 // _MOST_POINTS))
        wanted = [*((name, "Sum") for name in _COUNTS), *(("ModelLatency", stat) for stat in _buckets())]
        queries = [self._query(number, variant, *one, 60 * minutes) for number, one in enumerate(wanted)]
        sums, token = [0.0] * len(wanted), ""
        while True:
            page = self._aws.call(
                "cloudwatch", "get_metric_data", MetricDataQueries=queries, StartTime=self._since,
                EndTime=max(now, self._since) + _MINUTE, **({"NextToken": token} if token else {}),
            )  # fmt: skip
            for result in page["MetricDataResults"]:
                sums[int(result["Id"][1:])] += sum(result["Values"])
            token = page.get("NextToken", "")
            if not token:
                return [round(total) for total in sums]

    def _query(self, number: int, variant: str, metric: str, stat: str, period: int) -> dict[str, Any]:
        dimensions = [
            {"Name": "EndpointName", "Value": self._endpoint}, {"Name": "VariantName", "Value": variant},
        ]  # fmt: skip
        named = {"Namespace": "AWS/SageMaker", "MetricName": metric, "Dimensions": dimensions}
        return {"Id": f"q{number}", "MetricStat": {"Metric": named, "Period": period, "Stat": stat}}


def _buckets() -> list[str]:
    edges = [str(round(bound * _MICROSECONDS)) for bound in BOUNDS]
    return [f"TC({low}:{high})" for low, high in zip(["", *edges], [*edges, ""], strict=True)]
