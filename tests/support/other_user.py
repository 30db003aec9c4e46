"""Do something as another user of the machine: in a forked process that has become `nobody`."""

from __future__ import annotations

import json
import os
import pwd
import socket
import stat
import sys
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

USER = "nobody"
_SECONDS = 20


def as_nobody(call: Callable[[], Any]) -> Any:
    """Return what a call returns, as JSON has it, in a process of user `nobody`.

    A fork, as that user may not be allowed to run this interpreter.
    """
    assert os.geteuid() == 0, f"this test becomes user {USER}, which only root can: run it as root"
    user = pwd.getpwnam(USER)
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reads)
            os.setgroups([])
            os.setgid(user.pw_gid)
            os.setuid(user.pw_uid)
            with os.fdopen(writes, "w") as pipe:
                json.dump(call(), pipe)
            os._exit(0)
        except BaseException as error:  # noqa: BLE001 - it is told, and the tests do not go on in two processes
            sys.__stderr__.write(f"as {USER}: {error!r}\n")
            os._exit(1)
    os.close(writes)
    with os.fdopen(reads) as pipe:
        told = pipe.read()
    _, status = os.waitpid(child, 0)
    assert status == 0, f"the process of user {USER} ended with {status}"
    return json.loads(told)


def connected(paths: Iterable[str]) -> list[str]:
    """Return the Unix sockets that take a connection."""
    return [path for path in paths if _connects(path)]


def _connects(path: str) -> bool:
    # psutil writes the name of an abstract socket, which has no file and no mode, with an @.
    name = "\0" + path[1:] if path.startswith("@") else path
    for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_UNIX, kind) as client:
            client.settimeout(_SECONDS)
            try:
                client.connect(name)
            except PermissionError:
                return False
            except OSError:
                # Of another kind, or nobody listens there.
                continue
            return True
    return False


def read(paths: Iterable[str]) -> list[str]:
    """Return the files and folders that can be looked into."""
    return [path for path in paths if _reads(path)]


def _reads(path: str) -> bool:
    try:
        if stat.S_ISDIR(os.stat(path).st_mode):  # noqa: PTH116 - plain calls in a forked process
            os.listdir(path)  # noqa: PTH208
            return True
        with open(path, "rb") as file:  # noqa: PTH123
            file.read(1)
    except OSError:
        return False
    return True


def asked(port: int, method: str, path: str, body: str = "") -> int:
    """Return the status of a request without a password; 0 where no HTTP is spoken."""
    connection = HTTPConnection("127.0.0.1", port, timeout=_SECONDS)
    try:
        connection.request(method, path, body, {"content-type": "application/json"} if body else {})
        return connection.getresponse().status
    except (OSError, HTTPException):
        return 0
    finally:
        connection.close()


@contextmanager
def modes(changed: dict[Path, int]) -> Iterator[None]:
    """Give folders other modes for a while."""
    before = {path: stat.S_IMODE(path.stat().st_mode) for path in changed}
    try:
        for path, mode in changed.items():
            path.chmod(mode)
        yield
    finally:
        for path, mode in before.items():
            path.chmod(mode)
