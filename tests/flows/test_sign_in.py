"""The stack's servers as another user of the machine, a page of another server, and a person meet them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import psutil
import pytest
from support.browser import open_browser, sign_in_to_prefect
from support.stack import http

from headgate.sign_in import MLFLOW_PASSWORD, MLFLOW_USER, PREFECT_SIGN_IN, mlflow_sign_in
from headgate.stack.secrets import Secrets

REFUSED = {401, 403}
PREFECT_OPEN = {"/api/health", "/api/ready"}
"""What a probe may ask."""
MLFLOW_OPEN = {"/health", "/api/3.0/mlflow/server-info", "/ajax-api/3.0/mlflow/server-info"}
"""MLflow answers these to all; no path has data of a user."""

pytestmark = pytest.mark.expects_errors(r"WebSocket connection (closed|rejected)")


@pytest.fixture
def page_elsewhere():
    """A page of another server of this machine; its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(b"<h1>elsewhere</h1>")

        def log_message(self, *_: object) -> None:
            """Keep the test's output quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join()


def test_prefect_answers_nobody_else(stack):
    described = http.get(f"{stack.ports.prefect_url}/openapi.json").json()["paths"]
    asked = [
        (method.upper(), "/api" + re.sub(r"\{[^}]+\}", "00000000-0000-0000-0000-000000000000", path))
        for path, methods in described.items() for method in methods
    ]  # fmt: skip
    assert len(asked) > 100
    for auth in (None, httpx.BasicAuth("headgate", "a wrong password"), httpx.BasicAuth("", "")):
        for host in ({}, {"host": "evil.test"}):
            answered = {
                path for method, path in asked
                if http.request(f"{method}", f"{stack.ports.prefect_url}{path}", json={}, auth=auth, headers=host)
                .status_code not in REFUSED
            }  # fmt: skip
            assert answered <= PREFECT_OPEN


def test_a_change_on_prefect_needs_a_token_beside_the_password(stack):
    name, _, password = stack.env[PREFECT_SIGN_IN].partition(":")
    url = f"{stack.ports.prefect_url}/api/deployments/filter"
    bare = http.post(url, json={}, auth=(name, password))
    assert (bare.status_code, bare.json()["detail"]) == (403, "Missing CSRF token.")
    assert len(stack.prefect.post("/deployments/filter", json={}).raise_for_status().json()) >= 7


def test_prefects_streams_answer_nobody_else(stack):
    from websockets.exceptions import ConnectionClosed, InvalidStatus
    from websockets.sync.client import connect

    address = stack.env["PREFECT_API_URL"].replace("http://", "ws://")

    def answer(path: str, token: str | None) -> object:
        with connect(f"{address}{path}", subprotocols=["prefect"]) as stream:
            stream.send(json.dumps({"type": "auth", "token": token}))
            return json.loads(stream.recv(timeout=10))

    for path in ("/events/in", "/events/out", "/logs/out"):
        for token in (None, "headgate:wrong"):
            with pytest.raises((ConnectionClosed, InvalidStatus)):
                answer(path, token)
        assert answer(path, stack.env[PREFECT_SIGN_IN]) == {"type": "auth_success"}


def mlflow_routes() -> list[tuple[str, str]]:
    """Every route of MLflow's server, also those that are not Flask's."""
    script = """
import json, re, mlflow.server
from mlflow.server.fastapi_app import create_fastapi_app
def of(routes):
    for route in routes:
        for method in getattr(route, "methods", None) or ():
            yield method, route.path
rules = {(method, rule.rule) for rule in mlflow.server.app.url_map.iter_rules() for method in rule.methods}
rules |= set(of(create_fastapi_app(mlflow.server.app).routes))
print(json.dumps(sorted((method, re.sub(r"<[^>]+>|\\{[^}]+\\}", "x", rule)) for method, rule in rules)))
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=True)
    return [(method, path) for method, path in json.loads(done.stdout.splitlines()[-1]) if method != "OPTIONS"]


