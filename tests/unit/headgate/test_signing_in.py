"""What signs in to the stack's servers, where it goes, and how our own requests do it."""

from __future__ import annotations

import base64
import json
import os
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from click.testing import CliRunner

from headgate.cli import cli
from headgate.cli.environment import prefect_is_up, require_prefect, use_stack
from headgate.errors import HeadgateError, HomeError, TargetUnavailableError
from headgate.home import Home
from headgate.servers import OwnServers, server_env
from headgate.sign_in import MLFLOW_PASSWORD, MLFLOW_USER, PREFECT_SIGN_IN, VARIABLES, PrefectSignIn
from headgate.stack import Ports
from headgate.stack.programs import stack_programs
from headgate.stack.secrets import USER, Secrets

EARLIER = {"webhook": "w", "alerts": "a", "mlflow_key": "k"}
"""What secrets.json of an earlier version has."""


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADGATE_HOME", str(tmp_path))
    return Home(tmp_path).ensure()


def test_a_stack_of_an_earlier_version_gets_passwords_and_keeps_its_secrets(home):
    home.secrets_file.write_text(json.dumps(EARLIER))
    assert Secrets.remembered(home) is None
    made = Secrets.of(home)
    assert made.model_dump().items() >= EARLIER.items()
    assert len({made.prefect_password, made.mlflow_password, made.mlflow_forms}) == 3
    assert all(len(one) >= 40 for one in (made.prefect_password, made.mlflow_password, made.mlflow_forms))
    assert Secrets.of(home) == Secrets.remembered(home) == made
    assert home.secrets_file.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("text", ["", "[]", "{", json.dumps({**EARLIER, "alerts": ["s3cret"]})])
def test_a_file_without_the_secrets_is_an_error_that_repeats_none(home, text):
    home.secrets_file.write_text(text)
    with pytest.raises(HomeError, match=r"secrets\.json does not hold the stack's secrets") as raised:
        Secrets.of(home)
    assert "s3cret" not in str(raised.value)
    assert "headgate up" in raised.value.fix


@pytest.mark.parametrize(("own", "told"), [
    (OwnServers(), {PREFECT_SIGN_IN, MLFLOW_USER, MLFLOW_PASSWORD}),
    (OwnServers("https://p", ""), {MLFLOW_USER, MLFLOW_PASSWORD}),
    (OwnServers("", "https://m"), {PREFECT_SIGN_IN}),
    (OwnServers("https://p", "https://m"), set()),
])  # fmt: skip
def test_a_program_signs_in_to_the_stacks_own_servers_only(home, own, told):
    ports = Ports.choose(home)
    programs = {one.name: one for one in stack_programs(home, ports, prefect=own.prefect, mlflow=own.mlflow)}
    for name in programs.keys() & {"worker", "receiver", "guard", "engine"}:
        assert programs[name].env.keys() & set(VARIABLES) == told, name
    passwords = {Secrets.of(home).prefect_password, Secrets.of(home).mlflow_password}
    for program in programs.values():
        assert not any(one in str(part) for part in program.command for one in passwords), "ps shows commands to all"


@pytest.mark.parametrize(("given", "prefect", "mlflow"), [
    ({}, "the stack's", "the stack's"),
    # Of some other server, which is not named.
    ({PREFECT_SIGN_IN: "x:y", MLFLOW_USER: "x", MLFLOW_PASSWORD: "y"}, "the stack's", "the stack's"),
    # Of the stack's own: another user of MLflow.
    ({"PREFECT_API_URL": "{prefect}/api", PREFECT_SIGN_IN: "x:y", "MLFLOW_TRACKING_URI": "{mlflow}",
      MLFLOW_USER: "x", MLFLOW_PASSWORD: "y"}, "as it is", "as it is"),
    ({"PREFECT_API_URL": "{prefect}/api", "MLFLOW_TRACKING_URI": "{mlflow}"}, "the stack's", "the stack's"),
    # Servers of one's own, of which one asks for a password that is not given.
    ({"PREFECT_API_URL": "https://p/api", PREFECT_SIGN_IN: "x:y"}, "as it is", "the stack's"),
    ({"MLFLOW_TRACKING_URI": "https://m"}, "the stack's", "as it is"),
])  # fmt: skip
def test_no_other_server_is_shown_the_stacks_sign_in(home, monkeypatch, given, prefect, mlflow):
    ports, secrets = Ports.choose(home), Secrets.of(home)
    for name, value in given.items():
        monkeypatch.setenv(name, value.format(prefect=ports.prefect_url, mlflow=ports.mlflow_url))
    found = server_env(home, ports)
    stacks = {PREFECT_SIGN_IN: secrets.prefect_sign_in} if prefect == "the stack's" else {}
    if mlflow == "the stack's":
        stacks |= {MLFLOW_USER: USER, MLFLOW_PASSWORD: secrets.mlflow_password}
    assert {name: value for name, value in found.items() if name in VARIABLES} == stacks


