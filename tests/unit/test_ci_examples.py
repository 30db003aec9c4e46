"""The examples for CI run as GitHub and GitLab run them: each job ends as its release or its plan does.

A wheel takes Headgate's place, and is installed by the example's own command. What belongs to the platform has a
stand-in: the checkout, `gh`, GitLab's API, and ensurepip, which takes seconds.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import string
import subprocess
import sys
import zipfile
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import click
import pytest
import uv
import yaml

from headgate.cli import cli
from headgate.phases import EXIT_CODES

EXAMPLES = Path(__file__).parents[2] / "examples" / "ci"
SYSTEM = "/usr/local/bin:/usr/bin:/bin"
PIP = Path(pytest.importorskip("pip").__file__).parent
ENDS = {code: outcome.value for outcome, code in EXIT_CODES.items()}
WELL = {"validate": 0, "plan": 0, "release": 0}

HEADGATE = """
import json, sys

def main():
    command, path, *options = sys.argv[1:]
    with open(path) as file:
        wanted = json.load(file)
    if command == "plan":
        print("│ shift │ 5%, 25% │", flush=True)
        print("note: the image is built", file=sys.stderr)
    elif command == "release":
        assert {"--watch", "--json"} <= set(options)
        print("03:30:49    phase started", file=sys.stderr)
        if wanted.get("result"):
            print(json.dumps(wanted["result"]))
    if wanted[command]:
        print(f"headgate: {command} failed", file=sys.stderr)
    sys.exit(wanted[command])
"""

# What `python3 -m venv` does, with the pip that tests have in place of ensurepip's.
PYTHON = """#!/bin/sh
python={python}
[ "$1 $2" = "-m venv" ] || exec "$python" "$@"
set -e
"$python" -m venv --without-pip "$3"
ln -s {pip} "$3"/lib/python3.*/site-packages/
printf '#!/bin/sh\\nexec "%s/bin/python3" -m pip "$@"\\n' "$3" > "$3/bin/pip"
chmod +x "$3/bin/pip"
"""

GH = """#!/bin/sh
set -e
[ "$GH_TOKEN" = "github.token" ]
[ "$1 $2 $3" = "pr comment 12" ]
[ {status} = 201 ]
while [ "$1" != --body-file ]; do shift; done
cat "$2" > {posted}
"""

# Serves GitLab's API while a command runs.
GITLAB = """
import http.server, json, os, subprocess, sys, threading

class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        known = self.path == "/api/v4/projects/3/merge_requests/12/notes" and self.headers["private-token"] == "token"
        if known and {status} == 201:
            with open("{posted}", "w") as file:
                file.write(json.loads(body)["body"])
        self.send_response({status} if known else 404)
        self.end_headers()

    do_GET = do_POST

