"""The judge's evidence from CloudWatch: how many invocations, failures, and answers of each latency; and memory.

CloudWatch has one number a minute for each series, and shows those of the same minute at different times. Minutes are
read once all their series are complete, for all versions up to the same moment; their sum since a fixed moment is a
counter. Latencies are counted by the trimmed count, TC(low:high), the number of values above `low` and up
to `high`. Sources: https://docs.aws.amazon.com/sagemaker/latest/dg/monitoring-cloudwatch.html (the metrics),
https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/Statistics-definitions.html (the statistics).

Memory is percents, by the same page: of a machine, what all its containers use; of a copy of an inference component,
over what was reserved for it, by MinMemoryRequiredInMb. Bytes and restarts are not there, and the CPU only in percents.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from deploy_targets.answers import reading
from deploy_targets.clouds import MINUTE, last_minutes, newest, settle_seconds, settled
from headgate.counts import Counts, latencies
from headgate.errors import TargetUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from deploy_targets.sagemaker.aws import Aws
    from headgate.records import Usage

BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds."""

_SETTLE_SECONDS = 150.0
"""A number of SageMaker is complete about two minutes after its minute."""
_MICROSECONDS = 1_000_000
_MOST_POINTS = 1440
_NOT_READ = frozenset({"InternalError", "Forbidden"})
"""`StatusCode` of MetricDataResult: its values are not all there are."""
_COUNTS = ("Invocations", "Invocation4XXErrors", "Invocation5XXErrors")


Dimensions = dict[str, str]
"""By their names, as CloudWatch has them."""


class Metric(NamedTuple):
    """One of CloudWatch's metrics."""

    namespace: str
    name: str


OF_MACHINES = Metric("/aws/sagemaker/Endpoints", "MemoryUtilization")
"""By EndpointName and VariantName."""
OF_COPIES = Metric("/aws/sagemaker/InferenceComponents", "MemoryUtilizationNormalized")
"""By InferenceComponentName."""


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
        self.since = since or datetime.now(UTC).replace(second=0, microsecond=0)

    def read(self, of: Dimensions, end: datetime) -> Counts:
        """The counts of what has these dimensions.

        Args:
            of: the dimensions.
            end: the first minute that does not count yet; the same for all versions that are compared.
        """
        sums = self._sums(of, end)
        return Counts(
            requests=sums[0], failures=sums[1] + sums[2], client_errors=sums[1],
            histograms=latencies(sums[len(_COUNTS) :]),
        )  # fmt: skip

    def _sums(self, of: Dimensions, end: datetime) -> list[int]:
        if self.until is not None:
            end = min(end, self.until)
        if end <= self.since:
            return [0] * len(self._wanted)
        minutes = max(1, -(-int((end - self.since).total_seconds()) // 60 // _MOST_POINTS))
        queries = [
            _query(number, of, Metric("AWS/SageMaker", name), stat, 60 * minutes)
            for number, (name, stat) in enumerate(self._wanted)
        ]
        sums = [0.0] * len(queries)
        for result in _results(self._aws, queries, self.since, end):
            with reading("CloudWatch's GetMetricData", result):
                sums[int(result["Id"][1:])] += sum(result["Values"])
        return [round(total) for total in sums]


def counts_delay() -> float:
    """Seconds after which a request is in the counts at the latest."""
    return settle_seconds(_SETTLE_SECONDS) + MINUTE.total_seconds()


def end_of_counts() -> datetime:
    """The first minute of which CloudWatch does not show all numbers yet."""
    return settled(settle_seconds(_SETTLE_SECONDS))


def memory(
    aws: Aws, metric: Metric, of: Mapping[str, Dimensions], since: Mapping[str, datetime] | None = None
) -> dict[str, Usage]:  # fmt: skip
    """What the servers of revisions use, each by the one with most; one without a reading is left out.

    Args:
        aws: the account.
        metric: OF_MACHINES or OF_COPIES.
        of: each revision's dimensions.
        since: for a revision the first minute that is its own, where what has its dimensions was another's before.

    Raises:
        TargetUnavailableError: CloudWatch does not answer, or not in the form of its reference.
        TargetError: it refuses.
    """
    if not of:
        return {}
    revisions, (start, end) = list(of), last_minutes()
    queries = [_query(number, of[name], metric, "Maximum", 60) for number, name in enumerate(revisions)]
    readings: dict[str, list[tuple[datetime, float]]] = {name: [] for name in revisions}
    for result in _results(aws, queries, start, end):
        with reading("CloudWatch's GetMetricData", result):
            name = revisions[int(result["Id"][1:])]
            pairs = zip(result["Timestamps"], result["Values"], strict=True)
            readings[name] += [one for one in pairs if one[0] >= (since or {}).get(name, start)]
    with reading(f"CloudWatch's {metric.name}", readings):
        found = {name: newest(taken, are_percents=True) for name, taken in readings.items()}
    return {name: usage for name, usage in found.items() if usage is not None}


def next_minute() -> datetime:
    """When a count can begin that has nothing of what was before: CloudWatch has one number a minute."""
    return datetime.now(UTC).replace(second=0, microsecond=0) + MINUTE


def _query(number: int, of: Dimensions, metric: Metric, stat: str, period: int) -> dict[str, Any]:
    dimensions = [{"Name": name, "Value": value} for name, value in of.items()]
    named = {"Namespace": metric.namespace, "MetricName": metric.name, "Dimensions": dimensions}
    return {"Id": f"q{number}", "MetricStat": {"Metric": named, "Period": period, "Stat": stat}}


def _results(aws: Aws, queries: list[dict[str, Any]], start: datetime, end: datetime) -> Iterator[Any]:
    """What CloudWatch has for each query, over all pages.

    Raises:
        TargetUnavailableError: a query has not got all its values.
    """
    asked, token = {query["Id"]: query["MetricStat"] for query in queries}, ""
    while True:
        page = aws.call(
            "cloudwatch", "get_metric_data", MetricDataQueries=queries, StartTime=start, EndTime=end,
            **({"NextToken": token} if token else {}),
        )  # fmt: skip
        for result in page["MetricDataResults"]:
            if (code := result.get("StatusCode")) in _NOT_READ:
                raise TargetUnavailableError(
                    f"CloudWatch does not give {asked.get(result['Id'], result['Id'])} ({code}): "
                    f"{result.get('Messages', '')}",
                    fix="try again; Forbidden is a permission that the caller lacks (cloudwatch:GetMetricData)",
                )
            yield result
        token = page.get("NextToken", "")
        if not token:
            return


def _buckets() -> list[str]:
    edges = [str(round(bound * _MICROSECONDS)) for bound in BOUNDS]
    return [f"TC({low}:{high})" for low, high in zip(["", *edges], [*edges, ""], strict=True)]
