"""Servers of the local target listen on Unix sockets; those that an earlier version started stay at their ports."""

from __future__ import annotations

import json
import os
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from harness import LocalHarness
from support import before_rename, light
from support.other_user import as_nobody, connected, modes, read
from support.stack import http, start_gateway, wait_for

from deploy_targets.local import LocalTarget
from deploy_targets.server_address import ServerAddress
from headgate.errors import HomeError, TargetUnavailableError
from headgate.records import Mirror, Payload, Traffic
from headgate.stack import Supervisor

if TYPE_CHECKING:
    from headgate.home import Home

BODY = Payload(body=b'{"dataframe_records": [{"x": 2.0}]}', content_type="application/json")
DOUBLED = {"predictions": [{"x": 4.0}]}


@pytest.fixture(scope="module")
def local(gateway_home):
    return LocalHarness(gateway_home)


@pytest.fixture
def deployed(local, models):
    """An endpoint with one version, as `made_before` and the tests want it."""
    made = []

    def deploy(endpoint, does="double", version=1):
        revision = local.revision(models("pyfunc", does=does), version)
        made.append(endpoint)
        local.target.deploy(endpoint, revision)
        return revision

    yield deploy
    for endpoint in made:
        local.target.delete(endpoint)
        assert local.traces(endpoint) == []


def listening(home: Home, program: str) -> tuple[set[int], set[str]]:
    """The ports and the Unix sockets of a server and its workers."""
    server = psutil.Process(Supervisor(home).states()[program].pid)
    family = [server, *server.children(recursive=True)]
    ports = {one.laddr.port for process in family for one in process.net_connections("inet") if one.status == "LISTEN"}
    return ports, {one.laddr for process in family for one in process.net_connections("unix") if one.laddr}


@pytest.mark.real_server
def test_a_server_has_a_socket_and_no_port_and_is_asked_there(local, deployed):
    home = local.target._home
    first, second = deployed("pipes"), deployed("pipes", "triple", 2)
    # The clients' requests, copies of them, and health checks.
    local.target.route(
        "pipes", Traffic(weights={first.name: 10_000}, mirror=Mirror(revision=second.name, share=10_000))
    )
    state = local.target.observe("pipes")
    for revision, factor in ((first, 2), (second, 3)):
        socket = ServerAddress.of(state.revisions[revision.name].address).socket
        assert listening(home, f"pipes--{revision.name}") == (set(), {socket})
        assert stat.S_IMODE(Path(socket).stat().st_mode) == 0o600
        asked = local.target.invoke("pipes", BODY, revision.name)
        assert json.loads(asked.body) == {"predictions": [{"x": 2.0 * factor}]}
    assert stat.S_IMODE(home.sockets.stat().st_mode) == 0o700
    assert http.post(state.url, content=BODY.body, headers={"content-type": BODY.content_type}).json() == DOUBLED
    wait_for(lambda: local.target.counts("pipes")[second.name].requests == 1)


def test_a_server_that_cannot_be_asked_is_named_with_its_socket(local, deployed):
    revision = deployed("named")
    address = local.target.observe("named").revisions[revision.name].address
    Supervisor(local.target._home)._call("stopProcess", f"named--{revision.name}")
    with pytest.raises(TargetUnavailableError, match=f"{revision.name} of named at {address} does not answer"):
        local.target.invoke("named", BODY, revision.name)


@pytest.fixture
def made_before(local, deployed, monkeypatch):
    """An endpoint as the version before sockets made it: a server at a port, noted as a port."""
    target = local.target
    with monkeypatch.context() as patch:
        patch.setattr(LocalTarget, "_choose_address", lambda self, endpoint, _: self._free_port(endpoint))
        revision = deployed("before")
    target.route("before", Traffic.all_to(revision.name))
    return revision


def test_what_an_earlier_version_deployed_goes_on_as_it_is(local, made_before):
    home, name = local.target._home, f"before--{made_before.name}"
    clusters = json.loads((home.gateway / "clusters.json").read_text())["resources"]
    (cluster,) = [found for found in clusters if found["name"] == name]
    noted = cluster["metadata"]["filter_metadata"]["headgate"]
    # What that version wrote, to the letter: anything else would start the server anew, or its cluster.
    assert noted == {**noted, "port": noted["port"]}
    assert "socket" not in noted
    program = json.loads((home.supervisor / "programs" / f"{name}.json").read_text())
    assert list(program["env"]) == [
        "OMP_NUM_THREADS", "HEADGATE_WORKERS", "HEADGATE_REVISION", "HEADGATE_ENDPOINT", "HEADGATE_HOST",
        "HEADGATE_SCRATCH", "PORT", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED",
    ]  # fmt: skip
    assert (program["env"]["HEADGATE_HOST"], program["env"]["PORT"]) == ("127.0.0.1", str(noted["port"]))

    pid, again = Supervisor(home).states()[name].pid, local.again()
    state = again.observe("before")
    assert state.revisions[made_before.name].address == f"http://127.0.0.1:{noted['port']}"
    again.deploy("before", made_before)
    assert Supervisor(home).states()[name].pid == pid
    assert json.loads(again.invoke("before", BODY, made_before.name).body) == DOUBLED
    assert http.post(state.url, content=BODY.body, headers={"content-type": BODY.content_type}).json() == DOUBLED


def test_it_is_told_which_servers_other_users_can_call(local, made_before):
    (found,) = local.target.preflight()
    assert (found.severity, found.subject) == ("warning", "before")
    assert f"the server of {made_before.name} listens at port " in found.problem