server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
api = f"http://127.0.0.1:{{server.server_port}}/api/v4"
sys.exit(subprocess.run(sys.argv[1:], env={{**os.environ, "CI_API_V4_URL": api}}).returncode)
"""


@dataclass
class Job:
    """What is left of a job when it has ended, and what a person sees of it."""

    succeeded: bool = True
    log: str = ""
    summary: str = ""
    posted: str = ""
    artifacts: dict[str, str] = field(default_factory=dict)


def make_wheel(folder: Path, name: str, version: str, requires: tuple[str, ...] = (), code: str = "") -> Path:
    info, path = f"{name}-{version}.dist-info", folder / f"{name}-{version}-py3-none-any.whl"
    needs = "".join(f"Requires-Dist: {one}\n" for one in requires)
    extras = "Provides-Extra: postgresql\nProvides-Extra: parquet\n"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{name}.py", code)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}{extras}")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
        if code:
            wheel.writestr(f"{info}/entry_points.txt", f"[console_scripts]\nheadgate = {name}:main\n")
    return path


@dataclass
class Machine:
    """A folder with stand-ins, and where processes start that see nothing else: here, or in a container of an image."""

    folder: Path
    image: str = ""

    def __post_init__(self):
        self.checkout, self.stand_ins = self.folder / "checkout", self.folder / "stand-ins"
        self.posted = self.folder / "posted"
        self.wheels = self.folder / "wheels"
        for folder in (self.checkout, self.stand_ins, self.wheels):
            folder.mkdir(parents=True)
        # As with pandas: what one package pins, another one wants with an extra.
        needs = ("frames<2", "drift")
        self.wheel = make_wheel(self.wheels, "headgate_ml", "0.1.0", needs, HEADGATE)
        make_wheel(self.wheels, "drift", "1.0", ("frames[parquet]>=1",))
        make_wheel(self.wheels, "frames", "1.0")
        make_wheel(self.wheels, "frames", "2.0")
        python = f"$(PATH={SYSTEM}; command -v python3)" if self.image else shlex.quote(sys._base_executable)
        self.write("python3", PYTHON.format(python=python, pip=shlex.quote(str(PIP))))

    def write(self, name: str, text: str) -> None:
        path = self.stand_ins / name
        path.write_text(text)
        path.chmod(0o755)

    def new(self, wanted: dict, requirements: str, status: int) -> None:
        """A checkout, as a runner makes it; an environment that an earlier job installed is still there."""
        for one in self.checkout.iterdir():
            if not (one / "pyvenv.cfg").exists():
                one.unlink()
        (self.checkout / "release.yaml").write_text(json.dumps(wanted))
        (self.checkout / "requirements-headgate.txt").write_text(requirements)
        self.posted.unlink(missing_ok=True)
        self.write("gh", GH.format(status=status, posted=self.posted))
        self.write("gitlab.py", GITLAB.format(status=status, posted=self.posted))

    def run(self, command: list[str], environment: dict[str, str], job: Job) -> bool:
        given = {
            "PATH": f"{self.stand_ins}:{SYSTEM}", "HOME": self.folder, "CI": "true", "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": self.wheels, **environment,
        }  # fmt: skip
        line = ["env", "-i", *(f"{name}={value}" for name, value in given.items()), *command]
        if self.image:
            line = [
                "docker", "run", "--rm", "--network=none", f"--user={os.getuid()}:{os.getgid()}",
                f"--volume={self.folder}:{self.folder}", f"--volume={PIP}:{PIP}:ro", f"--workdir={self.checkout}",
                self.image, *line,
            ]  # fmt: skip
        ended = subprocess.run(
            line, cwd=self.checkout, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        job.log += ended.stdout
        return ended.returncode == 0


class Runner:
    """What the runners of both platforms have in common."""

    name = ""

    def __init__(self, machine: Machine):
        self.machine = machine

    @cached_property
    def text(self) -> str:
        return (EXAMPLES / f"{self.name}.yml").read_text()

    @cached_property
    def requirements(self) -> str:
        """What the command writes that the example's head names."""
        head = re.findall(r"^#   (.*)$", self.text, re.MULTILINE)
        command = "\n".join(head).replace("https://files.acme.com/", f"file://{self.machine.wheels}/")
        assert str(self.machine.wheel) in command
        path = f"{Path(uv.find_uv_bin()).parent}:{SYSTEM}"
        made = self.machine.folder / "requirements"
        made.mkdir()
        config = made / "uv.toml"
        config.write_text(f'no-index = true\nfind-links = ["{self.machine.wheels}"]\n')
        environment = {"PATH": path, "HOME": str(made), "UV_CONFIG_FILE": str(config), "UV_OFFLINE": "1"}
        subprocess.run(["bash", "-c", command], cwd=made, env=environment, check=True)
        return (made / "requirements-headgate.txt").read_text()

    def run(self, job: str, wanted: dict, status: int = 201) -> Job:
        self.machine.new(wanted, self.requirements, status)
        ended = self.carry_out(job)
        if self.machine.posted.exists():
            ended.posted = self.machine.posted.read_text()
        return ended

    def carry_out(self, job: str) -> Job:
        raise NotImplementedError


