"""Azure ML where it asks to be left alone, where two change an endpoint at once, and where a proxy answers for it."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from support.faults import Fault
from support.pretended_clouds import ENDPOINT, ending_after

from deploy_targets.azure_ml import arm
from deploy_targets.azure_ml.target import AzureMlTarget
from deploy_targets.clouds import FENCE
from headgate.errors import LeaseLostError, TargetError, TargetUnavailableError
from headgate.records import Traffic

PAGES = (
    (b"<html>Sign in</html>", "text/html"), (b'"a text"', "application/json"), (b"[1]", "application/json"),
    (b"\xff\xfe\x00", "application/octet-stream"),
)  # fmt: skip


@pytest.fixture
def cloud(on_azure):
    return on_azure


@pytest.mark.parametrize("asked", ["600", "date"])
def test_what_azure_asks_to_wait_is_said_and_not_slept(cloud, asked):
    in_ten_minutes = format_datetime(datetime.now(UTC) + timedelta(minutes=10), usegmt=True)
    cloud.double.retry_after = in_ten_minutes if asked == "date" else asked
    cloud.target.deploy(ENDPOINT, cloud.second)
    cloud.double.faults.plan("onlineEndpoints.put", Fault.THROTTLED, times=9)
    began = time.monotonic()
    said = r"asks to be left alone for (600|59\d\.\d+|59\d) s, until \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"
    with pytest.raises(TargetUnavailableError, match=said):
        cloud.target.route(ENDPOINT, Traffic.all_to(cloud.second.name))
    assert time.monotonic() - began < 60
    assert cloud.double.faults.counted()["onlineEndpoints.put"] == 1


def test_a_short_wait_is_waited_within_the_call(cloud):
    cloud.double.retry_after = "1"
    cloud.target.deploy(ENDPOINT, cloud.second)
    cloud.double.faults.plan("onlineEndpoints.put", Fault.THROTTLED)
    cloud.target.route(ENDPOINT, Traffic.all_to(cloud.second.name))
    assert cloud.target.observe(ENDPOINT).traffic == Traffic.all_to(cloud.second.name)


@pytest.mark.parametrize(("headers", "seconds"), [
    ({}, None), ({"retry-after": "7"}, 7.0), ({"retry-after-ms": "1500"}, 1.5), ({"x-ms-retry-after-ms": "20"}, 0.02),
    ({"retry-after": "soon"}, None), ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
])  # fmt: skip
def test_what_a_header_asks_to_wait(headers, seconds):
    assert arm.retry_after(headers) == seconds


def test_who_wrote_over_a_later_lease_notices_and_puts_its_fence_back(cloud):
    """Ours stands still between reading and writing, and another takes over, changes the endpoint and is done."""
    cloud.target.deploy(ENDPOINT, cloud.second)
    cloud.target.route(ENDPOINT, Traffic.all_to(cloud.first.name), fence=2)
    later = AzureMlTarget(cloud.target._settings)
    cloud.double.faults.meanwhile(
        "onlineEndpoints.put", lambda: later.route(ENDPOINT, Traffic.all_to(cloud.second.name), fence=99)
    )
    with pytest.raises(LeaseLostError, match=r"a later lease of churn changed it .*\(fence 99, ours was 2\)"):
        cloud.target.route(ENDPOINT, Traffic.split(cloud.first.name, cloud.second.name, 1000), fence=2)
    assert cloud.site.resource["tags"][FENCE] == "99"
    for stale in (
        lambda: cloud.target.route(ENDPOINT, Traffic.all_to(cloud.first.name), fence=2),
        lambda: cloud.target.fence(ENDPOINT, 98), lambda: cloud.target.delete(ENDPOINT, fence=3),
        lambda: cloud.target.retire(ENDPOINT, cloud.second.name, fence=3),
    ):  # fmt: skip
        with pytest.raises(LeaseLostError):
            stale()
    later.route(ENDPOINT, Traffic.all_to(cloud.second.name), fence=99)
    assert cloud.target.observe(ENDPOINT).traffic == Traffic.all_to(cloud.second.name)


def test_who_is_written_over_by_an_earlier_lease_writes_again(cloud):
    cloud.target.deploy(ENDPOINT, cloud.second)
    cloud.target.route(ENDPOINT, Traffic.all_to(cloud.first.name), fence=2)
    before = json.loads(json.dumps(cloud.site.resource))
    cloud.target.route(ENDPOINT, Traffic.all_to(cloud.second.name), fence=99)
    cloud.site.resource.update(before)
    cloud.target.route(ENDPOINT, Traffic.all_to(cloud.second.name), fence=99)
    assert cloud.site.resource["tags"][FENCE] == "99"
    assert cloud.target.observe(ENDPOINT).traffic == Traffic.all_to(cloud.second.name)


def test_a_fence_goes_with_its_endpoint_and_none_is_made_for_one_that_is_not_there(cloud):
    cloud.target.fence(ENDPOINT, 3)
    assert cloud.double.containers
    cloud.target.delete(ENDPOINT, fence=4)
    for nothing in (
        lambda: cloud.target.fence(ENDPOINT, 5), lambda: cloud.target.delete(ENDPOINT, fence=5),
        lambda: cloud.target.retire(ENDPOINT, cloud.first.name, fence=5),
    ):  # fmt: skip
        nothing()
    assert not cloud.double.containers


def test_a_fence_that_is_no_number_is_named(cloud):
    cloud.site.resource["tags"][FENCE] = "latest"
    with pytest.raises(TargetError, match="'latest' as the fence of churn"):
        cloud.target.fence(ENDPOINT, 3)


@pytest.mark.parametrize("seconds", [1600, 2600])
def test_who_adopts_a_deployment_waits_as_long_as_who_began_it(cloud, seconds):
    _begin(cloud)
    with ending_after(seconds, cloud.double.may_end.set):
        cloud.target.deploy(ENDPOINT, cloud.second)
    assert cloud.target.observe(ENDPOINT).revisions[cloud.second.name].ready


def test_a_deployment_that_goes_on_for_too_long_is_named(cloud):
    _begin(cloud)
    said = f"the deployment of {cloud.second.name} on churn, which was begun before, goes on for longer than 7200 s"
    with ending_after(1e6, cloud.double.may_end.set), pytest.raises(TargetUnavailableError, match=said):
        cloud.target.retire(ENDPOINT, cloud.second.name)


def _begin(cloud) -> None:
    """A process begins to deploy, and dies."""
    environment = cloud.target._make_environment(ENDPOINT, cloud.second)
    body = cloud.target._deployment(ENDPOINT, environment, cloud.second)
    cloud.double.may_end.clear()
    cloud.double.put_deployment(ENDPOINT, cloud.second.name, body)


@pytest.mark.parametrize(("call", "method"), [
    (lambda cloud: cloud.target.observe(ENDPOINT), "onlineEndpoints.get"),
    (lambda cloud: cloud.target.endpoints(), "onlineEndpoints.get"),
    (lambda cloud: cloud.target.counts(ENDPOINT), "metrics.get"),
    (lambda cloud: cloud.target.repository("wine", ""), "registries.get"),
    (lambda cloud: cloud.target._arm.location, "workspaces.get"),
])  # fmt: skip
def test_what_a_proxy_answers_in_azures_place_is_said(cloud, call, method):
    for page in PAGES:
        cloud.double.faults.page = page
        cloud.double.faults.plan(method, Fault.PAGE)
        cloud.target._arm._location = ""
        with pytest.raises(TargetUnavailableError, match="in the form that its reference gives") as caught:
            call(cloud)
        assert "proxy" in caught.value.fix


@pytest.mark.parametrize(("page", "method", "call", "says"), [
    ({"value": "none"}, "onlineEndpoints.get", lambda cloud: cloud.target.endpoints(), "value = 'none'"),
    ({"properties": {"traffic": {"v1": "many"}}}, "onlineEndpoints.get", lambda cloud: cloud.target.observe(ENDPOINT),
     "many"),
    ({"properties": {"traffic": {"v1": 40}}}, "onlineEndpoints.get", lambda cloud: cloud.target.observe(ENDPOINT),
     "40"),
    ({}, "workspaces.get", lambda cloud: cloud.target._arm.location, "without 'location', with nothing"),
    ({"value": [{"timeseries": [{"data": [{"average": "much"}]}]}]}, "metrics.get",
     lambda cloud: cloud.target.counts(ENDPOINT), "much"),
    ({"value": [{"timeseries": [{"metadatavalues": [{"value": "v1"}]}]}]}, "metrics.get",
     lambda cloud: cloud.target.counts(ENDPOINT), "without 'name'"),
    ({"value": [{"errorCode": "BackendUnavailable"}]}, "metrics.get", lambda cloud: cloud.target.counts(ENDPOINT),
     "BackendUnavailable"),
])  # fmt: skip
def test_an_answer_of_another_shape_is_said(cloud, page, method, call, says):
    cloud.target._arm._location = ""
    cloud.double.faults.page = (json.dumps(page).encode(), "application/json")
    cloud.double.faults.plan(method, Fault.PAGE)
    with pytest.raises(TargetUnavailableError, match=says):
        call(cloud)


def test_a_call_under_no_provider_says_no_version_of_one_as_it_may_be_where_an_operation_is_watched(cloud):
    with pytest.raises(TargetError, match=r"refuses .*MissingApiVersionParameter"):
        cloud.target._arm.call("GET", "/operations/7")
