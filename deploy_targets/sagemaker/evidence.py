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
"""Seconds."""

_MICROSECONDS = 1_000_000
_MINUTE = timedelta(minutes=1)
_MOST_POINTS = 1440
_COUNTS = ("Invocations", "Invocation4XXErrors", "Invocation5XXErrors")


Dimensions = dict[str, str]
"""By their names, as CloudWatch has them."""


class Counter:
    """Sums of metrics between two moments.

    Args:
        aws: the account.
        latencies: whether they are counted too; each bucket is a metric that is paid for at each reading.
        since: the first minute; the one in which this is made if nothing is said.
        until: the first minute that does not count any more; none if nothing is said.
    """

    def __init__(
        self, aws: Aws, *, latencies: bool = True, since: datetime | None = None, until: datetime | None = None
    ) -> None:
        self._aws, self.until = aws, until
        self._wanted = [(name, "Sum") for name in _COUNTS]
        if latencies:
            self._wanted += [("ModelLatency", stat) for stat in _buckets()]
        self._since = since or datetime.now(UTC).replace(second=0, microsecond=0)

    def read(self, of: Dimensions) -> Counts:
        """The counts of what has these dimensions."""
        sums = self._sums(of)
        return Counts(
            requests=sums[0], failures=min(sums[1] + sums[2], sums[0]),
            latency=tuple(sums[len(_COUNTS) :]),
        )  # fmt: skip

    def _sums(self, of: Dimensions) -> list[int]:
        now = datetime.now(UTC)
        end = max(now, self._since) + _MINUTE
        if self.until is not None:
            end = min(end, self.until)
        if end <= self._since:
            return [0] * len(self._wanted)
        minutes = max(1, -(-int((now - self._since).total_seconds()) // 60 // _MOST_POINTS))
        queries = [_query(number, of, *one, 60 * minutes) for number, one in enumerate(self._wanted)]
        sums, token = [0.0] * len(queries), ""
        while True:
            page = self._aws.call(
                "cloudwatch", "get_metric_data", MetricDataQueries=queries, StartTime=self._since,
                EndTime=end, **({"NextToken": token} if token else {}),
            )  # fmt: skip
            for result in page["MetricDataResults"]:
                sums[int(result["Id"][1:])] += sum(result["Values"])
            token = page.get("NextToken", "")
            if not token:
                return [round(total) for total in sums]


def next_minute() -> datetime:
    """When a count can begin that has nothing of what was before: CloudWatch has one number a minute."""
    return datetime.now(UTC).replace(second=0, microsecond=0) + _MINUTE


def _query(number: int, of: Dimensions, metric: str, stat: str, period: int) -> dict[str, Any]:
    dimensions = [{"Name": name, "Value": value} for name, value in of.items()]
    named = {"Namespace": "AWS/SageMaker", "MetricName": metric, "Dimensions": dimensions}
    return {"Id": f"q{number}", "MetricStat": {"Metric": named, "Period": period, "Stat": stat}}


def _buckets() -> list[str]:
    edges = [str(round(bound * _MICROSECONDS)) for bound in BOUNDS]
    return [f"TC({low}:{high})" for low, high in zip(["", *edges], [*edges, ""], strict=True)]
