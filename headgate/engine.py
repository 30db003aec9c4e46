"""Asks the local stack's engine to carry something out, in a process that has everything imported already.

Importing Prefect, MLflow and the flows takes seconds, so the stack keeps a process that has them (`flows.engine`) and
is forked for each flow run and command. Where there is none, what was asked for is done where it was asked for.

To everybody else the two processes are one: streams, folder and environment are the asking one's, signals are passed
on, and whoever kills one kills the other.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import IO, NoReturn

SOCKET = Path("supervisor") / "engine.sock"
"""In HEADGATE_HOME."""

SWITCH = "HEADGATE_ENGINE"
"""`off` in the environment of a process that is to do everything itself."""

GO = b"go\n"

_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_ANSWER_SECONDS = 10.0


def carry_out(home: Path, *what: str) -> int | None:
    """Have the engine do something, and wait until that is done.

    Args:
        home: HEADGATE_HOME.
        what: `headgate` and its arguments, or `prefect.engine`.

    Returns:
        The exit code; None where there is no engine, or it is another installation's.
    """
    if os.environ.get(SWITCH) == "off":
        return None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_ANSWER_SECONDS)
        try:
            connection.connect(str(home / SOCKET))
            socket.send_fds(connection, [b"\n"], [0, 1, 2])
            asked = {
                "what": what, "env": dict(os.environ), "folder": str(Path.cwd()), "umask": _umask(),
                "installation": sys.prefix,
            }  # fmt: skip
            connection.sendall(json.dumps(asked).encode() + b"\n")
            answers = connection.makefile("rb")
            pid = int(answers.readline())
            # Not before: one that is late finds nobody here any more, and ends.
            connection.sendall(GO)
        except (OSError, ValueError):
            return None
        connection.settimeout(None)
        return _follow(pid, answers)


def _umask() -> int:
    """It can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _follow(pid: int, answers: IO[bytes]) -> int:
    """Pass signals on, and end as the process does."""
    sent = [signal.SIGKILL]

    def forward(number: int, _frame: object) -> None:
        sent.append(signal.Signals(number))
        _send(pid, number)

    def stop(_number: int, _frame: object) -> None:
        _send(pid, signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)

    for number in _FORWARDED:
        signal.signal(number, forward)
    signal.signal(signal.SIGTSTP, stop)
    signal.signal(signal.SIGCONT, lambda number, _frame: _send(pid, number))
    code = answers.readline().strip()
    return int(code) if code else _die_of(sent[-1])


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _die_of(number: signal.Signals) -> NoReturn:
    """It said nothing when it ended, so a signal ended it."""
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    raise AssertionError(number)
