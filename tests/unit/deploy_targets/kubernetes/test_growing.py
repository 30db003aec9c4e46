"""How many pods a revision is given before it gets traffic, and when clients wait for them."""

from __future__ import annotations

import pytest

from deploy_targets.kubernetes import target as module
from deploy_targets.kubernetes.endpoint import Known
from deploy_targets.kubernetes.routing import Tally
from deploy_targets.kubernetes.settings import KubernetesSettings
from deploy_targets.kubernetes.target import KubernetesTarget, _routed, _without
from headgate.errors import TargetError
from headgate.records import Counts, ModelVersion, Traffic

VERSION = ModelVersion(name="wine", version=1, digest="sha256:a")
BOTH = {"v1-a": VERSION, "v2-b": VERSION}


def deployment(pods, own, most=0, ready=None):
    noted = {"headgate.io/pods": str(own), **({"headgate.io/most-pods": str(most)} if most else {})}
    return {"metadata": {"annotations": noted}, "spec": {"replicas": pods},
            "status": {"readyReplicas": pods if ready is None else ready}}  # fmt: skip


@pytest.fixture
def grow(monkeypatch):
    """Grows for some traffic; gives what was scaled to, and what was waited for."""
    target = KubernetesTarget(KubernetesSettings(kind="kubernetes", captures="s3://bucket/live"))
    scaled, waited = {}, {}
    monkeypatch.setattr(
        target, "_scale", lambda _, name, kind, spec: scaled.update({(name, kind): next(iter(spec.values()))})
    )
    monkeypatch.setattr(target, "_wait_until_reached", lambda *_: None)
    monkeypatch.setattr(
        module, "Pods",
        lambda _api, _endpoint, name: type("P", (), {"wait_until_ready": lambda _, n, __: waited.update({name: n})})(),
    )  # fmt: skip

    def carry_out(made, before, traffic):
        target._grow("wine", dict(traffic.weights), before, made)
        return {name: pods for (name, kind), pods in scaled.items() if kind == "deployments"}, waited, scaled

    return carry_out


def known(traffic, *served):
    return Known(traffic=traffic, revisions=BOTH, served=served)


def test_a_candidate_grows_with_its_share_of_what_is_live_also_between_two_steps(grow):
    made = {"v1-a": deployment(10, 2, 12), "v2-b": deployment(1, 2, 12)}
    scaled, waited, _ = grow(
        made, known(Traffic.split("v1-a", "v2-b", 500), "v1-a"), Traffic.split("v1-a", "v2-b", 5000)
    )
    assert scaled == waited == {"v2-b": 5}


def test_all_at_once_waits_for_as_many_pods_as_are_live(grow):
    made = {"v1-a": deployment(10, 1, 12), "v2-b": deployment(1, 1, 12)}
    scaled, waited, _ = grow(made, known(Traffic.all_to("v1-a"), "v1-a"), Traffic.all_to("v2-b"))
    assert scaled == waited == {"v2-b": 10}


def test_going_back_waits_for_nobody(grow):
    made = {"v1-a": deployment(2, 2, 12), "v2-b": deployment(10, 2, 12)}
    scaled, waited, every = grow(made, known(Traffic.all_to("v2-b"), "v1-a", "v2-b"), Traffic.all_to("v1-a"))
    assert scaled == {"v1-a": 10}
    assert waited == {}
    assert every["v2-b", "horizontalpodautoscalers"] == 10, "an autoscaler leaves what was live its pods"


def test_nobody_grows_above_what_its_autoscaler_may(grow):
    made = {"v1-a": deployment(15, 2, 20), "v2-b": deployment(8, 2, 10)}
    scaled, _, every = grow(made, known(Traffic.split("v1-a", "v2-b", 5000), "v1-a"), Traffic.all_to("v2-b"))
    assert scaled == {"v2-b": 10}
    assert every["v2-b", "horizontalpodautoscalers"] == 10


def test_who_had_all_traffic_is_known_until_it_is_removed():
    now = _routed(known(Traffic.all_to("v1-a"), "v1-a"), Traffic.all_to("v2-b"))
    assert now.served == ("v1-a", "v2-b")
    assert _without(now, "v1-a").served == ("v2-b",)


def test_what_has_traffic_by_now_is_not_removed_and_what_is_gone_gets_none():
    with pytest.raises(TargetError, match="still has traffic"):
        _without(known(Traffic.all_to("v1-a")), "v1-a")
    with pytest.raises(TargetError, match="not deployed any more"):
        _routed(Known(revisions={"v1-a": VERSION}), Traffic.split("v1-a", "v2-b", 100))


def test_a_place_that_was_missed_for_one_endpoint_is_not_for_another():
    tally, place = Tally(), ("gateway", "1")
    tally.miss("wine", place)
    tally.take("beer", place, {"v1-a": Counts(requests=5, failures=0)})
    tally.take("wine", place, {"v1-a": Counts(requests=100, failures=9)})
    tally.take("wine", place, {"v1-a": Counts(requests=101, failures=9)})
    assert tally.total("beer", ["v1-a"])["v1-a"].requests == 5
    assert tally.total("wine", ["v1-a"])["v1-a"] == Counts(requests=1, failures=0)
