"""Counts of clouds whose series become readable at different times: requests and failures are of the same minutes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from deploy_targets import CountsLate, clouds
from deploy_targets.azure_ml import evidence as azure_monitor
from deploy_targets.azure_ml.target import AzureMlTarget
from deploy_targets.sagemaker import evidence as cloudwatch
from deploy_targets.sagemaker.components_target import ComponentsTarget
from deploy_targets.sagemaker.target import SageMakerTarget
from deploy_targets.vertex import evidence as cloud_monitoring
from deploy_targets.vertex import names
from deploy_targets.vertex.target import VertexTarget
from headgate.errors import BadInputError
from headgate.limits import SETTLE

BEGAN = datetime(2026, 3, 1, 12, 0, 20, tzinfo=UTC)
MINUTES = [BEGAN.replace(second=0) + timedelta(minutes=number) for number in range(12)]
REQUESTS, FAILED, REFUSED = {"v1": 1000, "v2": 100}, {"v1": 10, "v2": 1}, {"v1": 20, "v2": 2}
"""Each minute: requests, answers of 5xx and of 4xx."""
LATE = {("v1", "requests"): 20, ("v1", "failures"): 95, ("v2", "requests"): 61, ("v2", "failures"): 33,
        ("v1", "refused"): 3, ("v2", "refused"): 88}  # fmt: skip
"""Seconds after the end of a minute at which each series has its number."""


class Clock:
    """The time of the test, in place of `datetime.now`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = BEGAN
        clock = self

        class At(datetime):
            @classmethod
            def now(cls, _zone: object = None) -> datetime:
                return clock.now

        for module in (clouds, cloudwatch, cloud_monitoring, azure_monitor):
            monkeypatch.setattr(module, "datetime", At)

    def points(self, version: str, series: str, start: datetime, end: datetime) -> list[tuple[datetime, int]]:
        """What a cloud shows now of one series: a number for each minute of the span."""
        late = timedelta(seconds=LATE[version, series])
        number = {"requests": REQUESTS, "failures": FAILED, "refused": REFUSED}[series][version]
        return [
            (at, number) for at in MINUTES
            if start <= at < end and at + timedelta(minutes=1) + late <= self.now
        ]  # fmt: skip


def of_sagemaker(clock):
    class Aws:
        def call(self, _service, _operation, **asked):
            results = []
            for query in asked["MetricDataQueries"]:
                named = query["MetricStat"]["Metric"]
                (version,) = (one["Value"] for one in named["Dimensions"] if one["Name"] == "VariantName")
                series = {"Invocations": "requests", "Invocation5XXErrors": "failures"}.get(
                    named["MetricName"], "refused"
                )
                points = clock.points(version, series, asked["StartTime"], asked["EndTime"])
                results.append({"Id": query["Id"], "Values": [float(number) for _, number in points]})
            return {"MetricDataResults": results}

    counter = cloudwatch.Counter(Aws(), latencies=False)

    def read():
        end = cloudwatch.end_of_counts()
        return {name: counter.read({"EndpointName": "churn", "VariantName": name}, end) for name in REQUESTS}

    return read


def of_vertex(clock):
    class Google:
        project = "ours"

        def pages(self, *_call, interval_startTime, interval_endTime, **_more):  # noqa: N803 - the API's names
            start, end = (datetime.fromisoformat(one) for one in (interval_startTime, interval_endTime))
            for version in REQUESTS:
                for code, series in (("200", "requests"), ("500", "failures"), ("429", "refused")):
                    points = dict(clock.points(version, series, start, end))
                    if series == "requests":
                        # Each status is a series: answers of 200 are all but the failed ones.
                        points = {at: number - FAILED[version] - REFUSED[version] for at, number in points.items()}
                    yield {
                        "metric": {"labels": {"deployed_model_id": names.deployed_id(version), "response_code": code}},
                        "points": [{"value": {"int64Value": str(number)}} for number in points.values()],
                    }

    counter = cloud_monitoring.Counter(Google(), "churn")
    return lambda: counter.read(REQUESTS)


def of_azure(clock):
    class Arm:
        def call(self, _verb, _path, *, timespan, **_more):
            start, end = (datetime.fromisoformat(one) for one in timespan.split("/"))
            series = []
            for version in REQUESTS:
                for kind, counted in (("2xx", "requests"), ("5xx", "failures"), ("4xx", "refused")):
                    less = FAILED[version] + REFUSED[version] if counted == "requests" else 0
                    points = clock.points(version, counted, start, end)
                    series.append({
                        "metadatavalues": [
                            {"name": {"value": "deployment"}, "value": version},
                            {"name": {"value": "statusCodeClass"}, "value": kind},
                        ],
                        "data": [{"average": float(number - less)} for _, number in points],
                    })  # fmt: skip
            return {"value": [{"timeseries": series}]}

    counter = azure_monitor.Counter(Arm(), "/churn")
    return lambda: counter.read(REQUESTS)


CLOUDS = {"sagemaker": of_sagemaker, "vertex": of_vertex, "azure-ml": of_azure}


def watched(clock, read):
    """What is read every ten seconds of ten minutes."""
    seen = []
    for second in range(0, 600, 10):
        clock.now = BEGAN + timedelta(seconds=second)
        seen.append({
            name: (counts.requests, counts.failures - counts.client_errors, counts.client_errors)
            for name, counts in read().items()
        })  # fmt: skip
    return seen


@pytest.mark.parametrize("cloud", CLOUDS)
def test_what_is_read_together_is_of_the_same_minutes_of_both_versions(monkeypatch, cloud):
    monkeypatch.delenv(SETTLE)
    clock = Clock(monkeypatch)
    seen = watched(clock, CLOUDS[cloud](clock))
    for counts in seen:
        minutes = counts["v1"][0] // REQUESTS["v1"]
        assert counts == {
            name: (minutes * REQUESTS[name], minutes * FAILED[name], minutes * REFUSED[name]) for name in REQUESTS
        }
    assert seen[0]["v1"] == (0, 0, 0)
    assert seen[-1]["v1"][0] >= 5 * REQUESTS["v1"], "they are late, and nothing is lost"


@pytest.mark.parametrize("cloud", CLOUDS)
def test_without_waiting_they_are_torn(monkeypatch, cloud):
    """Else the test above would show nothing."""
    monkeypatch.setenv(SETTLE, "0")
    clock = Clock(monkeypatch)
    seen = watched(clock, CLOUDS[cloud](clock))
    assert any(counts["v1"][0] * FAILED["v2"] != counts["v2"][0] * FAILED["v1"] for counts in seen)
    assert any(counts["v1"][1] * REQUESTS["v1"] != counts["v1"][0] * FAILED["v1"] for counts in seen)


def test_how_late_counts_are_is_known_and_can_be_set(monkeypatch):
    kinds = SageMakerTarget, ComponentsTarget, VertexTarget, AzureMlTarget
    targets = [object.__new__(kind) for kind in kinds]
    assert all(isinstance(one, CountsLate) for one in targets)
    monkeypatch.delenv(SETTLE)
    assert [one.counts_delay for one in targets] == [210.0, 210.0, 300.0, 240.0]
    monkeypatch.setenv(SETTLE, "400")
    assert {one.counts_delay for one in targets} == {460.0}
    monkeypatch.setenv(SETTLE, "soon")
    with pytest.raises(BadInputError, match="HEADGATE_SETTLE_SECONDS is 'soon'") as raised:
        clouds.settle_seconds(240.0)
    assert raised.value.fix == "leave it unset (240), or give seconds"