def test_mlflow_answers_nobody_else(stack):
    routes = mlflow_routes()
    assert ("POST", "/api/2.0/mlflow/runs/create") in routes
    assert len(routes) > 300
    for auth in (None, httpx.BasicAuth("headgate", "a wrong password")):
        # A wrong password is checked for 150 ms of CPU each time.
        some = routes if auth is None else routes[::50]
        answered = {
            path for method, path in some
            if http.request(method, f"{stack.ports.mlflow_url}{path}", auth=auth).status_code not in REFUSED
        }  # fmt: skip
        assert {path for path in answered if not path.startswith("/static-files/")} <= MLFLOW_OPEN


def test_mlflow_refuses_another_name_and_another_user_may_nothing(stack):
    url = f"{stack.ports.mlflow_url}/api/2.0/mlflow"
    ours = mlflow_sign_in(stack.env)
    get = f"{url}/experiments/get?experiment_id=0"
    assert http.get(get, auth=ours).status_code == 200
    assert http.get(get, auth=ours, headers={"host": "evil.test"}).status_code == 403
    bob = {"username": "bob", "password": "a password of bob's"}
    http.post(f"{url}/users/create", json=bob, auth=ours).raise_for_status()
    try:
        as_bob = httpx.BasicAuth(bob["username"], bob["password"])
        assert http.get(get, auth=as_bob).status_code == 403
        assert http.get(f"{url}/webhooks", auth=as_bob).status_code == 403
    finally:
        http.request("DELETE", f"{url}/users/delete", json={"username": "bob"}, auth=ours).raise_for_status()


def test_no_password_is_in_a_command_line_a_log_or_a_file_that_others_read(stack):
    known = Secrets.of(stack.home)
    passwords = (known.prefect_password, known.mlflow_password, known.mlflow_forms)
    stack.headgate("doctor")
    shown = json.dumps(stack.json("up")) + stack.headgate("up").stdout
    for process in psutil.process_iter():
        try:
            shown += "\0".join(process.cmdline())
        except psutil.Error:
            continue
    logs = b"".join(path.read_bytes() for path in stack.home.logs.iterdir())
    assert b"prefect" in logs
    for password in passwords:
        assert password not in shown
        assert password.encode() not in logs


