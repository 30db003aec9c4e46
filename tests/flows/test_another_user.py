"""What another user of the machine can do with a local stack at work: use its endpoints, and nothing else."""

from __future__ import annotations

import itertools
import os

import psutil
import pytest
from conftest import QUICK
from support.other_user import as_nobody, asked, connected, modes, read

from deploy_targets.server_address import ServerAddress
from headgate.stack import Supervisor

pytestmark = [pytest.mark.real_server, pytest.mark.expects_errors(r"WebSocket connection (closed|rejected)")]

ASK = '{"dataframe_records": [{"x": 2.0}]}'


@pytest.fixture
def serving(world, models):
    """A live endpoint, in a folder that others can come to: pytest's own would keep them away from it."""
    world.release(models("pyfunc", does="double"), QUICK)
    # Until the root, which others may enter anyhow.
    own = [one for one in world.stack.root.parents if one.stat().st_uid == os.getuid() and one != one.parent]
    with modes({one: one.stat().st_mode & 0o7777 | 0o011 for one in own}):
        yield world


def pids(home) -> list[int]:
    """The stack's programs and what they have started, but for flow runs, which come and go."""
    supervisor = Supervisor(home)
    found = [supervisor._call("getPID")]
    for name, program in supervisor.states().items():
        if program.state == "RUNNING":
            found.append(program.pid)
            if name not in {"worker", "engine"}:
                found += [child.pid for child in psutil.Process(program.pid).children(recursive=True)]
    return found


def sockets_of(home) -> set[str]:
    """Every Unix socket that one of them has bound, abstract ones too."""
    ours = pids(home)
    bound = {one.laddr for one in psutil.net_connections("unix") if one.pid in ours and one.laddr}
    # supervisord binds another name, and links this one to it.
    return bound | {str(home.supervisor / "supervisor.sock")}


def listening(pids: list[int]) -> dict[int, str]:
    """Every TCP port at which one of the processes listens, with its address."""
    found = psutil.net_connections("tcp")
    return {one.laddr.port: one.laddr.ip for one in found if one.pid in pids and one.status == "LISTEN"}


def test_another_user_can_use_the_gateway(serving):
    port, path = serving.stack.ports.gateway, f"/{serving.endpoint}/invocations"
    assert as_nobody(lambda: asked(port, "POST", path, ASK)) == 200
    assert serving.ask(2.0).json() == {"predictions": [{"x": 4.0}]}


def test_another_user_can_connect_to_no_socket_and_read_no_file(serving):
    home = serving.stack.home
    (revision,) = serving.state.revisions.values()
    server = ServerAddress.of(revision.address).socket
    admin, supervisor = str(home.gateway / "admin.sock"), str(home.supervisor / "supervisor.sock")
    found = sockets_of(home)
    assert {server, admin, supervisor} <= found
    # Enough of each part; an environment has tens of thousands.
    files = [
        str(path)
        for part in [home.root, *home.root.iterdir()]
        for path in [part, *itertools.islice(part.rglob("*") if part.is_dir() else (), 500)]
    ]
    assert {str(home.secrets_file), str(home.root / "journal.db")} <= set(files)
    # The owner can, so what is refused is refused for who asks.
    assert set(connected([server, admin, supervisor])) == {server, admin, supervisor}
    assert as_nobody(lambda: connected(found)) == []
    assert as_nobody(lambda: read(files)) == []


def test_no_port_answers_another_user_but_for_what_is_meant_for_all(serving):
    home, ports, endpoint = serving.stack.home, serving.stack.ports, serving.endpoint
    (revision,) = serving.state.revisions
    server = f"/servers/{endpoint}/{revision}/metrics"
    api = "/api/2.0/mlflow/experiments/search"
    answers = {
        # Clients.
        ports.gateway: {("POST", f"/{endpoint}/invocations", ASK): 200, ("GET", "/", ""): 404},
        # Prometheus: what Envoy counts, for reading.
        ports.gateway_metrics: {
            ("GET", "/stats/prometheus", ""): 200, ("POST", "/stats/prometheus", ""): 404,
            ("POST", "/quitquitquit", ""): 404, ("GET", "/config_dump", ""): 404,
        },
        # Prometheus: metrics, and where they are; the rest needs a signature or a token.
        ports.receiver: {
            ("GET", "/health", ""): 200, ("GET", "/metrics", ""): 200, ("GET", "/targets", ""): 200,
            ("GET", server, ""): 200, ("POST", server, ASK): 405,
            ("POST", f"/servers/{endpoint}/{revision}/invocations", ASK): 404,
            ("GET", f"/servers/{endpoint}/{revision}/metrics/../invocations", ""): 404,
            ("POST", "/mlflow", "{}"): 401, ("POST", "/alertmanager", "{}"): 401, ("POST", "/labels", "{}"): 401,
        },
        # Whether it is well, and the files of its page. What may change something is refused before the password is
        # looked at, as it has no CSRF token.
        ports.prefect: {
            ("GET", "/api/health", ""): 200, ("GET", "/api/admin/settings", ""): 401,
            ("GET", "/api/work_pools/headgate", ""): 401, ("POST", "/api/flows/filter", "{}"): 403,
            ("POST", "/api/deployments/filter", "{}"): 403,
        },
        ports.mlflow: {
            ("GET", "/health", ""): 200, ("GET", f"{api}?max_results=1", ""): 401,
            ("POST", "/api/2.0/mlflow/registered-models/create", '{"name": "mine"}'): 401,
        },
    }  # fmt: skip
    # By which a worker of Prefect tells its flow runs to end; it takes 32 digits of chance, each once.
    worker = Supervisor(home).states()["worker"].pid
    answers |= {port: {("GET", "/", ""): 0, ("POST", "/", "{}"): 0} for port in listening([worker])}
    found = listening(pids(home))
    assert found == dict.fromkeys(answers, "127.0.0.1"), "a port that is in no list, or not of this machine"
    told = as_nobody(lambda: [[asked(port, *one) for one in wanted] for port, wanted in answers.items()])
    assert told == [list(wanted.values()) for wanted in answers.values()]
