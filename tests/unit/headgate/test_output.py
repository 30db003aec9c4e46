"""What commands print can be copied, on a terminal of any width and in a pipe."""

from __future__ import annotations

import io
import os
import shlex
from unittest import mock

import pytest
from click.testing import CliRunner

from headgate.cli import output
from headgate.cli.files import init
from headgate.cli.request import curl
from headgate.home import Home
from headgate.stack import Ports

LONG = "runs:/0123456789abcdef0123456789abcdef/a-model-with-a-long-name-indeed"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def printed(monkeypatch, capsys, *, width: int, terminal: bool) -> str:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(output.Console, "is_terminal", property(lambda _: terminal))
    output.print_table("where", ["name", "artifact", "why"], [("wine", LONG, ""), ("beer", "runs:/1/m", "a few words")])
    return capsys.readouterr().out


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("width", [20, 80, 300])
def test_no_cell_is_broken_or_cut(monkeypatch, capsys, width, terminal):
    text = printed(monkeypatch, capsys, width=width, terminal=terminal)
    assert LONG in text
    assert "a few words" in text


def test_a_narrow_terminal_gets_a_line_for_each_cell(monkeypatch, capsys):
    text = printed(monkeypatch, capsys, width=60, terminal=True)
    assert text.splitlines() == [
        "where",
        "wine",
        f"  artifact: {LONG}",
        "beer",
        "  artifact: runs:/1/m",
        "  why: a few words",
    ]
    assert "━" in printed(monkeypatch, capsys, width=60, terminal=False)


SIGNATURE = """signature: {inputs: '[{"type": "double", "name": "x", "required": true}]'}\n"""


@pytest.mark.parametrize(("files", "shown"), [
    ({"serving_input_example.json": '{\n  "inputs": [\n    1\n  ]\n}\n'}, """-d '{"inputs": [1]}' """),
    ({"serving_input_example.json": """{"inputs": ["it's"]}"""}, """-d '{"inputs": ["it'"'"'s"]}' """),
    ({"serving_input_example.json": '{"inputs": [' + "1, " * 500 + "1]}"}, "-d @{file} "),
    ({"serving_input_example.json": "x,y\n1,2\n"}, "-d @{file} "),
    ({"serving_input_payload.json": '{"inputs": [2]}', "MLmodel": SIGNATURE}, """-d '{"inputs": [2]}' """),
    ({"MLmodel": SIGNATURE}, """-d '{"dataframe_split": {"columns": ["x"], "data": [[1.0]]}}' """),
    ({"MLmodel": "flavors: {}\n"}, "-d @request.json "), ({}, "-d @request.json "),
])  # fmt: skip
def test_a_request_can_be_pasted_into_a_shell(tmp_path, files, shown):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    command = curl("http://127.0.0.1:1/wine/invocations", tmp_path)
    assert shown.replace("{file}", str(tmp_path / "serving_input_example.json")) in command
    assert command.startswith("curl -H 'Content-Type: application/json' -d ")
    assert command.endswith(" http://127.0.0.1:1/wine/invocations")


@pytest.fixture
def ports(tmp_path):
    """A stack that was up, and whose servers do not answer."""
    # The command sets what Prefect and MLflow read.
    with mock.patch.dict(os.environ, {"HEADGATE_HOME": str(tmp_path / "home")}):
        for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
            os.environ.pop(name, None)
        yield Ports.choose(Home.from_env().ensure())


def told_by_init(artifact: object, folder, *more: str) -> str:
    done = CliRunner().invoke(init, [str(artifact), "--file", str(folder / "release.yaml"), "--force", *more])
    assert done.exit_code == 0
    return done.stderr


def test_init_shows_a_request_with_the_models_example_and_the_gateways_address(ports, models, tmp_path):
    url, folder = f"{ports.gateway_url}/two-outputs/invocations", models("pyfunc", does="double")
    for artifact in (folder, folder.as_uri()):
        said = told_by_init(artifact, tmp_path, "--model", "two_outputs")
        assert f"clients will call {url}; once it is released, ask it: curl " in said
        assert shlex.split(said.partition("ask it: ")[2])[4:] == [
            '{"dataframe_split": {"columns": ["x"], "data": [[1.0]]}}',
            url,
        ]


def test_init_without_a_stack_or_a_model_that_it_can_read_names_the_path(ports, tmp_path, monkeypatch):
    for artifact in ("runs:/1/model", tmp_path.as_uri()):
        said = told_by_init(artifact, tmp_path, "--model", "Two_Outputs")
        assert "clients will call …/two-outputs/invocations; the release prints a whole request" in said
    monkeypatch.setenv("HEADGATE_HOME", str(tmp_path / "other"))
    assert "clients will call …/wine/invocations" in told_by_init("runs:/1/model", tmp_path, "--model", "wine")