def test_its_next_version_has_a_socket(local, made_before, deployed):
    following = deployed("before", "triple", 2)
    local.target.route("before", Traffic.all_to(following.name))
    local.target.retire("before", made_before.name)
    assert local.target.preflight() == []
    address = ServerAddress.of(local.target.observe("before").revisions[following.name].address)
    assert (bool(address.socket), address.port) == (True, 0)


def test_a_server_whose_starter_died_is_found_at_its_socket(local, deployed):
    """Before the gateway knew it."""
    revision = deployed("halfway")
    address = local.target.observe("halfway").revisions[revision.name].address
    local.target._gateway.remove("halfway", revision.name)
    assert local.again().observe("halfway").revisions[revision.name].address == address
    local.again().deploy("halfway", revision)
    assert local.target.observe("halfway").revisions[revision.name].ready


@pytest.fixture
def older(local, models, tmp_path):
    """A revision of a bundle and a record that were made when the server's package was `serving`."""
    with light.real_server(), before_rename.packaging(tmp_path / "older"):
        made = local.revision(models("pyfunc", does="double"), 7)
    return made.model_copy(update={"image": before_rename.recorded(made.image)})


def test_a_bundle_with_the_server_by_its_old_name_is_served_and_stays_as_it_is(local, older):
    home, name = local.target._home, f"older--{older.name}"
    local.target.deploy("older", older)
    try:
        local.target.route("older", Traffic.all_to(older.name))
        state = local.target.observe("older")
        assert ServerAddress.of(state.revisions[older.name].address).socket, "it knows of sockets"
        assert http.post(state.url, content=BODY.body, headers={"content-type": BODY.content_type}).json() == DOUBLED
        server = psutil.Process(Supervisor(home).states()[name].pid)
        assert server.cmdline()[1:] == ["-m", "serving"]
        assert local.target.usage("older")[older.name].memory > 2**24
        local.again().deploy("older", older)
        assert server.is_running(), "nothing starts it anew"
    finally:
        local.target.delete("older")


def test_a_bundle_of_before_sockets_is_served_at_a_port(local, older):
    """A rollback may bring it up; its server would listen on every interface, as it does not know of sockets."""
    bundle = local.target._home.root / "old-bundle"
    shutil.copytree(older.image.path, bundle)
    (bundle / "serving" / "listener.py").unlink()
    old = older.model_copy(update={"image": older.image.model_copy(update={"path": bundle})})
    address = local.target._choose_address("old", old)
    assert (bool(address.port), address.socket) == (True, "")


def test_a_killed_server_is_replaced_and_a_removed_one_leaves_nothing(local, deployed):
    revision = deployed("killed-socket")
    name = f"killed-socket--{revision.name}"
    socket = Path(ServerAddress.of(local.target.observe("killed-socket").revisions[revision.name].address).socket)
    before = socket.stat().st_ctime_ns
    local.kill("killed-socket", revision.name)
    wait_for(lambda: socket.exists() and socket.stat().st_ctime_ns != before)
    wait_for(lambda: local.target.observe("killed-socket").revisions[revision.name].ready)
    assert json.loads(local.target.invoke("killed-socket", BODY, revision.name).body) == DOUBLED
    Supervisor(local.target._home)._call("stopProcess", name)
    assert not socket.exists(), "a server that ends removes its own"


def test_a_folder_that_others_may_enter_is_refused_before_a_server_starts(local, models):
    home = local.target._home
    home.sockets.chmod(0o755)
    try:
        revision = local.revision(models("pyfunc", does="double"), 9)
        with pytest.raises(HomeError, match="has mode 755; others may enter it"):
            local.target.deploy("open", revision)
        assert local.target.observe("open") is None
        assert local.traces("open") == []
    finally:
        home.sockets.chmod(0o700)


@pytest.fixture
def own_home(tmp_path_factory, layers_cache):
    """A gateway of its own, to whose folder others can come: pytest's would keep them away from it."""
    root = tmp_path_factory.mktemp("own") / "h"
    ours = [one for one in root.parents if one != one.parent and one.stat().st_uid == os.getuid()]
    with start_gateway(root) as home, modes({one: stat.S_IMODE(one.stat().st_mode) | 0o011 for one in ours}):
        layers_cache(home)
        yield home


def test_each_socket_and_each_secret_is_closed_to_others_by_itself(own_home, models):
    """Also where somebody has opened the home, or a folder in it."""
    local, home = LocalHarness(own_home.root), own_home
    revision = local.revision(models("pyfunc", does="double"), 1)
    local.target.deploy("closed", revision)
    server = ServerAddress.of(local.target.observe("closed").revisions[revision.name].address).socket
    sockets = [server, str(home.gateway / "admin.sock"), str(home.supervisor / "supervisor.sock")]
    programs = home.supervisor / "programs"
    secret = [str(path) for path in (home.secrets_file, *programs.iterdir(), *home.logs.iterdir())]
    assert connected(sockets) == sockets
    assert read(secret) == secret
    assert as_nobody(lambda: [connected(sockets), read(secret)]) == [[], []]
    opened = [home.root, home.sockets, home.gateway, home.supervisor, programs, home.logs]
    with modes(dict.fromkeys(opened, 0o711)):
        assert as_nobody(lambda: [connected(sockets), read(secret)]) == [[], []]
    with modes({home.root: 0o711, Path(server): 0o666}):
        # Its folder keeps others away, whatever its own mode is.
        assert as_nobody(lambda: connected([server])) == []
        with modes({home.sockets: 0o711}):
            assert as_nobody(lambda: connected([server])) == [server], "this test can fail"
    local.target.delete("closed")