class GitHub(Runner):
    """Runs the steps of a job, each in a shell of its own.

    https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-syntax has the command line of each
    shell, and https://docs.github.com/en/actions/reference/workflows-and-actions/variables the variables: RUNNER_TEMP
    is empty when a job begins, and each step has a summary file of its own.
    """

    name = "github"
    shells = {None: ["bash", "-e"], "bash": ["bash", "--noprofile", "--norc", "-eo", "pipefail"]}  # noqa: RUF012
    events = {"plan": "pull_request", "release": "push"}  # noqa: RUF012

    def __init__(self, machine: Machine):
        super().__init__(machine)
        self.temp, self.files = self.machine.folder / "temp", self.machine.folder / "files"
        self.temp.mkdir()
        self.installed: dict[str, list[str]] = {}

    def carry_out(self, job: str) -> Job:
        for one in self.temp.iterdir():
            if not one.is_dir():
                one.unlink()
        shutil.rmtree(self.files, ignore_errors=True)
        self.files.mkdir()
        workflow = yaml.safe_load(self.text)
        described = workflow["jobs"][job]
        assert described["if"] == f"github.event_name == '{self.events[job]}'"
        ended, paths = Job(), []
        for number, step in enumerate(described["steps"]):
            assert step.keys() <= {"name", "uses", "run", "env", "if", "shell"}, "a step has what is unknown here"
            assert step.get("if") in (None, "always()")
            if "uses" in step:
                assert step["uses"].startswith("actions/checkout@")
            elif ended.succeeded or "if" in step:
                shell = step.get("shell", workflow.get("defaults", {}).get("run", {}).get("shell"))
                environment = {**workflow["env"], **described.get("env", {}), **step.get("env", {})}
                self.step(number, step["run"], self.shells[shell], environment, paths, ended)
        ended.summary = "".join(file.read_text() for file in sorted(self.files.glob("summary-*")))
        return ended

    def step(
        self, number: int, text: str, shell: list[str], environment: dict[str, str], paths: list[str], job: Job
    ) -> None:  # fmt: skip
        if text in self.installed:
            paths[:0] = self.installed[text]
            return
        script, path, summary = (self.files / f"{kind}-{number}" for kind in ("script", "path", "summary"))
        script.write_text(self.filled(text))
        given = {name: self.filled(value) for name, value in environment.items()}
        given |= {
            "GITHUB_ACTIONS": "true", "GITHUB_WORKSPACE": self.machine.checkout, "RUNNER_TEMP": self.temp,
            "GITHUB_PATH": path, "GITHUB_STEP_SUMMARY": summary,
            "PATH": ":".join([*paths, str(self.machine.stand_ins), SYSTEM]),
        }  # fmt: skip
        for file in (path, summary):
            file.touch()
        job.succeeded &= self.machine.run([*shell, str(script)], given, job)
        added = path.read_text().split()
        paths[:0] = added
        if added and job.succeeded:
            self.installed[text] = added

    @staticmethod
    def filled(text: str) -> str:
        known = {"github.event.number": "12"}
        return re.sub(r"\$\{\{ ([\w.]+) \}\}", lambda found: known.get(found[1], found[1]), text)


class GitLab(Runner):
    """Runs before_script and script in one shell, then after_script in another one.

    As shells/bash.go and shells/abstract.go of https://gitlab.com/gitlab-org/gitlab-runner write them: errexit, and
    pipefail where the shell has it; each command after an `echo` of it; all of it given to `eval`, without input. A
    container's shell is bash, and sh where the image has no bash. after_script changes no job's result
    (https://docs.gitlab.com/ci/yaml/#after_script), nor does an artifact that is not there.
    """

    name = "gitlab"
    shell = "bash"

    def __init__(self, machine: Machine):
        super().__init__(machine)
        self.state = self.machine.folder / "state"
        self.installed: list[str] = []

    def carry_out(self, job: str) -> Job:
        config = yaml.safe_load(self.text)
        described = {**config[config[job]["extends"]], **config[job]}
        unknown = described.keys() - {"extends", "rules", "resource_group", "timeout"}
        assert unknown <= {"before_script", "script", "after_script", "artifacts"}, "a job has what is unknown here"
        ended, before = Job(), described["before_script"]
        if self.state.exists() and before == self.installed:
            before = [f". {self.state}"]
        self.installed = described["before_script"]
        keep = f'{{ echo "export PATH=$PATH"; set +o; }} > {self.state}'
        ended.succeeded = self.stage([*before, keep, *described["script"]], config["variables"], ended)
        if "after_script" in described:
            self.stage(described["after_script"], config["variables"], ended)
        artifacts = described.get("artifacts", {})
        if ended.succeeded or artifacts.get("when") == "always":
            found = [self.machine.checkout / name for name in artifacts.get("paths", [])]
            ended.artifacts = {path.name: path.read_text() for path in found if path.exists()}
        return ended

    def stage(self, commands: list[str], variables: dict[str, str], job: Job) -> bool:
        known = {"GITLAB_USER_LOGIN": "ann"}
        given = {name: string.Template(value).substitute(known) for name, value in variables.items()}
        given |= {
            "GITLAB_CI": "true", "CI_PROJECT_DIR": self.machine.checkout, "CI_PROJECT_ID": "3",
            "CI_MERGE_REQUEST_IID": "12", "GITLAB_API_TOKEN": "token",
        }  # fmt: skip
        told = [f"echo {shlex.quote('$ ' + command.splitlines()[0])}" for command in commands]
        lines = [line for pair in zip(told, commands, strict=True) for line in pair]
        script = self.machine.folder / "script"
        script.write_text(
            "(set -o pipefail) 2> /dev/null && set -o pipefail\nset -o errexit\n"
            f": | eval {shlex.quote(chr(10).join(lines))}\nexit 0\n"
        )
        command = [self.shell, str(script)]
        if "CI_API_V4_URL" in script.read_text():
            command = ["python3", str(self.machine.stand_ins / "gitlab.py"), *command]
        return self.machine.run(command, given, job)


