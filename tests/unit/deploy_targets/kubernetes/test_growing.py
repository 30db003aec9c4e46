"""How many pods a revision is given before it gets traffic, and when clients wait for them."""

from __future__ import annotations

import pytest

from deploy_targets.kubernetes import growth
from deploy_targets.kubernetes.endpoint import Known
from deploy_targets.kubernetes.growth import Growth
from deploy_targets.kubernetes.pods import needed
from deploy_targets.kubernetes.routing import Tally
from deploy_targets.kubernetes.scaling import HPA, KEDA
from deploy_targets.kubernetes.servers import Deployment
from deploy_targets.kubernetes.settings import KubernetesSettings
from deploy_targets.kubernetes.target import _routed, _without
from headgate.counts import Counts
from headgate.errors import TargetError
from headgate.records import Mirror, ModelVersion, Traffic

VERSION = ModelVersion(name="wine", version=1, digest="sha256:a")
BOTH = {"v1-a": VERSION, "v2-b": VERSION}


def deployment(pods, own, most=0, ready=None, keda=False):
    noted = {"headgate.io/pods": str(own), **({"headgate.io/most-pods": str(most)} if most else {}),
             **({"headgate.io/scaler": "scaledobjects"} if keda else {})}  # fmt: skip
    return {"metadata": {"annotations": noted}, "spec": {"replicas": pods},
            "status": {"readyReplicas": pods if ready is None else ready}}  # fmt: skip


def servers(made):
    return {name: Deployment(f"wine--{name}", found) for name, found in made.items()}


class Cluster:
    """What was asked of one, in order: of revisions by name, how many pods each is to have, or is left."""

    def __init__(self):
        self.asked, self.waited, self.made, self.refuses = [], {}, {}, ""

    def merge(self, kind, name, change):
        if kind == self.refuses:
            raise TargetError("the cluster does not allow it")
        revision, pods = name.partition("--")[2], next(iter(change["spec"].values()))
        self.asked.append((revision, kind, pods))
        if kind == "deployments":
            self.made[revision] = {
                **self.made[revision], "spec": {"replicas": pods}, "status": {"readyReplicas": pods},
            }  # fmt: skip

    def growth(self, made, before, surge=None):
        self.made = dict(made)
        settings = KubernetesSettings(kind="kubernetes", captures="s3://b/live", surge=surge)
        return Growth(self, "wine", before, lambda: servers(self.made), lambda *_: None, settings)

    def last(self, kind="deployments"):
        return {name: pods for name, its, pods in self.asked if its == kind}


@pytest.fixture
def cluster(monkeypatch):
    found = Cluster()

    class Pods:
        def __init__(self, _api, _endpoint, name, _kind):
            self._name = name

        def wait_until_ready(self, pods, _seconds):
            found.waited[self._name] = pods

        def wait_until_told_to_end(self, left, _seconds):
            assert found.asked[-1] == (self._name, "deployments", left)

    monkeypatch.setattr(growth, "Pods", Pods)
    return found


@pytest.fixture
def grow(cluster):
    """Grows for some traffic; gives what was scaled to, what was waited for, and each traffic on the way."""

    def carry_out(made, before, traffic, surge=None):
        ways = []
        for stage in cluster.growth(made, before, surge).stages(traffic, servers(made)):
            cluster.asked.append(("", "route", stage))
            ways.append(stage)
        return cluster.last(), cluster.waited, ways

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


def test_going_back_waits_for_nobody(grow, cluster):
    made = {"v1-a": deployment(2, 2, 12), "v2-b": deployment(10, 2, 12)}
    scaled, waited, _ = grow(made, known(Traffic.all_to("v2-b"), "v1-a", "v2-b"), Traffic.all_to("v1-a"))
    assert scaled == {"v1-a": 10}
    assert waited == {}
    assert cluster.last(HPA)["v2-b"] == 10, "an autoscaler leaves what was live its pods"


