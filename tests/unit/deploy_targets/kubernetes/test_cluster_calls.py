"""What an API server's answers mean, what a ConfigMap's compare-and-swap keeps apart, and what pods say."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.api_server import api_server, kubeconfig
from support.certificates import certificate

from deploy_targets.kubernetes.api import Api, ChangedError, NotAllowedError, operation
from deploy_targets.kubernetes.endpoint import Endpoint, Known
from deploy_targets.kubernetes.gateways import ConfigMap, Gateways
from deploy_targets.kubernetes.pods import Pods, has_ended, needed
from deploy_targets.kubernetes.servers import ready
from deploy_targets.kubernetes.settings import KubernetesSettings
from deploy_targets.kubernetes.target import KubernetesTarget
from headgate.counts import Counts
from headgate.errors import LeaseLostError, RevisionFailedError, TargetError, TargetUnavailableError
from headgate.records import Image, ModelVersion, Revision, Traffic

VERSION = ModelVersion(name="wine", version=1, digest="sha256:a")
IMAGE = Image(digest="sha256:a", lock_digest="", path=Path("/a"), interpreter=None, size=1)
NOT_KNOWN = {"kind": "Status", "apiVersion": "v1", "message": "it has run out"}
SETTINGS = KubernetesSettings(kind="kubernetes", captures="s3://bucket/live")
REVISION = Revision(name="v1-a", version=VERSION, image=IMAGE)


@pytest.fixture
def api(server):
    return Api("", "models")


def test_it_signs_in_as_the_kubeconfig_says(server, api):
    server.objects["/api/v1/namespaces/models/services/a"] = {"metadata": {"name": "a"}}
    assert api.find("services", "a") == {"metadata": {"name": "a"}}
    assert server.asked == [("GET", "/api/v1/namespaces/models/services/a", "Bearer secret")]


@pytest.mark.parametrize("asked", [
    lambda api: api.find("services", "a"), lambda api: api.post("p", 80, "/a", b'{"metadata": {"name": "a"}}', {}),
])  # fmt: skip
def test_who_is_not_known_any_more_signs_in_again(server, api, tmp_path, asked):
    api.find("services", "a")
    kubeconfig(tmp_path, server.port, token="renewed")  # noqa: S106 - of nobody
    server.refusals.append((401, NOT_KNOWN))
    asked(api)
    assert [said for _, _, said in server.asked] == ["Bearer secret", "Bearer secret", "Bearer renewed"]


def test_a_pod_that_knows_nobody_is_asked_once(server, api):
    server.refusals.append((401, {"detail": "no key was sent"}))
    assert api.post("p", 80, "/invocations", b"{}", {}).json() == {"detail": "no key was sent"}
    assert len(server.asked) == 1


def test_a_proxy_and_another_name_of_the_cluster_do_not_go_together(tmp_path, monkeypatch):
    both = {"proxy-url": "http://127.0.0.1:9", "tls-server-name": "models.example"}
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path, 9, "https", **both)))
    with pytest.raises(TargetError, match="has proxy-url and tls-server-name") as raised:
        Api("", "models").find("services", "a")
    assert type(raised.value) is TargetError, "to try again changes nothing"
    assert "into `server`" in raised.value.fix


def test_a_cluster_may_have_another_name_than_where_it_is_reached(tmp_path, monkeypatch):
    own = certificate(tmp_path, "models.example")
    with api_server(own) as running:

        def reached(**cluster):
            file = kubeconfig(tmp_path, running.port, "https", **{"certificate-authority": str(own)}, **cluster)
            monkeypatch.setenv("KUBECONFIG", str(file))
            return Api("", "models").find("services", "a")

        assert reached(**{"tls-server-name": "models.example"}) is None
        with pytest.raises(TargetUnavailableError, match=r"not valid for '127\.0\.0\.1'"):
            reached()


def test_what_is_not_there_is_none(api):
    assert api.find("services", "nothing") is None
    assert api.list("deployments", {"a": "b"}) == []


@pytest.mark.parametrize(("status", "error", "says"), [
    (401, TargetUnavailableError, "does not know us any more: because"),
    (403, NotAllowedError, "does not allow GET services: because"), (409, ChangedError, "came too late: because"),
    (422, TargetError, r"refuses GET services \(422\): because"),
    (429, TargetUnavailableError, "does not answer GET services"), (503, TargetUnavailableError, "does not answer"),
])  # fmt: skip
def test_a_refusal_says_what_it_means(server, api, status, error, says):
    # One who is not known is asked to sign in again, once.
    server.refusals += [(status, {"message": "because"})] * 2
    with pytest.raises(error, match=says) as raised:
        api.find("services", "a")
    assert type(raised.value) is error


def test_what_a_webhook_refuses_is_no_missing_right(server, api):
    why = 'admission webhook "inferenceservice.kserve-webhook-server.validator" denied the request: no such mode'
    server.refusals.append((403, {"message": why}))
    with pytest.raises(TargetError, match=r"refuses GET services: .* no such mode") as raised:
        api.find("services", "a")
    assert "target.kserve.mode" in raised.value.fix


def test_no_cluster_is_said(monkeypatch, tmp_path):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nothing"))
    with pytest.raises(TargetUnavailableError, match="no cluster is known"):
        Api("", "models").find("services", "a")


def test_a_server_that_is_away_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path, 9)))
    with pytest.raises(TargetUnavailableError, match="does not answer GET services"):
        Api("", "models").find("services", "a")


@pytest.mark.parametrize(("served", "used"), [(["v2", "v2beta2"], "v2"), (["v1", "v2beta2"], "v2beta2")])
def test_the_newest_version_that_the_cluster_has_is_used(server, api, served, used):
    server.objects["/apis/autoscaling"] = {"versions": [{"version": one} for one in served]}
    assert api.version_of("horizontalpodautoscalers") == f"/apis/autoscaling/{used}"


def test_a_cluster_that_is_too_old_is_said(server, api):
    server.objects["/apis/autoscaling"] = {"versions": [{"version": "v1"}]}
    with pytest.raises(TargetError, match="serves autoscaling as v1, and not as v2 or v2beta2"):
        api.version_of("horizontalpodautoscalers")


@pytest.mark.parametrize(("verb", "path", "name"), [
    ("PUT", "/api/v1/namespaces/n/configmaps/headgate.wine", "PUT configmaps"),
    ("GET", "/api/v1/namespaces/n/pods/p/log", "GET log"), ("GET", "/version", "GET version"),
    ("GET", "/apis/apps/v1/namespaces/n/deployments", "GET deployments"),
])  # fmt: skip
def test_calls_have_names(verb, path, name):
    assert operation(verb, path) == name


def test_a_change_is_made_on_what_somebody_else_has_made_of_it(server, api):
    ours, theirs = Endpoint(api, "wine", ConfigMap(), {}), Endpoint(api, "wine", ConfigMap(), {})
    ours.change(3, lambda now: now.model_copy(update={"revisions": {"v1-a": VERSION}}))
    server.before_write.append(lambda: theirs.change(None, lambda now: with_revision(now, "v2-b")))
    ours.change(3, lambda now: now.model_copy(update={"traffic": Traffic.all_to("v1-a")}))
    assert ours.known() == Known(
        fence=3, traffic=Traffic.all_to("v1-a"), revisions={"v1-a": VERSION, "v2-b": VERSION}
    )  # fmt: skip


def with_revision(now, name):
    return now.model_copy(update={"revisions": {**now.revisions, name: VERSION}})


def test_who_is_late_changes_nothing_also_between_its_reading_and_its_writing(server, api):
    ours, theirs = Endpoint(api, "wine", ConfigMap(), {}), Endpoint(api, "wine", ConfigMap(), {})
    ours.change(3, lambda now: with_revision(now, "v1-a"))
    server.before_write.append(lambda: theirs.change(4, lambda now: now))
    with pytest.raises(LeaseLostError, match=r"later lease of wine .*fence 4, ours was 3"):
        ours.change(3, lambda now: now.model_copy(update={"traffic": Traffic.all_to("v1-a")}))
    assert ours.known().traffic is None
    with pytest.raises(LeaseLostError):
        ours.remove(3)
    ours.remove(4)
    assert ours.known() == Known()


def test_who_is_late_retires_nothing_and_gives_nobody_pods(server, api, monkeypatch):
    live = with_revision(with_revision(Known(traffic=Traffic.all_to("v1-a")), "v1-a"), "v2-b")
    Endpoint(api, "wine", ConfigMap(), {}).change(4, lambda now: live.model_copy(update={"fence": now.fence}))
    noted = {"headgate.io/pods": "4"}
    server.objects["/apis/apps/v1/namespaces/models/deployments"] = {"items": [
        {"metadata": {"labels": {"headgate.io/revision": "v1-a"}, "annotations": noted}, "spec": {"replicas": 2}},
    ]}  # fmt: skip
    target = KubernetesTarget(SETTINGS.model_copy(update={"namespace": "models"}))
    monkeypatch.setattr(target._routing, "active", lambda *_: 0)
    server.asked.clear()
    with pytest.raises(LeaseLostError):
        target.retire("wine", "v2-b", fence=3)
    assert {verb for verb, *_ in server.asked} == {"GET"}


def test_what_is_so_already_is_not_written(server, api):
    there = Endpoint(api, "wine", ConfigMap(), {})
    there.change(3, lambda now: with_revision(now, "v1-a"))
    server.asked.clear()
    there.change(3, lambda now: with_revision(now, "v1-a"))
    assert [verb for verb, *_ in server.asked] == ["GET"]


def pod(state=None, last=None, conditions=(), name="server", **metadata):
    told = {"name": name, "state": state or {"running": {}}, "lastState": last or {}}
    return {"metadata": {"name": "p", **metadata}, "status": {"containerStatuses": [told], "conditions": conditions}}


class Told:
    """A namespace with what a test says."""

    def __init__(self, *pods, deployment=None):
        self.pods, self.deployment = list(pods), deployment

    def list(self, *_):
        return self.pods

    def find(self, *_):
        return self.deployment

    def log(self, *_, **__):
        return "the end of its log"


ENDED = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
UNSCHEDULABLE = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes: no GPU"}


@pytest.mark.parametrize(("told", "says", "fix"), [
    (pod({"waiting": {"reason": "ImagePullBackOff", "message": "again"}}), "ImagePullBackOff: again", "pull_secrets"),
    (pod(ENDED), "exit code 137, OOMKilled", "runtime.memory"),
    (pod({"waiting": {"reason": "CrashLoopBackOff"}}, ENDED), "OOMKilled", "runtime.memory"),
    (pod({"terminated": {"exitCode": 3, "reason": "Error"}}), "exit code 3", "mend the model"),
])  # fmt: skip
def test_a_pod_that_cannot_start_says_why_at_once(told, says, fix):
    with pytest.raises(RevisionFailedError, match=says) as raised:
        Pods(Told(told), "wine", "v1-a").wait(1, REVISION)
    assert "the end of its log" in raised.value.message
    assert fix in raised.value.fix


@pytest.mark.usefixtures("waitless")
def test_a_pod_without_a_node_is_waited_for_and_then_told_of():
    said = r"did not start in 900 s: Unschedulable: 0/3 nodes: no GPU"
    with pytest.raises(RevisionFailedError, match=said) as raised:
        Pods(Told(pod({"waiting": {}}, conditions=[UNSCHEDULABLE])), "wine", "v1-a").wait(1, REVISION)
    assert "make room" in raised.value.fix


def test_one_that_only_ships_the_log_does_not_fail_a_revision():
    ended, deployment = pod(ENDED, name="log"), {"metadata": {}, "status": {"readyReplicas": 1, "updatedReplicas": 1}}
    Pods(Told(ended, deployment=deployment), "wine", "v1-a").wait(1, REVISION)


def test_a_deployment_that_was_not_looked_at_since_it_changed_is_not_ready():
    told = {
        "metadata": {"generation": 2},
        "status": {"observedGeneration": 1, "readyReplicas": 3, "updatedReplicas": 3},
    }
    assert ready(told) == 0
    told["status"]["observedGeneration"] = 2
    assert ready(told) == 3


@pytest.mark.parametrize(("told", "ended"), [
    (pod(ENDED, deletionTimestamp="now"), True), (pod(ENDED), False), (pod(deletionTimestamp="now"), False),
])  # fmt: skip
def test_a_pod_has_ended_once_it_was_told_to_and_its_containers_have(told, ended):
    assert has_ended(told) is ended


def test_one_whose_containers_were_never_made_has_not_ended():
    assert not has_ended({"metadata": {"deletionTimestamp": "now"}, "status": {}})


@pytest.mark.parametrize(("share", "pods", "wanted"), [(500, 10, 1), (2500, 10, 3), (10_000, 10, 10), (1, 1, 1)])
def test_a_share_of_the_traffic_has_a_share_of_the_pods(share, pods, wanted):
    assert needed(share, pods) == wanted


class Envoys:
    """Pods of a gateway, and what each has counted."""

    def __init__(self):
        self.counted = {}

    def list(self, *_):
        return [
            {
                "metadata": {"name": name},
                "status": {
                    "phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
                    "containerStatuses": [{"name": "envoy", "containerID": start}],
                },
            }
            for name, start in self.counted
        ]  # fmt: skip


def test_what_an_envoy_had_counted_stays_counted(monkeypatch):
    envoys = Envoys()
    gateways = Gateways(envoys, SETTINGS)
    monkeypatch.setattr(
        "deploy_targets.envoy_admin.EnvoyAdmin.counts",
        lambda admin, *_: {"v1-a": Counts(requests=envoys.counted[admin._of], failures=0)},
    )
    made = Gateways._pod

    def watched(self, found):
        pod = made(self, found)
        pod.envoy._of = (pod.name, pod.start)
        return pod

    monkeypatch.setattr(Gateways, "_pod", watched)

    def total():
        return gateways.counts("wine", ["v1-a"])["v1-a"].requests

    envoys.counted = {("a", "1"): 10, ("b", "1"): 5}
    assert total() == 15
    envoys.counted = {("a", "2"): 1, ("b", "1"): 7}
    assert total() == 18
    envoys.counted = {("b", "1"): 8}
    assert total() == 19
