"""Whole releases on each cloud: a double that runs real containers, and a real registry of images."""

from __future__ import annotations

import pytest
from conftest import QUICK
from support import light
from support.cloud_worlds import CLOUDS
from support.faults import Fault
from support.oci_registry import REGISTRY
from support.stack import wait_for

from headgate.errors import RejectedError
from headgate.phases import Outcome
from registry import Kind

if REGISTRY is None:
    pytest.skip("no docker-registry on this machine", allow_module_level=True)


@pytest.fixture(scope="module", params=CLOUDS)
def where(request, tmp_path_factory):
    """A cloud's double, and what is particular to it."""
    with CLOUDS[request.param](tmp_path_factory.mktemp("cloud")) as running:
        yield running


@pytest.fixture
def cloud(in_cloud, where):
    with in_cloud(where) as world:
        world.more = QUICK + world.more
        yield world


def test_good_versions_are_promoted_and_others_are_not_and_a_rollback_goes_back(cloud, models, where):
    with light.real_server():
        assert cloud.release(models("pyfunc", does="double"), cloud.more).outcome is Outcome.PROMOTED
    with cloud.traffic(rate=40) as client:
        wait_for(lambda: client.total > 20)
        assert cloud.release(models("pyfunc", does="negative"), cloud.more).outcome is Outcome.PROMOTED
        (compared,) = cloud.journal.read(cloud.endpoint, kinds=(Kind.DECISION,), what="shadow", newest=1)
        report = compared.evidence["report"]
        assert (report["disagreements"], report["latency_ratio"]) == (0, None)
        assert report["pairs"] >= 40
        cloud.assert_only(2)
        with pytest.raises(RejectedError, match="answers differ"):
            cloud.release(models("pyfunc", does="triple"), cloud.more)
        cloud.assert_only(2)
        left = {where.named(name) for name in cloud.state.revisions}
        assert left == set(client.by_revision), "the third left nothing"
        assert cloud.rollback("it was the wrong one").outcome is Outcome.ROLLED_BACK
        cloud.assert_only(1)
    assert not [counter for counter in client.by_revision.values() if counter["failed"] or counter["wrong"]]


def test_every_change_fails_in_every_way_and_the_release_goes_well(cloud, models, where):
    cloud.release(models("pyfunc", does="double"), cloud.more)
    for operation in where.changes:
        for fault in (Fault.THROTTLED, Fault.BROKEN, Fault.CUT_OFF, Fault.IGNORED):
            where.double.faults.plan(operation, fault)
    where.double.faults.plan(where.evidence, Fault.EXPIRED, times=3)
    with cloud.traffic(rate=40) as client:
        assert cloud.release(models("pyfunc", does="quadruple"), cloud.more).outcome is Outcome.PROMOTED
    cloud.assert_only(2)
    assert not [counter for counter in client.by_revision.values() if counter["failed"]]
