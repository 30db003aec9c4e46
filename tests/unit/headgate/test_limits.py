"""Limits that depend on how quick a machine is: they follow the environment, and what is measured."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from headgate.cli.environment import prefect_is_up, require_prefect
from headgate.errors import BadInputError, TargetUnavailableError
from headgate.home import Home
from headgate.limits import BUILD, LEASE, START, seconds_of
from headgate.records import EndpointState, RevisionState, Traffic
from headgate.servers import OwnServers, require_answers
from tasks import foresee, gates


@pytest.mark.parametrize("given", ["soon", "0", "0.9", "86401", "nan", "inf"])
@pytest.mark.parametrize("variable", [LEASE, BUILD, START])
def test_a_limit_out_of_bounds_is_refused(variable, given, monkeypatch):
    monkeypatch.setenv(variable, given)
    with pytest.raises(BadInputError, match=rf"{variable} is .* between \d+ and \d+"):
        seconds_of(variable)


def test_a_limit_that_is_not_set_has_a_default(monkeypatch):
    for variable, seconds in ((LEASE, 30), (BUILD, 900), (START, 180)):
        monkeypatch.delenv(variable, raising=False)
        assert seconds_of(variable) == seconds
        monkeypatch.setenv(variable, "12.5")
        assert seconds_of(variable) == 12.5


@pytest.fixture
def busy_server(monkeypatch):
    """A server that answers only after a command that waits for it would have given up at two seconds."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            threading.Event().wait(2.5)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_busy_server_is_waited_for_where_the_command_needs_it(busy_server, monkeypatch, tmp_path):
    monkeypatch.setenv("PREFECT_API_URL", busy_server)
    require_prefect()
    require_answers(OwnServers(prefect=busy_server))
    assert not prefect_is_up(), "a rollback does not wait for it"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", busy_server)
    assert foresee._mlflow_away(SimpleNamespace(home=Home(tmp_path))) is None


def test_a_server_that_is_not_there_is_not_waited_for(monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9")
    with pytest.raises(TargetUnavailableError, match="does not answer"):
        require_prefect()


@pytest.mark.parametrize(("steady", "seen", "problem"), [
    (True, True, ""), (True, False, "fails its health check"), (False, False, ""), (False, True, ""),
    (None, False, ""), (True, None, "is gone"),
])  # fmt: skip
def test_what_fails_both_versions_is_not_the_challengers_fault(steady, seen, problem):
    found = {
        name: RevisionState(name=name, ready=ready, detail="" if ready else "fails its health check")
        for name, ready in (("v1", steady), ("v2", seen)) if ready is not None
    }  # fmt: skip
    state = EndpointState(endpoint="wine", url="http://here", revisions=found, traffic=Traffic.all_to("v1"))
    job = SimpleNamespace(endpoint="wine", target=SimpleNamespace(observe=lambda _: state))
    assert gates._problem(job, SimpleNamespace(name="v1"), SimpleNamespace(name="v2")) == problem
