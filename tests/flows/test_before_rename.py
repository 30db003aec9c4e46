"""A version that was packaged when the server's package was `serving` is served, and rolled back to, everywhere."""

from __future__ import annotations

import json

import psutil
import pytest
from conftest import QUICK
from support import before_rename, light
from support.cloud_worlds import CLOUDS
from support.oci_registry import REGISTRY
from support.stack import wait_for

from headgate.phases import Outcome
from headgate.stack import Supervisor
from registry import Kind, history

pytestmark = pytest.mark.timeout(1800)
"""Two runtime layers, each of which takes minutes where the machine is busy."""

COLD = "rollback: {keep_warm: 0s}\n" + QUICK


@pytest.fixture
def older(models, tmp_path):
    """Releases an endpoint's first version as that Headgate did."""

    def release(world, more):
        with light.real_server(), before_rename.packaging(tmp_path / "older"):
            assert world.release(models("pyfunc", does="double"), more).outcome is Outcome.PROMOTED
        before_rename.rewrite(world.journal, world.endpoint)
        world.assert_only(1)
        rows = world.journal.read(world.endpoint)
        assert '"lock_digest"' in (told := json.dumps([row.evidence for row in rows]))
        assert '"server": "serving"' not in told

    return release


def promoted(world, models, more):
    """A version of today takes the place of the one before, of which nothing goes on running."""
    assert world.release(models("pyfunc", does="negative"), more).outcome is Outcome.PROMOTED
    world.assert_only(2)
    assert [name.partition("-")[0] for name in world.state.revisions] == ["v2"]
    assert history.champion(world.journal, world.endpoint).revision.image.server == "headgate_server"


def server(world) -> psutil.Process:
    """The one server of an endpoint."""
    programs = Supervisor(world.stack.home).states().values()
    (pid,) = [one.pid for one in programs if one.name.startswith(f"{world.endpoint}--")]
    return psutil.Process(pid)


def test_on_this_machine(world, models, older):
    older(world, COLD)
    (image,) = [row.evidence["image"] for row in world.journal.read(world.endpoint, kinds=(Kind.PHASE,)) if row.evidence
                if row.what == "packaged"]  # fmt: skip
    bundle = world.stack.home.bundles / image["digest"].removeprefix("sha256:")
    assert sorted(path.name for path in bundle.iterdir()) == ["model", "requirements.lock", "serving"]
    with world.traffic() as client:
        wait_for(lambda: client.total > 20)
        # What puts an endpoint in order does not start its server anew.
        before = server(world)
        world.stack.json("reconcile", world.endpoint)
        assert before.is_running()
        promoted(world, models, COLD)
        assert server(world).cmdline()[-1] == "headgate_server"
        done = world.stack.headgate("rollback", world.endpoint, "--reason", "it was the wrong one", "--json")
        assert json.loads(done.stdout)["champion"] == 1
        world.assert_only(1)
        assert server(world).cmdline()[-1] == "serving"
        # And from there on to a version of today again.
        assert world.rollback("back again", version=2).outcome is Outcome.ROLLED_BACK
        world.assert_only(2)
    assert not [counter for counter in client.by_revision.values() if counter["failed"] or counter["wrong"]]


def goes_back(world, models, more):
    with world.traffic(rate=40) as client:
        wait_for(lambda: client.total > 20)
        promoted(world, models, more)
        assert world.rollback("it was the wrong one").outcome is Outcome.ROLLED_BACK
        world.assert_only(1)
    assert not [counter for counter in client.by_revision.values() if counter["failed"] or counter["wrong"]]


def test_on_docker(docker_world, models, older):
    older(docker_world, COLD)
    goes_back(docker_world, models, COLD)
    container = docker_world.target._find(docker_world.endpoint, docker_world.state.traffic.holder)
    assert container.attrs["Config"]["Entrypoint"] == ["python3", "-m", "serving"]
    wait_for(lambda: container.reload() or container.attrs["State"]["Health"]["Status"] == "healthy")


@pytest.mark.skipif(REGISTRY is None, reason="docker-registry is not installed")
@pytest.mark.parametrize("name", CLOUDS)
def test_on_a_cloud(in_cloud, models, older, name, tmp_path_factory):
    with CLOUDS[name](tmp_path_factory.mktemp("cloud")) as where, in_cloud(where) as cloud:
        older(cloud, COLD + cloud.more)
        goes_back(cloud, models, COLD + cloud.more)
