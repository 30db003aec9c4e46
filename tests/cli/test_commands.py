"""The command line as a user meets it: messages, exit codes, JSON."""

from __future__ import annotations

import json
import os
import pty
import shlex
import shutil
import signal
import socket
import subprocess
from contextlib import ExitStack

import psutil
import pytest
from support.stack import HEADGATE, headgate, http, wait_for
from support.watched_logs import PREFECT_AWAY

from headgate.cli import COMMANDS, main
from headgate.home import Home
from headgate.stack.ports import HOST, Ports

GOOD = "model: wine\nartifact: {}\ntarget: {{kind: local}}\n"


@pytest.fixture
def called(monkeypatch, capsys, tmp_path):
    """The command line in this process, which has imported what a process of its own imports for a second."""
    monkeypatch.setattr("headgate.cli.ask_loopback_directly", lambda: None)
    monkeypatch.setenv("HEADGATE_HOME", str(tmp_path / "called"))

    def call(*arguments: str, expect: int = 0):
        monkeypatch.setattr("sys.argv", ["headgate", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        assert (ended.value.code or 0) == expect, said.out + said.err
        return said

    return call


def test_help_lists_every_command_and_every_command_has_help(tmp_path, called):
    text = headgate("--help", root=tmp_path).stdout
    assert "Exit codes: 0 done, 1 failed, 2 bad input, 3 rejected by a gate" in text
    for name in COMMANDS:
        assert f"  {name} " in text
        assert f"Usage: headgate {name} " in called(name, "--help").out


def test_a_mistyped_command_is_guessed(tmp_path):
    assert "did you mean 'rollback'?" in headgate("rolback", root=tmp_path, expect=2).stderr


def test_completion_knows_commands_and_options(tmp_path):
    assert "_HEADGATE_COMPLETE" in headgate("completion", "bash", root=tmp_path).stdout
    env = {"_HEADGATE_COMPLETE": "bash_complete", "COMP_WORDS": "headgate rel", "COMP_CWORD": "1"}
    assert "release" in headgate(root=tmp_path, env=env).stdout


def test_five_mistakes_are_five_messages_and_exit_code_2(tmp_path):
    file = tmp_path / "release.yaml"
    file.write_text(
        "model: wine\nartifact: x\ntarget: {kind: cloud}\nstratgy: {}\n"
        "strategy: {min_requests: x}\njudge: {false_rollback: 1}\nrollback: {keep_warm: 1 hour}\n"
    )
    done = headgate("validate", str(file), root=tmp_path, expect=2)
    assert "release.yaml has 5 problems" in done.stderr
    for place in ("3:10", "4:1", "5:12", "6:9", "7:12"):
        assert f"  {place}: " in done.stderr
    found = headgate("validate", str(file), "--json", root=tmp_path, expect=2).stdout
    assert [problem["line"] for problem in json.loads(found)["problems"]] == [3, 4, 5, 6, 7]


def test_init_writes_a_file_that_is_valid(tmp_path, models):
    file = tmp_path / "release.yaml"
    headgate("init", str(models("wine")), "--model", "wine", "--file", str(file), root=tmp_path)
    assert headgate("validate", str(file), root=tmp_path).stdout.startswith(f"{file} is valid: wine")
    assert (tmp_path / "release.schema.json").exists()
    assert "exists" in headgate("init", "x", "--file", str(file), root=tmp_path, expect=2).stderr
    missing = headgate("init", "x", "--file", str(tmp_path / "other.yaml"), root=tmp_path, expect=2).stderr
    assert "x is not a folder here, and not an address in MLflow" in missing


@pytest.mark.parametrize("command", [
    ["status", "wine"], ["history", "wine"], ["export", "wine"], ["reconcile", "wine"],
    *([what, "wine", "--reason", "x"] for what in ("rollback", "pause", "resume", "abort")),
])  # fmt: skip
def test_what_does_not_exist_is_refused_in_one_way_also_without_a_stack(called, command):
    said = called(*command, expect=2).err
    assert "there is no endpoint wine\n  fix: nothing was released here yet: headgate release release.yaml" in said


def test_a_process_of_its_own_refuses_in_the_same_way(tmp_path, called):
    asked = ("rollback", "wine", "--reason", "x")
    assert headgate(*asked, root=tmp_path / "fresh", expect=2).stderr == called(*asked, expect=2).err


def test_a_fresh_home_has_nothing_to_guard_and_nothing_up(tmp_path):
    assert headgate("guard", "--once", root=tmp_path / "fresh").stdout == ""
    assert f"{tmp_path / 'fresh'} is not up: headgate up" in headgate("status", root=tmp_path / "fresh").stdout


def test_doctor_prints_what_whoever_releases_needs(tmp_path):
    file = tmp_path / "release.yaml"
    named = '{kind: sagemaker, role: "arn:aws:iam::123456789012:role/r", captures: "s3://bucket/live"}'
    file.write_text(f"model: wine\nartifact: runs:/1/model\ntarget: {named}\n")
    policy = json.loads(headgate("doctor", "--policy", str(file), root=tmp_path).stdout)
    by_name = {one["Sid"]: one for one in policy["Statement"]}
    assert by_name["HandOverTheRole"]["Resource"] == "arn:aws:iam::123456789012:role/r"
    assert by_name["ReadAndRemoveCaptures"]["Resource"] == "arn:aws:s3:::bucket/live/*"


def test_without_a_stack_it_says_what_to_do(tmp_path):
    file = tmp_path / "release.yaml"
    file.write_text(GOOD.format("x"))
    assert "fix: headgate up" in headgate("release", str(file), root=tmp_path / "home", expect=1).stderr


def test_without_a_stack_a_plan_says_what_it_could_not_look_at(tmp_path, models):
    file = tmp_path / "release.yaml"
    file.write_text(GOOD.format("runs:/x/model"))
    said = headgate("plan", str(file), root=tmp_path / "home", expect=2)
    assert "error: local: the local stack was never started; fix: headgate up" in said.stderr
    assert "runs:/x/model was not looked at, nor scanned" in said.stderr
    assert "deploy" in said.stdout
    file.write_text(GOOD.format(models("wine")))
    planned = json.loads(headgate("plan", str(file), "--json", root=tmp_path / "home", expect=2).stdout)
    assert planned["content"]["inputs"]["alcohol"] == "double"
    assert {one["subject"] for one in planned["problems"]} == {"local", "mlflow"}


def test_a_home_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    done = headgate("up", root=tmp_path / "file" / "home", expect=2)
    assert "cannot be written to" in done.stderr
    assert "fix: set HEADGATE_HOME" in done.stderr


def test_no_free_port_leaves_nothing_running(tmp_path):
    with ExitStack() as taken:
        ports = []
        while len(ports) < 2:
            server = taken.enter_context(socket.socket())
            server.bind((HOST, 0))
            server.listen()
            ports.append(server.getsockname()[1])
        env = {"HEADGATE_PORTS": f"{ports[0]}-{ports[0]}"}
        done = headgate("up", root=tmp_path, expect=2, env=env)
    assert f"all 1 of HEADGATE_PORTS ({ports[0]}-{ports[0]}) are in use" in done.stderr
    assert not (tmp_path / "supervisor" / "supervisor.sock").exists()


def test_a_port_that_another_program_has_taken_is_named(tmp_path):
    ports = Ports.choose(Home(tmp_path).ensure())
    with socket.socket() as taken:
        taken.bind((HOST, ports.mlflow))
        taken.listen()
        done = headgate("up", root=tmp_path, expect=2)
    assert f"port {ports.mlflow}, which the mlflow has had so far, is taken by process {os.getpid()}" in done.stderr
    assert "headgate up --new-ports" in done.stderr
    assert not (tmp_path / "supervisor" / "supervisor.sock").exists(), "nothing was started"


def test_doctor_finds_nothing_wrong_here(stack):
    findings = stack.json("doctor")
    # A machine may let a process open few files.
    wrong = [one for one in findings if one["severity"] != "ok" and one["subject"] != "gateway connections"]
    assert wrong == []
    assert {"packages", "envoy", "HEADGATE_HOME", "prefect lease storage"} <= {item["subject"] for item in findings}


def test_up_again_changes_nothing(stack):
    from headgate.stack import Supervisor

    # What a server itself starts and ends is its own matter.
    before = {name: state.pid for name, state in Supervisor(stack.home).states().items()}
    stack.headgate("up")
    assert {name: state.pid for name, state in Supervisor(stack.home).states().items()} == before


@pytest.mark.expects_errors(PREFECT_AWAY)
@pytest.mark.parametrize("program", ["gateway", "mlflow-server", "prefect-server", "engine", "worker", "guard"])
def test_each_server_comes_back_when_it_is_killed(stack, program):
    from headgate.stack import Supervisor

    supervisor = Supervisor(stack.home)
    killed = supervisor.states()[program].pid
    for process in [*psutil.Process(killed).children(recursive=True), psutil.Process(killed)]:
        process.send_signal(signal.SIGKILL)
    wait_for(lambda: (state := supervisor.states()[program]).state == "RUNNING" and state.pid != killed, 60)
    stack.headgate("up")


def test_a_release_from_the_terminal(stack, models, tmp_path):
    file = tmp_path / "release.yaml"
    stack.headgate("init", str(models("pyfunc", does="double")), "--model", "cli", "--file", str(file))
    planned = stack.json("plan", str(file))
    assert [step["name"] for step in planned["steps"]] == ["package", "register", "deploy", "smoke", "promote"]

    released = stack.headgate("release", str(file), "--json", "--release-id", "cli-1")
    assert json.loads(released.stdout)["outcome"] == "promoted"
    assert released.stdout.count("\n") == 1, "stdout holds the result and nothing else"
    assert "phase deployed: v1-" in released.stderr

    file.write_text(GOOD.format(tmp_path / "nothing").replace("wine", "cli"))
    failed = stack.headgate("release", str(file), "--json", expect=1)
    assert json.loads(failed.stdout)["outcome"] == "failed"
    assert "fix: name the folder" in failed.stderr
    assert "Traceback" not in failed.stderr

    shown = stack.json("status", "cli")["endpoints"][0]
    assert (shown["champion"]["version"], shown["in_flight"], shown["holder"]) == ("cli@v1", None, None)
    assert [(r["weight"], r["ready"]) for r in shown["revisions"]] == [(10_000, True)]
    said = stack.headgate("status", "cli").stdout
    assert "cli@v1" in said
    # What people copy works as it is.
    curl = shlex.split(next(line for line in said.splitlines() if "to ask it: " in line).partition("to ask it: ")[2])
    assert curl[:4] == ["curl", "-H", "Content-Type: application/json", "-d"]
    asked = http.post(curl[5], content=curl[4], headers={"content-type": "application/json"})
    assert (asked.status_code, asked.json()) == (200, {"predictions": [{"x": 2.0}]})
    assert [reign["release_id"] for reign in stack.json("history", "cli")] == ["cli-1"]
    assert "every hash matches" in stack.headgate("history", "cli", "--all").stdout
    assert stack.headgate("rollback", "cli", "--reason", "x", expect=1).stderr.count("no earlier version") == 1


def test_a_history_moves_to_another_machine_and_its_version_is_served_there(stack, models, tmp_path):
    from deploy_targets.local import LocalTarget
    from registry import history
    from registry.journal import open_journal

    file, moved = tmp_path / "release.yaml", tmp_path / "moved.jsonl"
    # Content of its own, whose bundle no other endpoint needs.
    model = shutil.copytree(models("pyfunc", does="double"), tmp_path / "model")
    (model / "note.txt").write_text("moving")
    file.write_text(GOOD.format(model).replace("wine", "moving"))
    stack.headgate("release", str(file))
    assert "rows of moving are in" in stack.headgate("export", "moving", "-o", str(moved)).stderr
    assert json.loads(moved.read_text().splitlines()[0])["aliases"] == {"champion": 1}
    assert stack.json("import", str(moved))["new"] == 0

    # As on another machine: nothing of the endpoint, and nothing of its files.
    LocalTarget(stack.home).delete("moving")
    with open_journal(stack.home.journal_url) as journal:
        bundle = history.champion(journal, "moving").revision.image.path
    away = bundle.rename(bundle.with_name(f"{bundle.name}-away"))
    try:
        found = stack.json("reconcile", "moving")
        assert "is gone" in found[0]["problem"]
        assert "packaged again" in stack.headgate("history", "moving", "--all").stdout
        assert stack.json("reconcile", "moving") == []
    finally:
        shutil.rmtree(away) if bundle.exists() else away.rename(bundle)

    moved.write_text(moved.read_text().replace("promoted", "Promoted", 1))
    assert "does not match its hash" in stack.headgate("import", str(moved), expect=1).stderr
    assert "no endpoint nowhere" in stack.headgate("export", "nowhere", expect=2).stderr


def test_ctrl_c_takes_a_release_back_at_once(stack, models, tmp_path):
    file = tmp_path / "release.yaml"
    file.write_text(GOOD.format(models("pyfunc", does="hang")).replace("wine", "interrupted"))
    with subprocess.Popen(
        [HEADGATE, "release", str(file)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HEADGATE_HOME": str(stack.root)},
    ) as process:
        shown = ""
        while "deploying" not in shown:
            line = process.stderr.readline()
            assert line, f"it has ended: {shown}"
            shown += line
        process.send_signal(signal.SIGINT)
        shown += process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "phase undone: nothing is live" in shown
    assert "headgate: interrupted" in shown
    states = stack.headgate("status", "interrupted").stdout
    assert "nothing is live" in states


def test_progress_is_live_on_a_terminal(stack, models, tmp_path):
    file = tmp_path / "release.yaml"
    file.write_text(GOOD.format(models("pyfunc", does="double")).replace("wine", "tty"))
    master, slave = pty.openpty()
    with subprocess.Popen(
        [HEADGATE, "release", str(file)], stdout=subprocess.DEVNULL, stderr=slave,
        env={**os.environ, "HEADGATE_HOME": str(stack.root), "TERM": "xterm"},
    ) as process:  # fmt: skip
        os.close(slave)
        shown = b""
        try:
            while chunk := os.read(master, 65536):
                shown += chunk
        except OSError:
            # The terminal's other end is closed when the command has ended.
            assert process.wait(30) == 0, shown.decode()
    os.close(master)
    assert b"\x1b[" in shown
    assert b"is champion" in shown


def test_replay_tells_what_a_policy_is_worth(tmp_path):
    done = headgate(
        "replay", "--canary", "20%", "--replications", "10", "--minutes", "10", "--compare", "--json",
        "--plot", str(tmp_path / "plot.svg"), root=tmp_path,
    )  # fmt: skip
    ours, *others = json.loads(done.stdout)
    assert (ours["rule"], ours["detection"], ours["false_rollback"]) == ("headgate", 1.0, 0.0)
    assert ours["bad_requests"] < min(rule["bad_requests"] or 1e9 for rule in others)
    assert (tmp_path / "plot.svg").stat().st_size > 1000


def test_replay_of_a_world_by_its_name(called):
    arguments = ("--replications", "10", "--minutes", "2")
    (named,) = json.loads(called("replay", "--world", "clean-1%", *arguments, "--json").out)
    same = ("--stable", "1%", "--canary", "20%", "--seed", "202")
    (described,) = json.loads(called("replay", *same, *arguments, "--json").out)
    # The judge knows the past of a named world by second and server, which changes its bets.
    assert named.pop("bad_requests") == pytest.approx(described.pop("bad_requests"), abs=2)
    assert named == described
    assert "clean-1%: 1% -> 20% of requests fail" in called("replay", "--world", "clean-1%", *arguments).out


def test_replay_of_a_file_of_counts(tmp_path, called):
    file = tmp_path / "counts.csv"
    file.write_text(
        "seconds,stable_requests,stable_failures,canary_requests,canary_failures\n"
        + "".join(f"{second},{100 * second},0,{5 * second},{second}\n" for second in range(1, 60))
    )
    (verdict,) = json.loads(called("replay", "--counts", str(file), "--json").out)
    assert (verdict["phase"], verdict["bad"]) == ("rollback", verdict["seconds"])
    assert "rolled back" in called("replay", "--counts", str(file)).out


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--counts", "nowhere.csv"], 1, "cannot be read"),
        (["--release", "nothing"], 2, "no release nothing shifted live traffic"),
        (["--release", "a", "--counts", "b.csv"], 2, "two records"),
        (["--canary", "0.1%"], 2, "say what is wrong with the canary"),
        (["--world", "tron-1s-1.0%"], 2, "one of clean-0.1%"),
        (["--world", "clean-1%", "--rate", "20"], 2, "--world clean-1% and --rate: a world has its own"),
        (["--canary", "lots"], 2, "a percentage is a number with its sign"),
        (["--plot", "picture.txt"], 2, "no picture"),
    ],
)
def test_replay_refuses_what_cannot_be(tmp_path, called, monkeypatch, arguments, code, says):
    monkeypatch.chdir(tmp_path)
    said = called("replay", *arguments, expect=code).err
    assert says in said
    assert "Traceback" not in said