class GitLabSh(GitLab):
    """The same where the image has no bash: Debian's sh knows no pipefail."""

    shell = "dash"


RUNNERS = [GitHub, GitLab, GitLabSh]


@pytest.fixture(scope="module", params=RUNNERS)
def runner(request, tmp_path_factory) -> Runner:
    if request.param is GitLabSh and not shutil.which("dash"):
        pytest.skip("this machine has no dash")
    return request.param(Machine(tmp_path_factory.mktemp("machine")))


@pytest.fixture(params=[GitHub, GitLab])
def new_runner(request, tmp_path) -> Runner:
    return request.param(Machine(tmp_path / "machine"))


def released(code: int) -> dict:
    result = {"release_id": "wine-1", "outcome": ENDS[code], "reason": "shadow: 35 of 49 *answers* differ"}
    return {**WELL, "release": code, "result": result}


def shown(job: Job) -> str:
    """What is to be read without opening a step or an artifact."""
    return job.summary or job.log


@pytest.mark.parametrize("code", ENDS)
def test_a_job_ends_as_its_release_does(runner, code):
    wanted = released(code)
    job = runner.run("release", wanted)
    assert job.succeeded is (code == 0), job.log
    result = json.dumps(wanted["result"])
    assert result in shown(job).splitlines(), shown(job)
    assert "phase started" in job.log
    if runner.name == "gitlab":
        assert job.artifacts == {"result.jsonl": result + "\n"}


@pytest.mark.parametrize("code", [1, 2, 5])
def test_a_release_without_a_result_fails_and_the_job_says_so(runner, code):
    job = runner.run("release", {**WELL, "release": code})
    assert not job.succeeded
    assert "headgate: release failed" in job.log
    assert "The release wrote no result" in shown(job).splitlines()[-1]


def test_a_plan_is_posted_with_its_notes(runner):
    job = runner.run("plan", WELL)
    assert job.succeeded, job.log
    assert job.posted == (
        "### What merging this releases\n```\n│ shift │ 5%, 25% │\nnote: the image is built\n```\n"
    )  # fmt: skip


@pytest.mark.parametrize("command", ["validate", "plan"])
def test_a_plan_that_fails_is_shown_and_not_posted(runner, command):
    job = runner.run("plan", {**WELL, command: 2})
    assert not job.succeeded
    assert job.posted == ""
    assert f"headgate: {command} failed" in job.log
    assert ("│ shift │ 5%, 25% │" in job.log) is (command == "plan")


@pytest.mark.parametrize("status", [200, 403])
def test_a_job_fails_where_the_plan_cannot_be_posted(runner, status):
    job = runner.run("plan", WELL, status)
    assert not job.succeeded
    assert job.posted == ""


def test_a_wheel_with_another_hash_is_refused(new_runner):
    assert "--hash=sha256:" in new_runner.requirements
    make_wheel(new_runner.machine.wheels, "headgate_ml", "0.1.0", (), HEADGATE + "# changed\n")
    job = new_runner.run("release", released(0))
    assert not job.succeeded
    assert "THESE PACKAGES DO NOT MATCH THE HASHES" in job.log
    assert "The release wrote no result" in shown(job).splitlines()[-1]


@pytest.mark.parametrize("name", ["github", "gitlab"])
def test_every_job_installs_by_hash(name):
    found = re.findall(r"pip\"? (install .*)", (EXAMPLES / f"{name}.yml").read_text())
    assert set(found) == {"install --no-deps --require-hashes -r requirements-headgate.txt"}


@pytest.mark.parametrize("kind", [GitHub, GitLab])
def test_a_container_ends_a_job_in_the_same_way(kind, docker_base, tmp_path):
    runner = kind(Machine(tmp_path / "machine", docker_base))
    rejected = runner.run("release", released(3))
    assert not rejected.succeeded
    assert json.dumps(released(3)["result"]) in shown(rejected).splitlines(), rejected.log
    planned = runner.run("plan", WELL)
    assert planned.succeeded, planned.log
    assert "note: the image is built" in planned.posted


@pytest.mark.parametrize("name", ["github", "gitlab"])
def test_the_command_line_knows_what_the_examples_give_it(name):
    text = (EXAMPLES / f"{name}.yml").read_text()
    found = re.findall(r"headgate ((?:validate|plan|release) .*?)(?: *(?:\d?>|[|&;]).*)?$", text, re.MULTILINE)
    assert {line.split()[0] for line in found} == {"validate", "plan", "release"}
    for line in found:
        command, *arguments = shlex.split(line)
        context = click.Context(cli)
        cli.get_command(context, command).make_context(command, arguments, parent=context)