def test_going_back_does_not_wait_for_a_pod_that_is_not_well(grow):
    made = {"v1-a": deployment(4, 4, ready=3), "v2-b": deployment(1, 4)}
    live = known(Traffic.split("v1-a", "v2-b", 500), "v1-a")
    scaled, waited, _ = grow(made, live, Traffic.all_to("v1-a"))
    assert scaled == waited == {}


def test_nobody_grows_above_what_its_autoscaler_may(grow, cluster):
    made = {"v1-a": deployment(15, 2, 20), "v2-b": deployment(8, 2, 10)}
    scaled, _, _ = grow(made, known(Traffic.split("v1-a", "v2-b", 5000), "v1-a"), Traffic.all_to("v2-b"))
    assert scaled == {"v2-b": 10}
    assert cluster.last(HPA)["v2-b"] == 10


def test_a_first_version_may_end_its_last_pod_once_it_is_live(grow, cluster):
    made = {"v1-a": deployment(1, 0, 5, keda=True)}
    scaled, _, _ = grow(made, known(None), Traffic.all_to("v1-a"))
    assert scaled == {}
    assert cluster.last(KEDA) == {"v1-a": 0}


def test_what_is_asleep_wakes_for_a_release_and_stays_awake_until_nobody_goes_back(grow, cluster):
    made = {"v1-a": deployment(0, 0, 5, keda=True), "v2-b": deployment(1, 0, 5, keda=True)}
    before = known(Traffic.all_to("v1-a"), "v1-a")
    scaled, waited, _ = grow(made, before, Traffic.all_to("v1-a", Mirror(revision="v2-b", share=10000)))
    assert scaled == waited == {"v1-a": 1}
    assert cluster.last(KEDA) == {"v1-a": 1, "v2-b": 1}
    left = known(Traffic.all_to("v2-b"), "v2-b")
    cluster.growth({"v1-a": made["v1-a"], "v2-b": deployment(1, 0, 5, keda=True)}, left).relax("v1-a")
    assert cluster.last(KEDA)["v2-b"] == 0


def test_pods_that_were_asked_for_before_are_waited_for_all_the_same(grow):
    made = {"v1-a": deployment(10, 10), "v2-b": deployment(5, 10, ready=1)}
    scaled, waited, _ = grow(
        made, known(Traffic.split("v1-a", "v2-b", 500), "v1-a"), Traffic.split("v1-a", "v2-b", 5000)
    )
    assert scaled == {}
    assert waited == {"v2-b": 5}


def test_what_keda_was_taken_away_from_gets_its_traffic_back(grow, cluster):
    made = {"v1-a": deployment(2, 2, 5, keda=True), "v2-b": deployment(2, 2, 5)}
    cluster.refuses = KEDA
    *_, ways = grow(made, known(Traffic.all_to("v2-b"), "v1-a", "v2-b"), Traffic.all_to("v1-a"))
    assert ways == [Traffic.all_to("v1-a")]
    cluster.refuses = HPA
    with pytest.raises(TargetError, match="does not allow"):
        grow(made, known(Traffic.all_to("v2-b"), "v1-a", "v2-b"), Traffic.all_to("v1-a"))


def test_with_scarce_pods_an_autoscaled_version_is_replaced_by_as_many_as_it_has(grow):
    made = {"v1-a": deployment(10, 1, 20), "v2-b": deployment(1, 1, 20)}
    live = Traffic.split("v1-a", "v2-b", 500)
    assert grow(made, known(live, "v1-a"), Traffic.split("v1-a", "v2-b", 5000), surge=8)[0]["v2-b"] == 5
    assert grow(made, known(live, "v1-a"), Traffic.all_to("v2-b"), surge=8)[0]["v2-b"] == 10


def test_with_scarce_pods_what_goes_back_gets_as_many_as_the_load_needs(grow):
    made = {"v1-a": deployment(1, 2, 20), "v2-b": deployment(8, 2, 20)}
    scaled, _, _ = grow(made, known(Traffic.all_to("v2-b"), "v1-a", "v2-b"), Traffic.all_to("v1-a"), surge=2)
    assert scaled == {"v2-b": 2, "v1-a": 8}