@contextmanager
def prefect(*, sign_in: str, tokens: list[str] | None):  # noqa: C901 - what the server answers to each question
    """A server that asks as Prefect's does; gives its API's address and the changes that it has taken.

    Args:
        sign_in: `user:password`.
        tokens: those that it gives out, one after the other, and only the last is good; None without protection.
    """
    taken: list[str] = []
    given: dict[str, str] = {}
    header = "Basic " + base64.b64encode(sign_in.encode()).decode()

    class Handler(BaseHTTPRequestHandler):
        def answer(self, status: int, data: object) -> None:
            body = json.dumps(data).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            if url.path == "/api/health":
                return self.answer(200, data=True)
            if self.headers.get("authorization") != header:
                return self.answer(401, {})
            if url.path != "/api/csrf-token":
                return self.answer(200, "3.8.8")
            if tokens is None:
                return self.answer(422, {"detail": "CSRF protection is disabled."})
            given[parse_qs(url.query)["client"][0]] = tokens.pop(0)
            return self.answer(200, {"token": list(given.values())[-1], "client": "x"})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
            shown = (self.headers.get("prefect-csrf-client"), self.headers.get("prefect-csrf-token"))
            if self.headers.get("authorization") != header:
                return self.answer(401, {})
            if tokens is not None and (shown not in given.items() or tokens):
                return self.answer(403, {"detail": "Invalid CSRF token or client identifier."})
            taken.append(body)
            return self.answer(200, [])

        def log_message(self, *_: object) -> None:
            """Keep the test's output quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/api", taken
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_change_shows_a_token_which_is_asked_for_once(home):
    tokens = ["one"]
    with prefect(sign_in="u:p", tokens=tokens) as (api, taken), httpx.Client(auth=PrefectSignIn(api, "u:p")) as client:
        assert client.get(f"{api}/x").status_code == 200
        assert tokens == ["one"], "a question needs none"
        for number in range(3):
            assert client.post(f"{api}/x", content=str(number)).status_code == 200
        assert taken == ["0", "1", "2"]


def test_a_token_that_the_server_has_forgotten_is_asked_for_again():
    with prefect(sign_in="u:p", tokens=["old", "new"]) as (api, taken):
        assert httpx.post(f"{api}/x", content="a", auth=PrefectSignIn(api, "u:p")).status_code == 200
    assert taken == ["a"]


def test_a_server_without_that_protection_is_asked_as_it_is():
    with prefect(sign_in="u:p", tokens=None) as (api, taken):
        assert httpx.post(f"{api}/x", content="a", auth=PrefectSignIn(api, "u:p")).status_code == 200
    assert taken == ["a"]


def test_a_wrong_sign_in_changes_nothing_and_is_said(home, monkeypatch):
    with prefect(sign_in="u:p", tokens=["one"]) as (api, taken):
        assert httpx.post(f"{api}/x", content="a", auth=PrefectSignIn(api, "u:wrong")).status_code == 401
        monkeypatch.setenv("PREFECT_API_URL", api)
        monkeypatch.setenv(PREFECT_SIGN_IN, "u:wrong")
        with pytest.raises(TargetUnavailableError, match="does not accept the sign-in") as raised:
            require_prefect()
        assert not prefect_is_up(), "a rollback does without it"
        monkeypatch.setenv(PREFECT_SIGN_IN, "u:p")
        require_prefect()
        assert prefect_is_up()
    assert taken == []
    assert "set PREFECT_API_AUTH_STRING" in raised.value.fix


@pytest.mark.parametrize("command", [["env"], ["open", "prefect"], ["open", "mlflow", "--no-browser"]])
def test_without_a_stack_there_is_no_sign_in(home, command):
    Secrets.of(home)
    Ports.choose(home)
    ended = CliRunner().invoke(cli, command)
    assert isinstance(ended.exception, HeadgateError)
    assert ended.exception.fix == "headgate up"
    assert ended.output == ""


def test_servers_of_ones_own_are_left_out(home, monkeypatch):
    Secrets.of(home)
    monkeypatch.setenv("PREFECT_API_URL", "https://prefect.acme.com/api")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.acme.com")
    assert CliRunner().invoke(cli, ["env"]).output == ""
    opened = CliRunner().invoke(cli, ["open", "prefect", "--no-browser"])
    assert opened.stdout == "https://prefect.acme.com\n"
    assert "a server of your own" in opened.stderr


def test_what_does_without_the_servers_does_without_their_passwords(home, monkeypatch):
    """Such as a rollback."""
    monkeypatch.setattr("os.environ", dict(os.environ))
    Ports.choose(home)
    home.secrets_file.write_text("{")
    with pytest.raises(HomeError):
        use_stack(prefect=False)
    assert use_stack(required=False, prefect=False) == home
