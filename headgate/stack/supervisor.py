"""supervisord as this project uses it: one configuration file a program, talked to over a Unix socket.

Source of the calls: supervisor's XML-RPC API, http://supervisord.org/api.html.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import xmlrpc.client
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from supervisor import xmlrpc as supervisor_rpc
from tenacity import retry, retry_if_exception, retry_if_exception_type, stop_after_delay, wait_fixed

from headgate.errors import HomeError, TargetError, TargetUnavailableError
from headgate.home import Home, require_short, write_atomically
from headgate.safe_path import clean, python
from headgate.stack import launch
from headgate.stack.sockets import Sockets

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_NO_SUCH_PROGRAM = 10  # supervisor.xmlrpc.Faults.BAD_NAME
_STILL_RUNNING = 91  # supervisor.xmlrpc.Faults.STILL_RUNNING
_ALREADY_ADDED = 90  # supervisor.xmlrpc.Faults.ALREADY_ADDED

_NOT_IN_PATHS = re.compile(r"[*?\[%\n\r]|\s[;#]")
"""Patterns, expansions (the paths of logs are expanded twice), ends of lines, and what begins a comment."""

SOCKET_PATH_BYTES = 98
"""Linux allows 107; supervisord adds its pid while it makes the socket."""

LOAD_FAILED = launch.LOAD_FAILED
"""A program that exits with this, or with 0, has said that starting it again will not help, unless it is `for_ever`."""


def _is_still_running(error: BaseException) -> bool:
    return isinstance(error.__cause__, xmlrpc.client.Fault) and error.__cause__.faultCode == _STILL_RUNNING


@dataclass(frozen=True)
class Program:
    """A process to keep running.

    Args:
        name: letters, digits, '-' and '_'.
        command: what to run, as a list.
        env: added to what it inherits.
        secrets: variables whose values launch.py reads at each start, by reference (headgate/references.py).
        inherits: patterns of the variables of supervisord's own environment that it gets.
        folder: where it runs.
        stop_seconds: how long it may take to end after SIGTERM.
        settle_seconds: one that ends sooner is started again ever more slowly.
        for_ever: whether it is started again however it ends, also with 0.
        most_files: whether it may have as many files open as this user may.
    """

    name: str
    command: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None
    stop_seconds: int = 10
    settle_seconds: int = 0
    inherits: Sequence[str] = ("*",)
    for_ever: bool = False
    most_files: bool = False
    secrets: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ProgramState:
    """What supervisord says about a program; `state` is one of its words, such as RUNNING or FATAL."""

    name: str
    state: str
    pid: int
    detail: str

    @property
    def has_ended(self) -> bool:
        """Whether supervisord has given it up."""
        return self.state in {"EXITED", "FATAL", "STOPPED"}


class Supervisor:
    """supervisord of one HEADGATE_HOME.

    Args:
        home: where its files are; the daemon need not be running.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._socket = home.supervisor / "supervisor.sock"

    def is_up(self) -> bool:
        """Whether supervisord answers."""
        try:
            with self._rpc() as rpc:
                rpc.supervisor.getState()
        except (OSError, http.client.HTTPException):
            return False
        return True

    def should_run(self) -> bool:
        """Whether `headgate up` was its last order; one that was killed leaves its pid behind."""
        return (self._home.supervisor / "supervisord.pid").exists()

    def start(self) -> None:
        """Start supervisord, and with it every program that it ran before, if it is not up.

        Raises:
            HomeError: it does not start.
        """
        if self.is_up():
            return
        require_short(self._socket, SOCKET_PATH_BYTES)
        if found := _NOT_IN_PATHS.search(str(self._home.root)):
            raise HomeError(
                f"HEADGATE_HOME, {self._home.root}, has {found[0]!r} in it, which supervisord cannot have in a path",
                fix="set HEADGATE_HOME to a path without *, ?, [, %, a line break, and ; or # after a space",
            )
        self.end_leftovers()
        self._write_main_file()
        done = subprocess.run(
            python("supervisor.supervisord", "-c", str(self._main_file)),
            capture_output=True, text=True, check=False, umask=0o077,
            env={**clean(), launch.SUPERVISED_BY: str(self._home.root)},
        )  # fmt: skip
        if done.returncode != 0:
            raise HomeError(
                f"supervisord does not start: {(done.stderr or done.stdout).strip()}",
                fix=f"read {self._home.logs / 'supervisord.log'}",
            )
        self._wait_until_up()

    def stop(self) -> None:
        """Stop every program and supervisord itself; returns when all have ended."""
        if self.is_up():
            self._shut_down()
        else:
            self.end_leftovers()
        # Servers that were killed have left theirs.
        Sockets(self._home).remove_all()

    def _shut_down(self) -> None:
        daemon = psutil.Process(self._call("getPID"))
        family = [daemon, *daemon.children(recursive=True)]
        self._call("shutdown")
        _, alive = psutil.wait_procs(family, timeout=40)
        for process in alive:
            process.kill()

    def ensure(self, program: Program) -> None:
        """Make supervisord run a program as it is described, restarting it only where that changed."""
        path, description = self._files(program.name)
        texts = {description: _description(program, self._home), path: _section(program, self._home, description)}
        states = self.states()
        unchanged = all(file.exists() and file.read_text(encoding="utf-8") == text for file, text in texts.items())
        if not unchanged:
            for file, text in texts.items():
                write_atomically(file, text, mode=0o600)
        state = states.get(program.name)
        if state is not None and unchanged:
            if state.has_ended:
                self._call("startProcess", program.name)
            return
        if state is not None:
            self._drop(program.name)
        self._call("reloadConfig")
        self._call("addProcessGroup", program.name, accept=_ALREADY_ADDED)

    def remove(self, name: str) -> None:
        """Stop a program and forget it; nothing happens when it is not there."""
        for file in self._files(name):
            file.unlink(missing_ok=True)
        if self.is_up():
            self._drop(name)
            self._call("reloadConfig")

    def states(self) -> dict[str, ProgramState]:
        """Every program by name; empty when supervisord is down."""
        if not self.is_up():
            return {}
        rows: list[dict[str, Any]] = self._call("getAllProcessInfo")
        return {
            row["name"]: ProgramState(
                name=row["name"], state=row["statename"], pid=row["pid"],
                detail=row["spawnerr"] or row["description"],
            )
            for row in rows
        }  # fmt: skip

    def environment(self, name: str) -> dict[str, str]:
        """What a program was given; empty where it is not known."""
        _, description = self._files(name)
        try:
            content: dict[str, dict[str, str]] = json.loads(description.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        return content["env"]

    def inherited(self) -> dict[str, str] | None:
        """Return the environment that supervisord was started with, that of `headgate up`; None when it is down."""
        if not self.is_up():
            return None
        return psutil.Process(self._call("getPID")).environ()

    def log_file(self, name: str) -> Path:
        """Where a program's output goes."""
        return self._home.logs / f"{name}.log"

    def log_tail(self, name: str, lines: int = 20) -> str:
        """The last lines that a program wrote."""
        try:
            text = self.log_file(name).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    @property
    def _main_file(self) -> Path:
        return self._home.supervisor / "supervisord.conf"

    def _files(self, name: str) -> tuple[Path, Path]:
        """What supervisord reads, and what launch.py reads."""
        folder = self._home.supervisor / "programs"
        return folder / f"{name}.conf", folder / f"{name}.json"

    def _rpc(self) -> Any:  # noqa: ANN401 - xmlrpc's proxy has no types
        transport = supervisor_rpc.SupervisorTransport(None, None, f"unix://{self._socket}")
        return xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport, allow_none=True)

    def _call(self, method: str, *arguments: object, accept: int = 0) -> Any:  # noqa: ANN401
        try:
            with self._rpc() as rpc:
                return getattr(rpc.supervisor, method)(*arguments)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode == accept:
                return None
            raise TargetError(f"supervisord refused {method}{arguments}: {fault.faultString}") from fault
        except (OSError, http.client.HTTPException) as error:
            raise TargetUnavailableError(
                f"supervisord of {self._home.root} does not answer", fix="headgate up"
            ) from error

    @retry(
        # A program that supervisord is just starting, or starting again, may run after it was told to stop.
        retry=retry_if_exception(_is_still_running), stop=stop_after_delay(20), wait=wait_fixed(0.05),
        reraise=True,
    )  # fmt: skip
    def _drop(self, name: str) -> None:
        self._call("stopProcessGroup", name, accept=_NO_SUCH_PROGRAM)
        self._call("removeProcessGroup", name, accept=_NO_SUCH_PROGRAM)

    @retry(
        retry=retry_if_exception_type(HomeError),
        stop=stop_after_delay(15),
        wait=wait_fixed(0.05),
        reraise=True,
    )
    def _wait_until_up(self) -> None:
        if not self.is_up():
            raise HomeError("supervisord started, but does not answer", fix="read logs/supervisord.log")

    def end_leftovers(self) -> list[int]:
        """End the programs of a supervisord that was killed: they still hold the stack's ports.

        Returns:
            Their pids.
        """
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(launch.SUPERVISED_BY) == str(self._home.root) and process.pid != os.getpid():
                    process.send_signal(signal.SIGTERM)
                    found.append(process)
            except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
        _, alive = psutil.wait_procs(found, timeout=15)
        for process in alive:
            process.kill()
        return [process.pid for process in found]

    def _write_main_file(self) -> None:
        folder = self._home.supervisor
        write_atomically(
            self._main_file,
            f"""; Written by headgate up.
[unix_http_server]
file = {_quoted(self._socket)}
chmod = 0700

[supervisord]
logfile = {_quoted(self._home.logs / "supervisord.log")}
pidfile = {_quoted(folder / "supervisord.pid")}
childlogdir = {_quoted(self._home.logs)}
directory = {_quoted(self._home.root)}
umask = 077

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface

[include]
; From this file's folder: supervisord takes a space in this line for the end of a pattern.
files = programs/*.conf
""",
        )


