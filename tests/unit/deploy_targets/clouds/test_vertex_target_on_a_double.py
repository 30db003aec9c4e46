"""Vertex AI where it does what its reference leaves open, and where something else answers in its place."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from http import HTTPStatus

import pytest
from support.faults import Fault
from support.pretended_clouds import ENDPOINT, ending_after
from support.vertex import LOCATION, PARENT

from deploy_targets import open_target, unsupported_problems
from deploy_targets.clouds import FENCE
from deploy_targets.vertex import names
from deploy_targets.vertex.target import VertexTarget
from headgate.errors import TargetError, TargetUnavailableError
from headgate.records import Payload, Traffic, Window
from headgate.release_file import parse_release

GOOD = Payload(body=b'{"instances": [1]}')
PATH = f"{PARENT}/endpoints/{ENDPOINT}"


@pytest.fixture
def cloud(on_vertex):
    return on_vertex


def test_a_request_to_a_model_is_sent_once_where_the_connection_closes_without_an_answer(cloud):
    cloud.double.faults.plan("rawPredict", Fault.CLOSED)
    with pytest.raises(TargetUnavailableError, match="does not answer rawPredict"):
        cloud.target.invoke(ENDPOINT, GOOD)
    assert cloud.double.faults.counted()["rawPredict"] == 1
    assert [machine.asked for machine in cloud.double.machines.started if machine.asked] == [[GOOD.body]]


def test_a_request_to_a_model_is_sent_once_where_it_is_refused_and_the_next_is_signed_anew(cloud):
    before = cloud.target._google._credentials.token
    cloud.double.faults.plan("rawPredict", Fault.EXPIRED)
    assert cloud.target.invoke(ENDPOINT, GOOD).status == HTTPStatus.UNAUTHORIZED
    assert cloud.double.faults.counted()["rawPredict"] == 1
    assert cloud.target.invoke(ENDPOINT, GOOD).status == HTTPStatus.OK
    assert cloud.target._google._credentials.token != before


def test_a_split_shows_where_vertex_lists_those_that_have_none_too(cloud):
    cloud.double.lists_zeros = True
    cloud.target.deploy(ENDPOINT, cloud.second)
    for wanted in (Traffic.split(cloud.first.name, cloud.second.name, 1000), Traffic.all_to(cloud.second.name)):
        cloud.target.route(ENDPOINT, wanted)
        assert cloud.target.observe(ENDPOINT).traffic == wanted
    patched = cloud.double.faults.counted()["endpoints.patch"]
    cloud.target.route(ENDPOINT, Traffic.all_to(cloud.second.name))
    assert cloud.double.faults.counted()["endpoints.patch"] == patched, "it is so already"
    cloud.target.delete(ENDPOINT)
    assert not cloud.double.sites


def test_a_strangers_model_of_a_revisions_name_does_not_take_its_place(cloud):
    ours, theirs = names.deployed_id(cloud.first.name), "1234567890"
    cloud.double.deploy_by_hand(PATH, cloud.first.name, theirs)
    cloud.double.patch_endpoint(PATH, "trafficSplit", {"trafficSplit": {ours: 70, theirs: 30}})
    state = cloud.target.observe(ENDPOINT)
    assert state.traffic == Traffic(weights={cloud.first.name: 7000, theirs: 3000})
    assert {*state.revisions} == {cloud.first.name, theirs}
    cloud.target.route(ENDPOINT, Traffic.all_to(cloud.first.name))
    assert cloud.site.resource["trafficSplit"] == {ours: 100}


def test_an_endpoint_goes_with_a_strangers_model_that_is_on_it(cloud):
    cloud.double.deploy_by_hand(PATH, cloud.first.name, "1234567890")
    cloud.target.delete(ENDPOINT)
    assert not cloud.double.sites


@pytest.mark.parametrize("seconds", [1600, 2600])
def test_who_adopts_a_deployment_waits_as_long_as_who_began_it(cloud, seconds):
    _begin(cloud)
    with ending_after(seconds, cloud.double.may_end.set):
        cloud.target.deploy(ENDPOINT, cloud.second)
    assert cloud.target.observe(ENDPOINT).revisions[cloud.second.name].ready


def test_a_deployment_that_goes_on_for_too_long_is_named_by_what_it_does(cloud):
    _begin(cloud)
    said = f"DeployModel on {ENDPOINT}, which was begun before, goes on for longer than 7200 s"
    with ending_after(1e6, cloud.double.may_end.set), pytest.raises(TargetUnavailableError, match=said):
        cloud.target.retire(ENDPOINT, cloud.second.name)


def _begin(cloud) -> None:
    """A process begins to deploy, and dies."""
    cloud.target._make_model(ENDPOINT, cloud.second)
    cloud.double.may_end.clear()
    model = f"{PARENT}/models/{names.full_name(ENDPOINT, cloud.second.name)}"
    cloud.target._sites.deploy(ENDPOINT, model, cloud.second, None)


def _series(code: str, value: dict) -> dict:
    labels = {"response_code": code, "deployed_model_id": "1"}
    return {"metric": {"labels": labels}, "points": [{"value": value}]}


@pytest.mark.parametrize("series", [
    _series("unknown", {"int64Value": "1"}), _series("", {"int64Value": "1"}), _series("200", {"doubleValue": 1.5}),
    {"metric": {"labels": {"response_code": "200"}}}, {"points": []},
])  # fmt: skip
def test_a_series_that_cannot_be_read_is_named_and_nothing_is_counted_without_it(cloud, series):
    cloud.target.invoke(ENDPOINT, GOOD)
    cloud.double.series = [series]
    with pytest.raises(TargetUnavailableError, match=r"response_count|timeSeries") as caught:
        cloud.target.counts(ENDPOINT)
    assert "proxy" in caught.value.fix
    cloud.double.series = [_series("500", {"int64Value": "3"})]
    assert cloud.target.counts(ENDPOINT)[cloud.first.name].failures == 0


PAGES = (
    (b"<html>Sign in</html>", "text/html"), (b'"a text"', "application/json"), (b"[1]", "application/json"),
    (b"\xff\xfe\x00", "application/octet-stream"),
)  # fmt: skip


@pytest.mark.parametrize(("call", "method"), [
    (lambda cloud: cloud.target.observe(ENDPOINT), "endpoints.get"),
    (lambda cloud: cloud.target.endpoints(), "endpoints.list"),
    (lambda cloud: cloud.target.counts(ENDPOINT), "timeSeries.list"),
    (lambda cloud: cloud.target.route(ENDPOINT, Traffic.all_to(cloud.second.name)), "endpoints.patch"),
    (lambda cloud: list(cloud.target.captured(ENDPOINT, _last_minute())), "jobs.query"),
])  # fmt: skip
def test_what_a_proxy_answers_in_googles_place_is_said(cloud, call, method):
    cloud.target.deploy(ENDPOINT, cloud.second)
    for page in PAGES:
        cloud.double.faults.page = page
        cloud.double.faults.plan(method, Fault.PAGE)
        with pytest.raises(TargetUnavailableError, match="in the form that its reference gives") as caught:
            call(cloud)
        assert "proxy" in caught.value.fix


@pytest.mark.parametrize(("page", "method", "says"), [
    (b'{"endpoints": "none"}', "endpoints.list", "endpoints = 'none'"),
    (b'{"models": [1]}', "models.list", r"models = \[1\]"),
    (b'{"endpoints": [{"labels": {}}]}', "endpoints.list", "without 'headgate-endpoint', with nothing"),
])  # fmt: skip
def test_a_list_of_something_else_is_said(cloud, page, method, says):
    cloud.double.faults.page = (page, "application/json")
    cloud.double.faults.plan(method, Fault.PAGE)
    with pytest.raises(TargetUnavailableError, match=says):
        cloud.target.endpoints()


def test_counts_that_google_gives_in_part_are_none(cloud):
    body = b'{"timeSeries": [], "executionErrors": [{"code": 4, "message": "deadline"}]}'
    cloud.double.faults.page = (body, "application/json")
    cloud.double.faults.plan("timeSeries.list", Fault.PAGE)
    with pytest.raises(TargetUnavailableError, match=r"in part: .*deadline"):
        cloud.target.counts(ENDPOINT)


def test_a_split_of_anything_else_than_percents_is_said(cloud):
    for split in ({names.deployed_id(cloud.first.name): "many"}, {names.deployed_id(cloud.first.name): 40}):
        cloud.site.resource["trafficSplit"] = split
        with pytest.raises(TargetUnavailableError, match="trafficSplit"):
            cloud.target.observe(ENDPOINT)


def test_a_fence_that_is_no_number_is_named(cloud):
    cloud.site.resource["labels"][FENCE] = "latest"
    with pytest.raises(TargetError, match="'latest' as the fence of churn") as caught:
        cloud.target.fence(ENDPOINT, 3)
    assert "remove that label" in caught.value.fix


def test_two_threads_ask_models_at_the_same_time(cloud):
    answers = []
    asked = [threading.Thread(target=lambda: answers.append(cloud.target.invoke(ENDPOINT, GOOD))) for _ in range(8)]
    for thread in asked:
        thread.start()
    for thread in asked:
        thread.join()
    assert [answer.status for answer in answers] == [HTTPStatus.OK] * 8


def test_a_dedicated_endpoint_is_asked_at_its_own_name_and_that_of_a_version_at_that_versions(cloud, monkeypatch):
    target, asked = VertexTarget(cloud.target._settings.model_copy(update={"dedicated": True})), []
    target.deploy("own", cloud.first)
    monkeypatch.setattr(target._google, "post", lambda url, *_: asked.append(url) or (200, b"{}"))
    for revision in (None, cloud.first.name):
        target.invoke("own", GOOD, revision)
    hosts = [url.removeprefix("https://").partition(f".{LOCATION}-1.prediction.vertexai.goog/v1/")[0] for url in asked]
    assert hosts == ["own", names.full_name("own", cloud.first.name)]
    assert target.observe("own").url == asked[0]


@pytest.mark.parametrize(("setting", "wrong"), [("private_to: [a-project]", True), ("dedicated: true", False)])
def test_an_endpoint_that_a_release_could_not_ask_is_refused_before_anything_is_made(setting, wrong):
    target = f"{{kind: vertex, captures: 'bq://a-project.captures.live', {setting}}}"
    spec = parse_release(f"model: wine\nartifact: runs:/1/model\ntarget: {target}")
    found = {one.subject: one for one in unsupported_problems(open_target(spec.target), spec)}
    assert ("target.private_to" in found) is wrong
    if wrong:
        assert "in that project's network" in found["target.private_to"].problem
        assert "target.dedicated: true" in found["target.private_to"].fix


def _last_minute() -> Window:
    now = datetime.now(UTC)
    return Window(start=now - timedelta(minutes=1), end=now)
