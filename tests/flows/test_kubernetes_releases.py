"""Whole releases on a real cluster, under clients that ask all the time; collected where one is named (cluster.py)."""

from __future__ import annotations

import time
from functools import partial

import pytest
from conftest import LONG, QUICK, in_background, open_world
from support import cluster
from support.stack import wait_for

from deploy_targets.kubernetes.names import ENDPOINT, REVISION
from headgate.errors import HeadgateError
from headgate.home import Home
from headgate.phases import Outcome
from headgate.records import Traffic
from headgate.units import BASIS_POINTS

# An API server may take a minute to come back.
PATIENT = QUICK.replace("min_duration: 2s, max_duration: 30s", "min_duration: 10s, max_duration: 150s")


@pytest.fixture(scope="module")
def namespace(stack, docker_base, layers_cache, tmp_path_factory):
    layers_cache(stack.home)
    with cluster.namespace(Home(stack.root), docker_base, tmp_path_factory.mktemp("captures")) as settings:
        yield settings


@pytest.fixture
def world(stack, monkeypatch, docker_base, namespace):
    monkeypatch.setenv("HEADGATE_BASE_IMAGE", docker_base)
    with open_world(stack, monkeypatch, **namespace.model_dump(mode="json", exclude_defaults=True)) as opened:
        yield opened


def test_good_versions_are_promoted_bad_ones_are_not_and_going_back_takes_a_moment(world, models):
    assert world.release(models("pyfunc", does="double")).outcome is Outcome.PROMOTED
    with world.traffic() as client:
        wait_for(lambda: client.total > 20)
        assert world.release(models("pyfunc", does="negative")).outcome is Outcome.PROMOTED
        world.assert_only(2)
        with pytest.raises(HeadgateError, match="answers differ"):
            world.release(models("pyfunc", does="triple"))
        world.assert_only(2)
        before = next(name for name in world.state.revisions if name.startswith("v1-"))
        began = time.monotonic()
        world.target.route(world.endpoint, Traffic.all_to(before))
        assert world.state.traffic == Traffic.all_to(before)
        took = time.monotonic() - began
        assert world.rollback("it was the wrong one").outcome is Outcome.ROLLED_BACK
        world.assert_only(1)
    assert took < 10, "a minute is what a mounted ConfigMap takes"
    assert not [counter for counter in client.by_revision.values() if counter["failed"] or counter["wrong"]]


def test_a_pod_that_is_told_to_end_fails_no_request_and_no_release(world, models):
    two = QUICK + "runtime: {replicas: {min: 2, max: 2}}\n"
    world.release(models("pyfunc", does="double"), two)
    with world.traffic() as client:
        wait_for(lambda: client.total > 20)
        live = world.state.traffic.holder
        api = world.target._api
        pods = api.list("pods", {ENDPOINT: world.endpoint, REVISION: live})
        assert len(pods) == 2
        api.delete("pods", pods[0]["metadata"]["name"])
        assert world.release(models("pyfunc", does="quadruple"), two).outcome is Outcome.PROMOTED
        world.assert_only(2)
        assert len(api.list("pods", {ENDPOINT: world.endpoint, REVISION: world.state.traffic.holder})) == 2
    assert not [counter for counter in client.by_revision.values() if counter["failed"]]


@pytest.mark.skipif(not cluster.END_API, reason="no command that ends the API server is named")
def test_an_api_server_that_is_restarted_in_the_middle_fails_no_request_and_no_release(world, models):
    world.release(models("pyfunc", does="double"))
    with world.traffic() as client, in_background(world.release, models("pyfunc", does="negative"), PATIENT) as second:
        wait_for(lambda: world.share(2) > 0, 180)
        cluster.restart_api()
        assert second.result(300).outcome is Outcome.PROMOTED
        world.assert_only(2)
    assert not [counter for counter in client.by_revision.values() if counter["failed"] or counter["wrong"]]


@pytest.mark.timeout(1500)
def test_a_namespace_that_is_deleted_in_the_middle_ends_the_release_and_what_is_made_anew_is_released_to(
    stack, monkeypatch, docker_base, namespace, models, tmp_path_factory
):
    monkeypatch.setenv("HEADGATE_BASE_IMAGE", docker_base)
    folder, name = tmp_path_factory.mktemp("captures"), f"{namespace.namespace}-2"
    made = partial(cluster.namespace, Home(stack.root), docker_base, folder, name=name)
    with (
        made() as settings,
        open_world(stack, monkeypatch, **settings.model_dump(mode="json", exclude_defaults=True)) as it,
    ):
        it.release(models("pyfunc", does="double"))
        with it.traffic(may_lose=True), in_background(it.release, models("pyfunc", does="negative"), LONG) as second:
            wait_for(lambda: it.share(2) > 0, 180)
            cluster.end(name)
            with pytest.raises(HeadgateError) as ended:
                second.result(300)
        assert name in str(ended.value)
        assert it.ended(2).outcome is Outcome.FAILED
        assert it.live == 1, "by the history it still is"
        with made() as again:
            it.target = type(it.target)(again)
            it.settings["url"] = again.url
            # The guard puts the champion back by itself, and ends the release once more.
            assert it.ended(3, 300).outcome is Outcome.FAILED
            assert it.share(1) == BASIS_POINTS
            with it.traffic():
                assert it.release(models("pyfunc", does="quadruple")).outcome is Outcome.PROMOTED
            it.assert_only(3)
        assert [row.what for row in it.journal.read(it.endpoint)].count("champion restored") == 1
