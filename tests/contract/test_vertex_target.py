"""What Vertex AI adds to the contract of every target: what it refuses, what a project may lack, and how it logs."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from support.faults import Fault
from support.stack import wait_for
from support.vertex import DATASET, LOCATION, PARENT, PROJECT

from deploy_targets.vertex import names
from deploy_targets.vertex.capture import body_of
from deploy_targets.vertex.settings import VertexSettings
from deploy_targets.vertex.target import VertexTarget
from headgate.errors import BadInputError, RevisionFailedError, TargetError, TargetUnavailableError
from headgate.records import Mirror, Payload, Traffic, Window

GOOD = Payload(body=b'{"dataframe_records":[{"x":1.0}]}')
BAD = Payload(body=b'{"dataframe_records":[{"x":-1.0}]}')


@pytest.fixture
def cloud(vertex_harness):
    yield vertex_harness
    double = vertex_harness._double
    double.faults.clear()
    double.capacity, double.denied = True, set()


def test_machines_that_cannot_be_had_are_said_and_nothing_is_left(cloud, double, live):
    endpoint, first, second = live
    double.capacity = False
    with pytest.raises(RevisionFailedError, match="temporarily unavailable") as caught:
        cloud.target.deploy(endpoint, second)
    assert "target.machine" in caught.value.fix
    state = cloud.target.observe(endpoint)
    assert (set(state.revisions), state.traffic) == ({first.name}, Traffic.all_to(first.name))
    assert not [trace for trace in cloud.traces(endpoint) if second.name in trace]


@pytest.mark.parametrize(("fault", "kind", "says"), [
    (Fault.EXPIRED, TargetUnavailableError, "does not know us any more"),
    (Fault.DENIED, TargetError, "does not allow upload: Permission"),
    (Fault.QUOTA, TargetError, "refuses upload .*quotas are exceeded"),
    (Fault.BROKEN, TargetUnavailableError, r"does not answer upload \(503\)"),
    (Fault.THROTTLED, TargetUnavailableError, r"does not answer upload \(429\)"),
])  # fmt: skip
def test_what_google_says_is_said_with_what_to_do(cloud, double, live, monkeypatch, fault, kind, says):
    endpoint, first, second = live
    # Google's client tries again by itself where that may help, after seconds.
    monkeypatch.setattr("deploy_targets.vertex.google._RETRIES", 0)
    double.faults.plan("models.upload", fault, times=9)
    with pytest.raises(kind, match=says):
        cloud.target.deploy(endpoint, second)
    assert cloud.target.observe(endpoint).traffic == Traffic.all_to(first.name)


def test_an_endpoint_that_is_not_ours_is_left_alone(cloud, double, live):
    endpoint, first, second = live
    resource = double.sites[f"{PARENT}/endpoints/{endpoint}"].resource
    ours = resource.pop("labels")
    for change in (
        lambda: cloud.target.deploy(endpoint, second), lambda: cloud.target.delete(endpoint),
        lambda: cloud.target.fence(endpoint, 3),
    ):  # fmt: skip
        with pytest.raises(TargetError, match="that Headgate did not make"):
            change()
    resource["labels"] = ours
    assert cloud.target.observe(endpoint).traffic == Traffic.all_to(first.name)


def test_a_model_of_the_same_name_that_is_another_is_not_adopted(cloud, double, live):
    endpoint, _, second = live
    name = names.full_name(endpoint, second.name)
    double.upload_model({"modelId": name, "model": {"containerSpec": {"imageUri": "another"}, "labels": {}}})
    with pytest.raises(TargetError, match=r"another model .*: another, not"):
        cloud.target.deploy(endpoint, second)
    double.models.pop(f"{PARENT}/models/{name}")


def test_a_change_by_hand_is_seen_and_one_that_comes_between_is_not_undone(cloud, double, live, monkeypatch):
    endpoint, first, second = live
    cloud.target.deploy(endpoint, second)
    by_hand = {names.deployed_id(first.name): 60, names.deployed_id(second.name): 40}
    name = f"{PARENT}/endpoints/{endpoint}"
    read = cloud.target._sites.described(endpoint)
    double.patch_endpoint(name, "trafficSplit", {"trafficSplit": by_hand})
    assert cloud.target.observe(endpoint).traffic == Traffic.split(first.name, second.name, 4000)
    monkeypatch.setattr(cloud.target._sites, "described", lambda _site: read)
    with pytest.raises(TargetUnavailableError, match="does not do patch now"):
        cloud.target.route(endpoint, Traffic.all_to(second.name))
    monkeypatch.undo()
    assert cloud.target.observe(endpoint).traffic == Traffic.split(first.name, second.name, 4000)


def test_it_neither_mirrors_nor_splits_percents(cloud, live):
    endpoint, first, second = live
    cloud.target.deploy(endpoint, second)
    with pytest.raises(TargetError, match="does not copy requests"):
        cloud.target.route(endpoint, Traffic.all_to(first.name, Mirror(revision=second.name, share=100)))
    with pytest.raises(TargetError, match=r"whole percents, not 0\.5%"):
        cloud.target.route(endpoint, Traffic.split(first.name, second.name, 50))


def test_what_clients_asked_is_in_the_log_and_what_we_asked_is_not(cloud, live):
    endpoint, first, _ = live
    began = datetime.now(UTC)
    cloud.ask(endpoint, GOOD, 3)
    cloud.ask(endpoint, BAD)
    cloud.target.invoke(endpoint, GOOD, first.name)

    def logged():
        window = Window(start=began, end=datetime.now(UTC) + timedelta(seconds=1))
        rows = [row for batch in cloud.target.captured(endpoint, window) for row in batch.to_pylist()]
        return rows if len(rows) >= 4 else None

    rows = wait_for(logged, 10)
    assert sorted(row["status"] for row in rows) == [200] * 4, "the first version answers these"
    assert {(row["endpoint"], row["revision"], row["mirrored"], row["seconds"]) for row in rows} == {
        (endpoint, first.name, False, None)
    }
    assert {row["request"] for row in rows} == {GOOD.body, BAD.body}
    assert json.loads(next(row["response"] for row in rows if row["request"] == GOOD.body)) == {
        "predictions": [{"x": 2.0}]
    }
    assert len({row["request_id"] for row in rows}) == 4


@pytest.mark.parametrize(("payload", "body"), [
    ([], b""), (['{"inputs": [1]}'], b'{"inputs": [1]}'), (["[1.5,2]", "[3,4]"], b'{"instances":[[1.5,2],[3,4]]}'),
    (['{"x":1}', '{"x":2}'], b'{"instances":[{"x":1},{"x":2}]}'), (["7"], b'{"instances":[7]}'),
])  # fmt: skip
def test_a_payload_is_a_body_or_its_records(payload, body):
    assert body_of([{"v": text} for text in payload], "instances") == body


def test_machines_follow_the_load_where_the_file_says_so(cloud, double, models):
    endpoint = "vx-scaled"
    revision = cloud.revision(models("pyfunc", does="double"), 1, most_workers=4)
    cloud.target.deploy(endpoint, revision)
    resources = double.sites[f"{PARENT}/endpoints/{endpoint}"].resource["deployedModels"][0]["dedicatedResources"]
    assert (resources["minReplicaCount"], resources["maxReplicaCount"]) == (1, 4)
    assert resources["autoscalingMetricSpecs"][0]["target"] == 60
    assert cloud.target.endpoints().count(endpoint) == 1
    cloud.target.delete(endpoint)
    assert cloud.traces(endpoint) == []


def test_names_that_vertex_does_not_take_are_refused_before_anything_is_made(cloud, double, models):
    revision = cloud.revision(models("pyfunc", does="double"), 1)
    for endpoint in ("9-lives", "e" * 60):
        with pytest.raises(BadInputError, match="takes no endpoint"):
            cloud.target.deploy(endpoint, revision)
        assert cloud.traces(endpoint) == []


def test_preflight_says_what_is_missing_and_how_to_get_it(cloud, double):
    double.denied = {"aiplatform.endpoints.update"}
    target = VertexTarget(cloud._settings.model_copy(update={"captures": f"bq://{PROJECT}.nowhere.live"}))
    found = {one.subject: one for one in target.preflight()}
    assert "may not aiplatform.endpoints.update" in found["permissions"].problem
    assert "gcloud iam roles create" in found["permissions"].fix
    assert found["target.captures"].fix == f"bq mk -d {PROJECT}:nowhere"
    assert {one.severity for one in found.values()} == {"error"}
    assert "- aiplatform.endpoints.update\n" in target.permissions()
    double.faults.plan("endpoints.list", Fault.DENIED)
    assert next(one for one in target.preflight() if one.subject == "vertex").severity == "error"


def test_a_quota_for_one_version_alone_is_too_little_for_a_release(cloud, double, monkeypatch):
    monkeypatch.setitem(double.quotas, "custom_model_serving_cpus", 7)
    monkeypatch.setitem(double.quotas, "custom_model_serving_nvidia_l4_gpus", 3)
    (cpus,) = cloud.target.preflight()
    assert cpus.subject == "target.machine"
    assert "may have 7 of aiplatform.googleapis.com/custom_model_serving_cpus" in cpus.problem
    assert "needs 8" in cpus.problem
    settings = cloud._settings.model_copy(update={"machine": "g2-standard-8", "accelerator": "NVIDIA_L4"})
    (gpus,) = VertexTarget(settings).preflight()
    assert "may have 3 of aiplatform.googleapis.com/custom_model_serving_nvidia_l4_gpus" in gpus.problem
    # Some families have no limit, and of those that are not listed nothing is known.
    monkeypatch.setitem(double.quotas, "custom_model_serving_cpus", -1)
    assert cloud.target.preflight() == []
    assert VertexTarget(cloud._settings.model_copy(update={"machine": "c3-standard-88"})).preflight() == []


def test_without_credentials_it_says_so(cloud, monkeypatch, tmp_path):
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    assert "no Google Cloud credentials" in VertexTarget(cloud._settings).preflight()[0].problem


def test_images_go_to_the_projects_own_registry(cloud, double):
    made = cloud.target.repository("Wine Quality", "")
    assert made.name == f"{LOCATION}-docker.pkg.dev/{PROJECT}/headgate/wine-quality"
    assert made.user == "oauth2accesstoken"
    assert made.password
    assert double.repositories == {f"{PARENT}/repositories/headgate"}
    assert cloud.target.repository("wine", "127.0.0.1:5000/wine") == ("127.0.0.1:5000/wine", "", "")


def test_settings_are_checked():
    given = {"kind": "vertex", "captures": f"bq://{PROJECT}.{DATASET}.live"}
    assert VertexSettings.model_validate(given).location == "us-central1"
    for wrong in ({"captures": "gs://bucket"}, {"location": "Europe"}, {"dedicated": True, "private_to": ["p"]}):
        with pytest.raises(ValueError, match=r"captures|location|dedicated or private"):
            VertexSettings.model_validate({**given, **wrong})
