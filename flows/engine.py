"""Keeps Prefect, MLflow and the flows imported, forked for each flow run and command: `python -P -m flows.engine`.

A process then begins in some milliseconds, and not after seconds of importing; `headgate.engine` is what asks for one.
The pages that hold the modules are shared by all of them.

A process that is forked has no other threads, so this one has none of Python's. It ends once a module has changed on
disk, to be started anew by its supervisor.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import pkgutil
import runpy
import signal
import socket
import sys
import threading
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import flows
from headgate.cli import COMMANDS
from headgate.cli import main as command_line
from headgate.engine import GO, SOCKET, SWITCH
from tasks.prefect_settings import read_again

STALE = os.EX_TEMPFAIL
_BACKLOG = 64
_LATER = (
    "deploy_targets.local.target", "images", "mlflow.pyfunc", "mlflow.tracking", "monitoring.rollout",
    "monitoring.shadow", "monitoring.truth", "prefect.flow_engine", "prefect.task_engine", "registry.portable",
    "tasks.foresee", "tasks.truth", "tasks.upkeep",
    *(f"headgate.cli.{module}" for module in sorted({module for module, _ in COMMANDS.values()})),
)  # fmt: skip
"""What the flows and the commands import only when they need it."""
_NOT_BEFORE = {"engine", "monitor_all"}
"""This one; and the one that reads HEADGATE_TASK_RUNNER, of whoever asks, when it is imported."""
_PROJECT = Path(flows.__file__).parents[1]


@dataclass
class _Ending:
    """What a forked process says when it is over."""

    connection: socket.socket | None = None
    code: int = 1


def main() -> int:
    """Fork until a module has changed on disk."""
    ending = _Ending()
    # What is registered first is called last: when nothing else is left to do.
    atexit.register(_tell, ending)
    _import_all()
    changed = _Modules()
    path = Path(os.environ["HEADGATE_HOME"]) / SOCKET
    path.unlink(missing_ok=True)
    # Nobody waits for the processes here.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    gc.collect()
    gc.freeze()
    asking = _wait_for_someone(path, changed)
    return STALE if asking is None else _carry_out(asking, ending)


def _wait_for_someone(path: Path, changed: _Modules) -> socket.socket | None:
    """Fork for each that asks: in the forked process, the connection to who did; None here, once a module changed."""
    here = os.getpid()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
            server.bind(str(path))
            path.chmod(0o600)
            server.listen(_BACKLOG)
            while True:
                connection, _ = server.accept()
                if changed:
                    connection.close()
                    return None
                if os.fork() == 0:
                    return connection
                connection.close()
    finally:
        if os.getpid() == here:
            path.unlink(missing_ok=True)


def _import_all() -> None:
    names = {module.name for module in pkgutil.iter_modules(flows.__path__)} - _NOT_BEFORE
    for name in (*_LATER, *(f"flows.{name}" for name in sorted(names))):
        importlib.import_module(name)
    if (others := threading.active_count() - 1) > 0:
        raise RuntimeError(f"{others} threads run after the imports, so this process cannot be forked")


def _carry_out(connection: socket.socket, ending: _Ending) -> int:
    """In the forked process: become what the asking process would have been."""
    os.setsid()
    for handled in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(handled, signal.SIG_DFL)
    _, streams, _, _ = socket.recv_fds(connection, 1, 3)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    requests = connection.makefile("rb")
    asked = json.loads(requests.readline())
    if asked["installation"] != sys.prefix:
        return 1
    os.environ.clear()
    os.environ.update(asked["env"])
    os.chdir(asked["folder"])
    os.umask(asked["umask"])
    sys.stdout.reconfigure(line_buffering=os.isatty(1))  # type: ignore[union-attr]
    connection.sendall(f"{os.getpid()}\n".encode())
    if requests.readline() != GO:
        return 1
    threading.Thread(target=_end_with, args=(requests,), daemon=True).start()
    ending.connection = connection
    ending.code = _run(*asked["what"])
    return ending.code


def _run(what: str, *arguments: str) -> int:
    sys.argv = [what, *arguments]
    try:
        if what == "headgate":
            # A command that asks Prefect reads its settings itself, once it has set them: headgate/cli/environment.py.
            os.environ[SWITCH] = "off"
            command_line()
        else:
            read_again()
            sys.modules.pop(what, None)
            runpy.run_module(what, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # noqa: BLE001 - as the interpreter does at its end
        traceback.print_exc()
        return 1
    return 0


def _end_with(requests: IO[bytes]) -> None:
    """Whoever asked is gone, and so is this process."""
    requests.read()
    os.kill(os.getpid(), signal.SIGKILL)


def _tell(ending: _Ending) -> None:
    if ending.connection is not None:
        # The process that reads the code ends, and this one with it.
        sys.stdout.flush()
        sys.stderr.flush()
        ending.connection.sendall(f"{ending.code}\n".encode())
        # The interpreter would take apart module by module what it shares with the engine, and copy it all for that.
        os._exit(ending.code)


class _Modules:
    """Whether what was imported is no longer what is on disk."""

    def __init__(self) -> None:
        files = {Path(file) for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None))}
        ours = {file for file in files if file.is_relative_to(_PROJECT) and "site-packages" not in file.parts}
        # A folder of packages changes when one is installed or removed.
        places = {Path(place) for place in sys.path if Path(place).name == "site-packages"}
        self._known = {path: _changed_at(path) for path in ours | places}

    def __bool__(self) -> bool:
        return any(_changed_at(path) != known for path, known in self._known.items())


def _changed_at(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


if __name__ == "__main__":
    sys.exit(main())