def _description(program: Program, home: Home) -> str:
    """What launch.py needs to become the program."""
    content = {
        "command": [str(part) for part in program.command],
        "env": dict(program.env),
        **({"secrets": dict(program.secrets)} if program.secrets else {}),
        "inherits": list(program.inherits),
        "folder": str(program.folder or home.root),
        "most_files": program.most_files,
    }
    return json.dumps(content, indent=1)


def _section(program: Program, home: Home, description: Path) -> str:
    launcher = Path(__file__).with_name("launch.py")
    command = " ".join(shlex.quote(str(part)) for part in (sys.executable, "-I", launcher, description))
    return f"""; Written by headgate.
[program:{program.name}]
command = {_quoted(command)}
autostart = true
autorestart = {"true" if program.for_ever else "unexpected"}
exitcodes = 0,{LOAD_FAILED}
startsecs = {program.settle_seconds}
startretries = 1000000
stopsignal = TERM
stopwaitsecs = {program.stop_seconds}
stopasgroup = false
killasgroup = true
stdout_logfile = {_quoted(home.logs / f"{program.name}.log")}
stdout_logfile_maxbytes = 10MB
stdout_logfile_backups = 1
redirect_stderr = true
"""


def _quoted(text: object) -> str:
    """Supervisord expands % in its files."""
    return str(text).replace("%", "%%")
