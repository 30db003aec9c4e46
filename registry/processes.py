"""Processes by a name that no other process has, so that who reads a lease can tell whether its holder lives.

A name is `host:pid#machine.start`. What follows the `#` tells this process from a later one of the same number, and
this machine from another of the same name (boot and pid namespace). It is known on Linux; elsewhere a name ends with
the pid, and only time tells. Source: proc(5), /proc/pid/stat fields 3 and 22; namespaces(7).
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

_PROC = Path("/proc")
_STATE, _START = 0, 19
"""Places in /proc/pid/stat after the command's name, which may hold spaces."""


def this_process() -> str:
    """How this process is named in a lease."""
    name, found = f"{socket.gethostname()}:{os.getpid()}", _read(os.getpid())
    return f"{name}#{_machine()}.{found[_START]}" if found else name


def label(name: str) -> str:
    """The part of a name that people know a process by."""
    return name.partition("#")[0]


def is_known_dead(name: str) -> bool:
    """Whether a process has ended; False also where that cannot be seen from here."""
    shown, _, identity = name.partition("#")
    machine, _, start = identity.rpartition(".")
    if not machine or machine != _machine():
        return False
    found = _read(int(shown.rpartition(":")[2]))
    # One that was killed stays a zombie until its parent asks; it does nothing any more.
    return found is None or found[_STATE] in "ZX" or found[_START] != start


def _read(pid: int) -> list[str] | None:
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()


def _machine() -> str:
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii")
        return f"{boot[:8]}-{(_PROC / 'self/ns/pid').stat().st_ino}"
    except OSError:
        return ""