def test_a_version_that_is_kept_warm_counts_where_pods_are_scarce(cluster):
    made = {"v0-z": deployment(2, 4), "v1-a": deployment(4, 4)}
    live = known(Traffic.all_to("v1-a"), "v0-z", "v1-a")
    with pytest.raises(TargetError, match=r"surge allows 1 .* v0-z is kept warm\n.*keep_warm"):
        cluster.growth(made, live, surge=1).admit()
    cluster.growth(made, live, surge=2).admit()
    assert cluster.last() == {"v0-z": 1}


def test_whoever_is_retired_leaves_no_pod_missing(cluster):
    cluster.growth({"v1-a": deployment(2, 4), "v2-b": deployment(1, 4)}, known(Traffic.all_to("v1-a"), "v1-a")).relax(
        "v2-b"
    )
    assert cluster.last() == {"v1-a": 4}


def test_only_what_was_made_to_sleep_is_asleep():
    asleep = [Deployment("wine--v1-a", deployment(*one)).is_asleep for one in ((0, 0, 5), (0, 1, 5), (1, 0, 5))]
    assert asleep == [True, False, False]


@pytest.mark.parametrize("surge", [1, 2, 4])
@pytest.mark.parametrize(("start", "to"), [(0, 10000), (500, 10000), (5000, 10000), (500, 2500), (100, 9900)])
@pytest.mark.parametrize("full", [1, 2, 3, 4, 7, 10])
def test_with_scarce_pods_traffic_goes_as_far_as_they_reach(grow, cluster, full, surge, start, to):
    """There are never more than may be, and each has at most the load that it had when all were of one version."""
    live = Traffic.split("v1-a", "v2-b", start) if start else Traffic.all_to("v1-a")
    has = {"v2-b": needed(start, full)}
    has["v1-a"] = min(full, full + surge - has["v2-b"])
    made = {name: deployment(pods, full) for name, pods in has.items()}
    wanted = Traffic.all_to("v2-b") if to == 10000 else Traffic.split("v1-a", "v2-b", to)
    *_, ways = grow(made, known(live, "v1-a"), wanted, surge)
    assert ways[-1] == wanted
    shares = [start, *(one.weight("v2-b") for one in ways)]
    assert shares == sorted(set(shares)), "forward only"
    for name, kind, told in cluster.asked:
        if kind == "deployments":
            has[name] = told
            assert sum(has.values()) <= full + surge
        elif kind == "route":
            assert all(needed(told.weight(one), full) <= has[one] for one in told.weights)
    assert has["v2-b"] == needed(to, full)


def test_with_scarce_pods_going_back_is_at_once_and_they_follow(grow, cluster):
    made = {"v1-a": deployment(2, 4), "v2-b": deployment(3, 4)}
    live = known(Traffic.split("v1-a", "v2-b", 7500), "v1-a")
    scaled, waited, ways = grow(made, live, Traffic.all_to("v1-a"), surge=1)
    assert cluster.asked[0] == ("", "route", Traffic.all_to("v1-a"))
    assert ways == [Traffic.all_to("v1-a")]
    assert scaled == {"v2-b": 1, "v1-a": 4}
    assert waited == {}


def test_who_goes_back_a_second_time_still_gets_its_pods(grow):
    made = {"v1-a": deployment(2, 4), "v2-b": deployment(3, 4)}
    scaled, waited, _ = grow(made, known(Traffic.all_to("v1-a"), "v1-a"), Traffic.all_to("v1-a"), surge=1)
    assert scaled == {"v2-b": 1, "v1-a": 4}
    assert waited == {"v1-a": 4}


def test_copies_that_need_more_pods_than_there_may_be_are_refused(grow):
    made = {"v1-a": deployment(4, 4), "v2-b": deployment(1, 4)}
    with pytest.raises(TargetError, match=r"copies of 100% .* need 4 pods .* target.surge allows 1"):
        grow(made, known(Traffic.all_to("v1-a"), "v1-a"), Traffic.all_to("v1-a", Mirror(revision="v2-b", share=10000)),
             surge=1)  # fmt: skip


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
