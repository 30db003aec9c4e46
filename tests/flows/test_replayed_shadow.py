"""The shadow comparison on a platform that cannot mirror: requests are asked again from its log."""

from __future__ import annotations

import json

import pytest
from conftest import QUICK
from support.stack import wait_for

from deploy_targets import Feature
from deploy_targets.local import LocalTarget
from headgate.errors import RejectedError, TargetUnavailableError, UnsupportedError
from headgate.phases import Outcome
from registry import Kind


@pytest.fixture
def no_mirror(monkeypatch):
    """The local target as a platform that has none; a release that asks it for one is an error of ours."""
    route = LocalTarget.route

    def without(self, endpoint, traffic, **fence):
        assert traffic.mirror is None
        route(self, endpoint, traffic, **fence)

    monkeypatch.setattr(LocalTarget, "route", without)
    monkeypatch.setattr(LocalTarget, "SUBSTITUTED", {Feature.SHADOW: "live requests are asked again from the log"})
    monkeypatch.setattr(LocalTarget, "MIRROR_LIMIT", 0)
    monkeypatch.setattr(LocalTarget, "UNSUPPORTED", {Feature.MIRROR: "it cannot mirror"})


def report_of(world) -> dict:
    rows = world.journal.read(world.endpoint, kinds=(Kind.DECISION,), what="shadow", newest=1)
    return dict(rows[-1].evidence["report"])


def test_good_versions_pass_and_others_do_not(world, models, no_mirror, monkeypatch):
    world.release(models("pyfunc", does="double"))
    with world.traffic() as client:
        # So that there is something in the log, as there is on any endpoint that is in use.
        wait_for(lambda: client.total > 100)
        with pytest.raises(RejectedError, match="answers differ"):
            world.release(models("pyfunc", does="triple"))
        refused = report_of(world)
        assert not refused["passed"]
        assert refused["disagreements"] == refused["pairs"] > 0
        example = refused["examples"][0]
        asked = json.loads(example["request"])["dataframe_split"]["data"][0][0]
        answers = [json.loads(example[arm])["predictions"][0] for arm in ("champion", "challenger")]
        assert answers == [{"x": 2 * asked}, {"x": 3 * asked}], "of one request"
        world.assert_only(1)
        assert world.release(models("pyfunc", does="negative")).outcome is Outcome.PROMOTED
    passed = report_of(world)
    assert (passed["passed"], passed["disagreements"], passed["latency_ratio"]) == (True, 0, None)
    assert passed["pairs"] >= 40
    world.assert_only(3)
    assert sum(counter["wrong"] for counter in client.by_revision.values()) == 0, "no client saw a refused version"

    # A challenger that cannot be reached has answered wrongly; nobody waits for it for ever.
    def away(*_, **__):
        raise TargetUnavailableError("it is away")

    with world.traffic():
        monkeypatch.setattr("tasks.asking.ask_again", away)
        with pytest.raises(RejectedError, match="of them failures"):
            world.release(models("pyfunc", does="double"))
    world.assert_only(3)


def test_what_a_log_without_its_fields_cannot_do_is_refused_before_it_begins(world, no_mirror):
    with pytest.raises(UnsupportedError, match=r"capture\.redact leaves fields out"):
        world.release("unused", QUICK + "capture: {redact: [x]}\n")
    green = "strategy: {kind: blue-green}\ngates: {shadow: off}\n"
    with pytest.raises(UnsupportedError, match="it cannot mirror"):
        world.release("unused", green)
    assert world.live is None
