"""What servers use, as each cloud says it: a minute at a time, late, with gaps, by the server with most."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from support.faults import Fault
from support.pretended_clouds import ENDPOINT
from support.vertex import METRICS

from deploy_targets import clouds
from deploy_targets.protocol import Measures
from deploy_targets.sagemaker import evidence
from deploy_targets.sagemaker.guarded import GuardedTarget
from deploy_targets.sagemaker.settings import NativeGuardrails
from deploy_targets.vertex import names
from headgate.errors import TargetError, TargetUnavailableError
from headgate.records import Traffic, Usage

NOW = datetime(2026, 3, 1, 12, 0, 40, tzinfo=UTC)
MIB = 2**20


@pytest.fixture(autouse=True)
def now(monkeypatch):
    """The span that is read is known: from 11:45 up to 12:00, whose minute goes on."""
    span = clouds.last_minutes
    monkeypatch.setattr(clouds, "datetime", _At)
    assert span() == (_minute(-15), _minute(0))


class _At(datetime):
    @classmethod
    def now(cls, _zone: object = None) -> datetime:
        return NOW


def _minute(number: int) -> datetime:
    return NOW.replace(second=0) + timedelta(minutes=number)


def part(percents: float, minute: int) -> Usage:
    return Usage(memory=None, memory_part=percents / 100, cpu=None, servers=(), at=_minute(minute))


def test_a_row_of_the_journal_of_an_older_release_is_read():
    old = Usage.model_validate_json('{"memory": 5, "cpu": 1.5, "servers": ["1@2"]}')
    assert (old.memory, old.memory_part, old.at) == (5, None, None)
    assert Usage.model_validate_json(part(3, -2).model_dump_json()) == part(3, -2)


def test_the_newest_minute_that_came_counts_and_the_server_with_most_in_it():
    readings = [(_minute(-5), 70.0), (_minute(-3), 34.5), (_minute(-3) + timedelta(seconds=59), 12.0)]
    assert clouds.newest(readings, are_percents=True) == part(34.5, -3)
    assert clouds.newest([], are_percents=True) is None


@pytest.mark.parametrize("number", [-1.0, float("nan"), float("inf")])
def test_a_number_that_no_memory_can_be_is_none(number):
    with pytest.raises(ValueError, match="no reading of memory"):
        clouds.newest([(_minute(-3), number)], are_percents=True)


# SageMaker


def _of_machines(cloud, name: str, *readings: tuple[int, float], variant: str = "") -> None:
    of = frozenset({"EndpointName": ENDPOINT, "VariantName": variant or name}.items())
    known = cloud.double.evidence.used["/aws/sagemaker/Endpoints", "MemoryUtilization", of]
    known[:] = [(_minute(minute), number) for minute, number in readings]


def _of_copies(cloud, component: str, *readings: tuple[int, float]) -> None:
    of = frozenset({"InferenceComponentName": component}.items())
    known = cloud.double.evidence.used["/aws/sagemaker/InferenceComponents", "MemoryUtilizationNormalized", of]
    known[:] = [(_minute(minute), number) for minute, number in readings]


def test_sagemaker_says_percents_of_its_machines(on_sagemaker):
    first, second = on_sagemaker.first.name, on_sagemaker.second.name
    on_sagemaker.target.deploy(ENDPOINT, on_sagemaker.second)
    assert isinstance(on_sagemaker.target, Measures)
    assert on_sagemaker.target.usage(ENDPOINT) == {}, "CloudWatch has nothing of them yet"
    _of_machines(on_sagemaker, first, (-20, 90.0), (-9, 30.0), (-3, 31.5), (0, 99.0))
    assert on_sagemaker.target.usage(ENDPOINT) == {first: part(31.5, -3)}
    _of_machines(on_sagemaker, second, (-2, 12.25))
    found = {first: part(31.5, -3), second: part(12.25, -2)}
    assert on_sagemaker.target.usage(ENDPOINT) == found == on_sagemaker.target.usage(ENDPOINT)
    on_sagemaker.double.evidence.page = 1
    _of_machines(on_sagemaker, first, (-4, 31.0), (-3, 31.5))
    assert on_sagemaker.target.usage(ENDPOINT) == found, "a page has one value of each"


@pytest.mark.parametrize("code", ["Forbidden", "InternalError"])
def test_what_cloudwatch_does_not_give_is_named(on_sagemaker, code):
    on_sagemaker.double.evidence.in_part = code
    with pytest.raises(TargetUnavailableError, match=rf"MemoryUtilization.*{code}"):
        on_sagemaker.target.usage(ENDPOINT)
    on_sagemaker.double.faults.plan("get_metric_data", Fault.DENIED)
    with pytest.raises(TargetError, match="AWS does not allow get_metric_data"):
        on_sagemaker.target.usage(ENDPOINT)


@pytest.mark.parametrize("result", [
    {"Id": "q0", "Values": [1.0]}, {"Id": "q7", "Timestamps": [], "Values": []},
    {"Id": "q0", "Timestamps": [_minute(-3)], "Values": []},
    {"Id": "q0", "Timestamps": [_minute(-3)], "Values": ["much"]},
    {"Id": "q0", "Timestamps": ["now"], "Values": [1.0]}, {"Id": "q0", "Timestamps": [_minute(-3)], "Values": [-1.0]},
])  # fmt: skip
def test_a_result_of_another_shape_is_named(on_sagemaker, monkeypatch, result):
    monkeypatch.setattr(on_sagemaker.target._aws, "call", lambda *_, **__: {"MetricDataResults": [result]})
    with pytest.raises(TargetUnavailableError, match="in the form that its reference gives"):
        evidence.memory(on_sagemaker.target._aws, evidence.OF_MACHINES, {"v1": {"EndpointName": ENDPOINT}})


def test_of_what_sagemakers_guardrails_shift_only_the_minutes_of_its_own_are_a_versions(on_sagemaker, monkeypatch):
    guardrails = NativeGuardrails.model_validate({"kind": "canary", "size": "50%", "wait": "1m"})
    target = GuardedTarget(on_sagemaker.target._settings, guardrails)
    name = on_sagemaker.first.name
    monkeypatch.setattr(target, "_variants", lambda _: {name: "live"})
    monkeypatch.setattr(evidence, "next_minute", lambda: _minute(-4))
    _of_machines(on_sagemaker, name, (-6, 80.0), (-5, 81.0), variant="live")
    assert target.usage(ENDPOINT) == {}, "these were the version's before"
    _of_machines(on_sagemaker, name, (-5, 81.0), (-4, 20.0), variant="live")
    assert target.usage(ENDPOINT) == {name: part(20.0, -4)}


def test_a_copy_of_an_inference_component_says_percents_of_what_is_reserved_for_it(on_components, monkeypatch):
    target, first, second = on_components.target, on_components.first.name, on_components.second.name
    target.deploy(ENDPOINT, on_components.second)
    _of_copies(on_components, f"{ENDPOINT}--{second}", (-3, 40.0), (-2, 41.0))
    _of_copies(on_components, f"{ENDPOINT}--{first}", (-2, 7.0))
    _of_copies(on_components, ENDPOINT, (-3, 50.0))
    assert target.usage(ENDPOINT) == {second: part(41.0, -2)}, "what clients get is read from its counts' begin"
    for span in target._spans[ENDPOINT]:
        span.counter.since = _minute(-3)
    assert target.usage(ENDPOINT) == {first: part(50.0, -3), second: part(41.0, -2)}
    # Clients get the second version, and what they got before was the first's.
    monkeypatch.setattr(evidence, "next_minute", lambda: _minute(-1))
    target.route(ENDPOINT, Traffic.all_to(second))
    assert target.usage(ENDPOINT) == {first: part(7.0, -2)}
    _of_copies(on_components, ENDPOINT, (-3, 50.0), (-1, 20.0))
    assert target.usage(ENDPOINT) == {first: part(7.0, -2), second: part(20.0, -1)}


# Vertex AI


def _series(name: str, *points: tuple[int, int], replica: str = "r1") -> dict:
    """The newest point is the first, as Cloud Monitoring has them."""
    return {
        "metric": {
            "type": f"{METRICS}/memory/bytes_used",
            "labels": {"deployed_model_id": names.deployed_id(name), "replica_id": replica, "spot": "False"},
        },
        "metricKind": "GAUGE", "valueType": "INT64",
        "points": [
            {"interval": {"endTime": f"{_minute(minute):%Y-%m-%dT%H:%M:%S}.5Z"}, "value": {"int64Value": str(number)}}
            for minute, number in points
        ],
    }  # fmt: skip


def used(memory: int, minute: int) -> Usage:
    return Usage(memory=memory, cpu=None, servers=(), at=_minute(minute))


def test_vertex_says_bytes_of_each_replica(on_vertex):
    first, second = on_vertex.first.name, on_vertex.second.name
    on_vertex.target.deploy(ENDPOINT, on_vertex.second)
    assert isinstance(on_vertex.target, Measures)
    assert on_vertex.target.usage(ENDPOINT) == {}
    on_vertex.double.used = [
        _series(first, (0, 900 * MIB), (-6, 190 * MIB), (-7, 500 * MIB)), _series(first, (-6, 240 * MIB), replica="r2"),
        _series("another", (-6, 900 * MIB)),
    ]  # fmt: skip
    assert on_vertex.target.usage(ENDPOINT) == {first: used(240 * MIB, -6)}
    on_vertex.double.used.append(_series(second, (-8, 70 * MIB)))
    assert on_vertex.target.usage(ENDPOINT)[second] == used(70 * MIB, -8)
    on_vertex.double.used = [_series(first, (-16, 70 * MIB))]
    assert on_vertex.target.usage(ENDPOINT) == {}, "what is older says nothing of now"


@pytest.mark.parametrize("series", [
    {"points": []}, {"metric": {"labels": {"deployed_model_id": "1"}}, "points": [{"value": {"int64Value": "1"}}]},
    {**_series("v1"), "points": [{"interval": {"endTime": "soon"}, "value": {"int64Value": "1"}}]},
    {**_series("v1"), "points": [{"interval": {"endTime": "2026-03-01T11:58:00Z"}, "value": {"doubleValue": 0.5}}]},
])  # fmt: skip
def test_a_series_of_another_shape_is_named(on_vertex, series):
    on_vertex.double.used = [_series(on_vertex.first.name, (-6, MIB)), series]
    with pytest.raises(TargetUnavailableError, match=r"timeSeries|bytes_used"):
        on_vertex.target.usage(ENDPOINT)


# Azure ML


def _points(*readings: tuple[int, float | None]) -> list[dict]:
    """A minute that has not come, or is missing, has no number."""
    return [
        {"timeStamp": f"{_minute(minute):%Y-%m-%dT%H:%M:%SZ}", **({} if number is None else {"maximum": number})}
        for minute, number in readings
    ]


def test_azure_says_percents_of_its_machines(on_azure):
    first, second = on_azure.first.name, on_azure.second.name
    on_azure.target.deploy(ENDPOINT, on_azure.second)
    assert isinstance(on_azure.target, Measures)
    assert on_azure.target.usage(ENDPOINT) == {}
    on_azure.double.used[first] = _points((-5, 44.0), (-4, None), (-3, 45.5), (-2, None), (-1, None))
    on_azure.double.used[second] = _points((-16, 90.0), (-2, None), (-1, None), (0, 90.0))
    assert on_azure.target.usage(ENDPOINT) == {first: part(45.5, -3)}
    on_azure.double.used[second] = _points((-2, 12.0), (-1, None))
    assert on_azure.target.usage(ENDPOINT) == {first: part(45.5, -3), second: part(12.0, -2)}


@pytest.mark.parametrize(("page", "says"), [
    ({"value": [{"timeseries": [{"data": [{"timeStamp": "2026-03-01T11:58:00Z", "maximum": "much"}]}]}]}, "much"),
    ({"value": [{"timeseries": [{"data": [{"timeStamp": "soon", "maximum": 1.0}]}]}]}, "soon"),
    ({"value": [{"timeseries": [{"data": [{"timeStamp": "2026-03-01T11:58:00", "maximum": 1.0}]}]}]}, r"T11:58:00'"),
    ({"value": [{"timeseries": [{"data": "none"}]}]}, "none"),
    ({"value": [{"errorCode": "BackendUnavailable"}]}, "BackendUnavailable"),
])  # fmt: skip
def test_a_metric_of_another_shape_is_named(on_azure, page, says):
    on_azure.double.faults.page = (json.dumps(page).encode(), "application/json")
    on_azure.double.faults.plan("metrics.get", Fault.PAGE)
    with pytest.raises(TargetUnavailableError, match=says):
        on_azure.target.usage(ENDPOINT)


@pytest.mark.parametrize("cloud", ["on_vertex", "on_azure"])
def test_who_may_not_read_metrics_is_told_so(request, cloud):
    cloud = request.getfixturevalue(cloud)
    for method in ("timeSeries.list", "metrics.get"):
        cloud.double.faults.plan(method, Fault.DENIED)
    with pytest.raises(TargetError):
        cloud.target.usage(ENDPOINT)
