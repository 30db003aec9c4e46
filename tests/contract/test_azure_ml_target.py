"""What Azure ML adds to the contract of every target: what it refuses, what a workspace may lack, and how it logs."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from support import azure_ml as azure
from support.faults import Fault
from support.stack import wait_for

from deploy_targets.azure_ml import names
from deploy_targets.azure_ml.settings import AzureMlSettings
from deploy_targets.azure_ml.target import AzureMlTarget
from headgate.errors import BadInputError, RevisionFailedError, TargetError, TargetUnavailableError
from headgate.records import Mirror, Payload, Traffic, Window

GOOD = Payload(body=b'{"dataframe_records":[{"x":1.0}]}')


@pytest.fixture
def cloud(azure_ml_harness):
    yield azure_ml_harness
    double = azure_ml_harness._double
    double.faults.clear()
    double.capacity, double.cores, double.actions, double.registry = True, 100, ["*"], azure.REGISTRY


def test_machines_that_cannot_be_had_are_said_and_nothing_is_left(cloud, double, live):
    endpoint, first, second = live
    double.capacity = False
    with pytest.raises(RevisionFailedError, match="not enough capacity") as caught:
        cloud.target.deploy(endpoint, second)
    assert "target.machine" in caught.value.fix
    state = cloud.target.observe(endpoint)
    assert (set(state.revisions), state.traffic) == ({first.name}, Traffic.all_to(first.name))
    assert not [trace for trace in cloud.traces(endpoint) if second.name in trace]


def test_a_deployment_that_failed_while_nobody_looked_is_made_anew(cloud, double, live):
    endpoint, _, second = live
    cloud.target.deploy(endpoint, second)
    double.sites[endpoint].deployments[second.name]["properties"]["provisioningState"] = "Failed"
    assert cloud.target.observe(endpoint).revisions[second.name].detail == "is failed"
    cloud.target.deploy(endpoint, second)
    assert cloud.target.observe(endpoint).revisions[second.name].ready


@pytest.mark.parametrize(("fault", "kind", "says"), [
    (Fault.EXPIRED, TargetUnavailableError, "does not know us any more"),
    (Fault.DENIED, TargetError, r"does not allow deployments\.put: The client"),
    (Fault.QUOTA, TargetError, r"refuses deployments\.put \(OutOfQuota\): Not enough quota"),
    (Fault.BROKEN, TargetUnavailableError, r"does not answer deployments\.put \(503\)"),
    (Fault.THROTTLED, TargetUnavailableError, r"does not answer deployments\.put \(429\)"),
])  # fmt: skip
def test_what_azure_says_is_said_with_what_to_do(cloud, double, live, monkeypatch, fault, kind, says):
    endpoint, first, second = live
    # Azure's client tries again by itself where that may help, after seconds.
    monkeypatch.setattr("deploy_targets.azure_ml.arm._RETRIES", 0)
    target = cloud.again()
    double.faults.plan("deployments.put", fault, times=9)
    with pytest.raises(kind, match=says):
        target.deploy(endpoint, second)
    assert target.observe(endpoint).traffic == Traffic.all_to(first.name)


def test_an_endpoint_that_is_not_ours_is_left_alone(cloud, double, live):
    endpoint, first, second = live
    resource = double.sites[endpoint].resource
    ours = resource.pop("tags")
    for change in (
        lambda: cloud.target.deploy(endpoint, second), lambda: cloud.target.delete(endpoint),
        lambda: cloud.target.fence(endpoint, 3), lambda: cloud.target.retire(endpoint, second.name),
    ):  # fmt: skip
        with pytest.raises(TargetError, match="that Headgate did not make"):
            change()
    resource["tags"] = ours
    assert cloud.target.observe(endpoint).traffic == Traffic.all_to(first.name)


def test_an_image_of_the_same_name_that_is_another_is_not_adopted(cloud, double, live):
    endpoint, _, second = live
    double.put_environment(names.environment(endpoint), second.name, {"properties": {"image": "another"}})
    with pytest.raises(TargetError, match=r"another environment .*: another, not"):
        cloud.target.deploy(endpoint, second)


def test_a_change_by_hand_is_seen(cloud, double, live):
    endpoint, first, second = live
    cloud.target.deploy(endpoint, second)
    double.sites[endpoint].resource["properties"]["traffic"] = {first.name: 60, second.name: 40}
    assert cloud.target.observe(endpoint).traffic == Traffic.split(first.name, second.name, 4000)


def test_what_another_is_changing_is_waited_for(cloud, double, live):
    endpoint, _, second = live
    cloud.target.deploy(endpoint, second)
    double.put_endpoint(endpoint, double.get_endpoint(endpoint))
    assert double.get_endpoint(endpoint)["properties"]["provisioningState"] == "Updating"
    cloud.target.route(endpoint, Traffic.all_to(second.name))
    assert {reply.revision for reply in cloud.ask(endpoint, GOOD, 5)} == {second.name}


def test_it_copies_half_of_the_requests_at_most_and_splits_by_percents(cloud, live):
    endpoint, first, second = live
    cloud.target.deploy(endpoint, second)
    with pytest.raises(TargetError, match=r"whole percents up to 50, not 51%"):
        cloud.target.route(endpoint, Traffic.all_to(first.name, Mirror(revision=second.name, share=5100)))
    with pytest.raises(TargetError, match=r"whole percents, not 0\.5%"):
        cloud.target.route(endpoint, Traffic.split(first.name, second.name, 50))
    both = Traffic(weights={first.name: 9000, second.name: 1000}, mirror=Mirror(revision=second.name, share=1000))
    with pytest.raises(TargetError, match="which has live requests"):
        cloud.target.route(endpoint, both)
    assert cloud.target.observe(endpoint).traffic == Traffic.all_to(first.name)


def test_copies_are_told_from_requests_and_named_after_them(cloud, double, live):
    endpoint, first, second = live
    cloud.target.deploy(endpoint, second)
    began = datetime.now(UTC)
    cloud.target.route(endpoint, Traffic.all_to(first.name, Mirror(revision=second.name, share=5000)))
    asked = {reply.request_id for reply in cloud.ask(endpoint, GOOD, 40)}

    def rows(*, mirrored):
        window = Window(start=began, end=datetime.now(UTC) + timedelta(seconds=1))
        found = [row for batch in cloud.target.captured(endpoint, window) for row in batch.to_pylist()]
        return [row for row in found if row["mirrored"] is mirrored]

    assert len(wait_for(lambda: rows(mirrored=True), 10)) > 5
    cloud.target.route(endpoint, Traffic.all_to(first.name))
    # One that was under way: Azure takes a while to end them.
    (late,) = {reply.request_id for reply in cloud.ask(endpoint, GOOD)}
    kept = {name: {"dataCollectionMode": "Enabled", "samplingRate": 1.0} for name in ("request", "response")}
    for name in kept:
        double._collect(endpoint, second.name, name, late, datetime.now(UTC), GOOD.body, kept)
    wait_for(lambda: late in {row["request_id"] for row in rows(mirrored=True)}, 10)
    wait_for(lambda: late in {row["request_id"] for row in rows(mirrored=False)}, 10)
    asked.add(late)
    cloud.target.route(endpoint, Traffic.split(first.name, second.name, 5000))
    cloud.ask(endpoint, GOOD, 20)
    live_rows = wait_for(lambda: (found := rows(mirrored=False)) and len(found) >= 61 and found, 10)
    copies = rows(mirrored=True)
    assert {row["request_id"] for row in copies} < asked
    assert {(row["revision"], row["request"]) for row in copies} == {(second.name, copies[0]["request"])}
    assert {row["revision"] for row in live_rows} == {first.name, second.name}


def test_what_clients_asked_is_in_the_log(cloud, live):
    endpoint, first, _ = live
    began = datetime.now(UTC)
    asked = {reply.request_id for reply in cloud.ask(endpoint, GOOD, 3)}

    def logged():
        window = Window(start=began, end=datetime.now(UTC) + timedelta(seconds=1))
        rows = [row for batch in cloud.target.captured(endpoint, window) for row in batch.to_pylist()]
        return rows if len(rows) >= 3 else None

    rows = wait_for(logged, 10)
    assert {row["request_id"] for row in rows} == asked
    assert {(row["endpoint"], row["revision"], row["mirrored"], row["status"]) for row in rows} == {
        (endpoint, first.name, False, 200)
    }
    assert json.loads(rows[0]["request"]) == json.loads(GOOD.body)
    assert json.loads(rows[0]["response"]) == {"predictions": [{"x": 2.0}]}


def test_a_request_without_an_answer_is_a_failure_once_one_would_have_come(cloud, double, live):
    endpoint, first, _ = live
    now, kept = datetime.now(UTC), {"request": {"dataCollectionMode": "Enabled", "samplingRate": 1.0}}
    for name, ago in (("old", 6), ("new", 0)):
        double._collect(endpoint, first.name, "request", name, now - timedelta(minutes=ago), GOOD.body, kept)
    window = Window(start=now - timedelta(minutes=10), end=now + timedelta(seconds=1))
    rows = wait_for(lambda: [one for some in cloud.target.captured(endpoint, window) for one in some.to_pylist()], 10)
    assert [(row["request_id"], row["status"], row["response"]) for row in rows] == [("old", 500, b"")]


def test_a_line_that_the_collector_did_not_write_is_named(cloud, double, live):
    endpoint, first, _ = live
    now = datetime.now(UTC)
    blob = f"modelDataCollector/{endpoint}/{first.name}/request/{now:%Y/%m/%d/%H}/strange.jsonl"
    double._blobs[blob].append((0.0, b"what\n"))
    with pytest.raises(TargetError, match=r"strange\.jsonl has a line that the data collector did not write"):
        list(cloud.target.captured(endpoint, Window(start=now - timedelta(seconds=1), end=now + timedelta(seconds=1))))


def test_machines_follow_the_load_where_the_file_says_so(cloud, double, models):
    endpoint = "az-scaled"
    revision = cloud.revision(models("pyfunc", does="double"), 1, most_workers=4)
    cloud.target.deploy(endpoint, revision)
    (setting,) = [one for name, one in double.scaled.items() if name.startswith(f"headgate-{endpoint}")]
    (profile,) = setting["properties"]["profiles"]
    assert profile["capacity"] == {"minimum": "1", "maximum": "4", "default": "1"}
    assert [rule["metricTrigger"]["threshold"] for rule in profile["rules"]] == [60, 30]
    cloud.target.delete(endpoint)
    assert cloud.traces(endpoint) == []


def test_names_that_azure_does_not_take_are_refused_before_anything_is_made(cloud, models):
    revision = cloud.revision(models("pyfunc", does="double"), 1)
    for endpoint in ("9-lives", "e" * 33, "ab"):
        with pytest.raises(BadInputError, match="takes no endpoint"):
            cloud.target.deploy(endpoint, revision)
        assert cloud.traces(endpoint) == []


def test_preflight_says_what_is_missing_and_how_to_get_it(cloud, double):
    assert cloud.target.preflight() == []
    double.actions, double.cores, double.registry = ["Microsoft.MachineLearningServices/workspaces/*/read"], 2, None
    found = {one.subject: one for one in cloud.target.preflight()}
    assert "may not " in found["permissions"].problem
    assert "onlineEndpoints/write" in found["permissions"].problem
    assert "onlineEndpoints/read" not in found["permissions"].problem
    assert "az role definition create" in found["permissions"].fix
    assert "2 of 100 cores" in found["target.machine"].problem
    assert "az acr create" in found["image.repository"].fix
    assert {one.severity for one in found.values()} == {"error"}
    assert (
        "Microsoft.MachineLearningServices/workspaces/onlineEndpoints/write"
        in json.loads(cloud.target.permissions())["Actions"]
    )


@pytest.mark.parametrize(("changed", "subject", "says"), [
    ({"workspace": "another"}, "target.workspace", "no workspace another in ml"),
    ({"machine": "Standard_none"}, "target.machine", "no machines of size Standard_none"),
])  # fmt: skip
def test_what_the_file_names_and_azure_has_not_is_said(cloud, changed, subject, says):
    (found,) = AzureMlTarget(cloud._settings.model_copy(update=changed)).preflight()
    assert (found.subject, found.severity) == (subject, "error")
    assert says in found.problem


def test_without_credentials_it_says_so(cloud, monkeypatch):
    for name in ("IDENTITY_ENDPOINT", "IDENTITY_HEADER"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "AzureCliCredential")
    assert "does not know us" in AzureMlTarget(cloud._settings).preflight()[0].problem


def test_images_go_to_the_workspaces_own_registry(cloud, double):
    made = cloud.target.repository("Wine Quality", "")
    assert made.name == f"{double.url.removeprefix('https://')}/headgate/wine-quality"
    assert made.user == "00000000-0000-0000-0000-000000000000"
    assert made.password
    assert cloud.target.repository("wine", "127.0.0.1:5000/wine") == ("127.0.0.1:5000/wine", "", "")


def test_settings_are_checked():
    given = {"kind": "azure-ml", "subscription": azure.SUBSCRIPTION, "group": "ml", "workspace": "main"}
    assert AzureMlSettings.model_validate(given).machine == "Standard_DS3_v2"
    for wrong in ({"subscription": "mine"}, {"workspace": "a b"}, {"storage": "http://store"}):
        with pytest.raises(ValueError, match=r"subscription|workspace|storage"):
            AzureMlSettings.model_validate({**given, **wrong})