def test_a_shell_and_programs_of_ones_own_sign_in(stack, tmp_path):
    """What `headgate up` says: eval "$(headgate env)"."""
    known = Secrets.of(stack.home)
    assert stack.json("env") == {
        "PREFECT_API_URL": stack.env["PREFECT_API_URL"], "MLFLOW_TRACKING_URI": stack.env["MLFLOW_TRACKING_URI"],
        PREFECT_SIGN_IN: known.prefect_sign_in, MLFLOW_USER: "headgate", MLFLOW_PASSWORD: known.mlflow_password,
    }  # fmt: skip
    bin_ = Path(sys.executable).parent
    script = f"""
set -eu
eval "$({bin_}/headgate env)"
{bin_}/prefect deployment ls
{bin_}/python -W ignore -c 'import mlflow; mlflow.set_experiment("sign-in"); mlflow.log_metric("m", 1)'
"""
    env = {**os.environ, "HEADGATE_HOME": str(stack.root), "PREFECT_HOME": str(tmp_path)}
    for told in ({}, {PREFECT_SIGN_IN: "headgate:old", "PREFECT_API_URL": stack.env["PREFECT_API_URL"]}):
        done = subprocess.run(["bash", "-c", script], env={**env, **told}, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "release/local" in done.stdout


def test_a_wrong_sign_in_is_said_with_its_fix(stack):
    wrong = {
        "PREFECT_API_URL": stack.env["PREFECT_API_URL"], PREFECT_SIGN_IN: "headgate:old",
        "MLFLOW_TRACKING_URI": stack.env["MLFLOW_TRACKING_URI"], MLFLOW_USER: "headgate", MLFLOW_PASSWORD: "old",
    }  # fmt: skip
    told = stack.headgate("doctor", env=wrong, expect=1).stdout
    assert told.count("does not accept the sign-in") >= 2
    assert 'eval "$(headgate env)"' in told
    said = stack.headgate("automations", env=wrong, expect=1).stderr
    assert "does not accept the sign-in" in said


@contextmanager
def signed_in_to_mlflow(stack):
    """A browser that has signed in to MLflow, as its dialog does."""
    with open_browser(
        "--host-resolver-rules=MAP evil.test 127.0.0.1",
        http_credentials={
            "username": stack.env[MLFLOW_USER], "password": stack.env[MLFLOW_PASSWORD],
            "origin": stack.ports.mlflow_url,
        },
    ) as page:  # fmt: skip
        page.goto(stack.ports.mlflow_url)
        page.get_by_text("Welcome to MLflow").first.wait_for()
        yield page


ASK = """async ([url, method, mode, type]) => {
    const body = method == "GET" ? undefined : JSON.stringify({name: "made by " + location.host});
    try {
        const reply = await fetch(url, {method, mode, body, credentials: "include", headers: {"content-type": type}});
        return [reply.type, reply.status];
    } catch (error) { return ["refused", 0]; }
}"""


@pytest.mark.parametrize("host", ["evil.test", "127.0.0.1", "localhost"])
def test_a_page_of_another_server_can_do_nothing(stack, page_elsewhere, host):
    mlflow, prefect = stack.ports.mlflow_url, stack.ports.prefect_url
    create = f"{mlflow}/ajax-api/2.0/mlflow/experiments/create"
    read = f"{mlflow}/ajax-api/2.0/mlflow/webhooks"
    with signed_in_to_mlflow(stack) as page:
        sign_in_to_prefect(page, f"{prefect}/deployments", stack.env[PREFECT_SIGN_IN])
        page.get_by_text("Search deployments").or_(page.get_by_placeholder("Search deployments")).first.wait_for()
        # The page of MLflow itself may.
        page.goto(mlflow)
        assert page.evaluate(ASK, [read, "GET", "cors", "application/json"]) == ["basic", 200]
        page.goto(f"http://{host}:{page_elsewhere}/")
        for mode, kind in (("cors", "application/json"), ("cors", "text/plain"), ("no-cors", "text/plain")):
            page.evaluate(ASK, [create, "POST", mode, kind])
        told = page.evaluate(ASK, [read, "GET", "cors", "application/json"])
        assert told == ["refused", 0] or told[1] in REFUSED
        for path, method in (("/flow_runs/filter", "POST"), ("/admin/settings", "GET")):
            asked = [f"{prefect}/api{path}", method, "cors", "application/json"]
            assert page.evaluate(ASK, asked) == ["refused", 0]
    api = f"{mlflow}/api/2.0/mlflow/experiments/search?max_results=1000"
    found = http.get(api, auth=mlflow_sign_in(stack.env)).raise_for_status().json()["experiments"]
    assert not [one["name"] for one in found if one["name"].startswith("made by")]


@pytest.mark.parametrize("ui", ["", "/v2"])
def test_a_person_signs_in_to_prefects_page_with_what_headgate_open_prints(stack, ui):
    address, password = stack.headgate("open", "prefect", "--no-browser").stdout.splitlines()
    assert address == stack.ports.prefect_url
    with open_browser() as page:
        sign_in_to_prefect(page, f"{address}{ui}/deployments", password.removeprefix("password: "))
        page.get_by_text("rollback").first.wait_for()


def test_a_person_signs_in_to_mlflows_page_with_what_headgate_open_prints(stack):
    address, user, password = stack.headgate("open", "mlflow", "--no-browser").stdout.splitlines()
    given = (user.removeprefix("user:     "), password.removeprefix("password: "))
    assert http.get(address, auth=given).status_code == 200
    assert http.get(address).headers["www-authenticate"].startswith("Basic"), "so that a browser asks"
