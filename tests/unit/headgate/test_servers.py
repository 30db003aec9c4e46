"""Which Prefect and MLflow servers are used, what of the stack that leaves out, and what doctor says of them."""

from __future__ import annotations

import json
from importlib.metadata import version

import pytest
from support.small_server import answering

from headgate.errors import BadInputError
from headgate.home import Home
from headgate.servers import OwnServers, examine_servers, own_servers, require_answers
from headgate.stack import Ports
from headgate.stack.programs import LEASE_STORAGE, STACK, stack_programs

PORTS = Ports(gateway=1, gateway_metrics=2, prefect=3, mlflow=4, receiver=5)
STORAGE = {"server": {"concurrency": {"lease_storage": LEASE_STORAGE}}}
HOOKS = {"webhooks": [{"name": "headgate"}]}


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path).ensure()


@pytest.mark.parametrize(("env", "own"), [
    ({}, OwnServers()),
    ({"PREFECT_API_URL": "http://127.0.0.1:3/api", "MLFLOW_TRACKING_URI": "http://127.0.0.1:4/"}, OwnServers()),
    ({"PREFECT_API_URL": "https://prefect.acme.com/api/"}, OwnServers("https://prefect.acme.com/api", "")),
    ({"MLFLOW_TRACKING_URI": "https://ann:s3cret@mlflow.acme.com"}, OwnServers("", "https://mlflow.acme.com")),
])  # fmt: skip
def test_the_stacks_own_servers_are_nobody_elses(monkeypatch, env, own):
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert own_servers(PORTS) == own


@pytest.mark.parametrize(("own", "started"), [
    (OwnServers(), set(STACK)),
    (OwnServers("https://p", "https://m"), {"gateway", "guard"}),
    (OwnServers("https://p", ""), {"gateway", "guard", "mlflow-server", "receiver"}),
    (OwnServers("", "https://m"), {"gateway", "guard", "prefect-server", "worker", "engine"}),
])  # fmt: skip
def test_what_servers_of_ones_own_stand_in_for_is_not_started(tmp_path, own, started):
    programs = stack_programs(Home(tmp_path).ensure(), PORTS, prefect=own.prefect, mlflow=own.mlflow)
    assert {program.name for program in programs} == started
    guard = next(program for program in programs if program.name == "guard")
    assert guard.env["PREFECT_API_URL"] == (own.prefect or "http://127.0.0.1:3/api")
    assert guard.env["MLFLOW_TRACKING_URI"] == (own.mlflow or "http://127.0.0.1:4")


def test_a_server_that_is_named_has_to_answer():
    with pytest.raises(BadInputError, match=r"PREFECT_API_URL names http://127.0.0.1:9/api, which does not") as raised:
        require_answers(OwnServers("http://127.0.0.1:9/api", ""))
    assert "unset PREFECT_API_URL" in raised.value.fix
    with answering(lambda _: (503, b"")) as url, pytest.raises(BadInputError, match=rf"names {url}, which answers 503"):
        require_answers(OwnServers("", url))
    require_answers(OwnServers("", "sqlite:///here.db"))


@pytest.mark.parametrize(("signed", "own", "fix"), [
    ("/admin/version", lambda url: OwnServers(url, ""), "set PREFECT_API_AUTH_STRING to its user:password"),
    ("/version", lambda url: OwnServers("", url), "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
])  # fmt: skip
def test_a_server_that_is_named_has_to_accept_the_sign_in(signed, own, fix):
    with (
        answering(lambda path: (401 if path == signed else 200, b"")) as url,
        pytest.raises(BadInputError, match=rf"names {url}, which does not accept the sign-in") as raised,
    ):
        require_answers(own(url))
    assert raised.value.fix == fix


def findings(monkeypatch, home, answers) -> dict[str, tuple[str, str]]:
    """What is found where both servers give these answers."""

    def answer(path):
        found = answers.get(path.partition("?")[0])
        if isinstance(found, int):
            return found, b""
        return (404, b"") if found is None else (200, found if isinstance(found, bytes) else json.dumps(found).encode())

    with answering(answer) as url:
        monkeypatch.setenv("PREFECT_API_URL", f"{url}/api")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        return {
            one.subject: (one.severity, one.problem.replace(url, "URL"), one.fix) for one in examine_servers(home, None)
        }


GOOD = {
    "/api/admin/version": version("prefect"), "/api/admin/settings": STORAGE,
    "/version": version("mlflow").encode(), "/api/2.0/mlflow/webhooks": HOOKS,
}  # fmt: skip


def test_doctor_looks_at_the_servers_that_are_used(monkeypatch, home):
    monkeypatch.setenv("HEADGATE_JOURNAL_URL", "postgresql+psycopg://here/headgate")
    found = findings(monkeypatch, home, GOOD)
    assert {severity for severity, *_ in found.values()} == {"ok"}
    assert set(found) == {"prefect", "prefect lease storage", "mlflow", "mlflow webhook"}


@pytest.mark.parametrize(("changed", "subject", "severity", "says", "fix"), [
    ({"/api/admin/version": "3.1.0"}, "prefect", "warning", "has version 3.1.0, and this", "same minor"),
    ({"/api/admin/version": None}, "prefect", "error", "404", "that PREFECT_API_URL names"),
    ({"/api/admin/settings": {}}, "prefect lease storage", "warning", "None", f"LEASE_STORAGE={LEASE_STORAGE}"),
    ({"/version": b"2.22.0"}, "mlflow", "warning", "has version 2.22.0", "same minor version of mlflow"),
    ({"/api/admin/version": 401}, "prefect", "error", "not accept the sign-in (401)", "set PREFECT_API_AUTH_STRING"),
    ({"/version": 401}, "mlflow", "error", "not accept the sign-in (401)", "MLFLOW_TRACKING_PASSWORD"),
    ({"/version": None}, "mlflow", "error", "404", "that MLFLOW_TRACKING_URI names"),
    ({"/api/2.0/mlflow/webhooks": {}}, "mlflow webhook", "warning", "no alias or tag", "headgate connect --receiver"),
])  # fmt: skip
def test_doctor_says_what_is_wrong_with_a_server(monkeypatch, home, changed, subject, severity, says, fix):
    found = findings(monkeypatch, home, {**GOOD, **changed})[subject]
    assert found[0] == severity
    assert says in found[1]
    assert fix in found[2]


def test_a_journal_that_other_workers_cannot_see_is_said(monkeypatch, home):
    assert findings(monkeypatch, home, GOOD)["journal"][0] == "warning"
