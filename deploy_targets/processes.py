"""What processes on this machine use, as /proc has it."""

from __future__ import annotations

from pathlib import Path

import psutil

from headgate.records import Usage


def usage_of(pid: int, *, container: str = "") -> Usage | None:
    """Return what a server's process and its children use; None where it has ended.

    A page that several of them have is counted for each. A worker that the server puts in another's place counts as a
    server that was started again, as its process is another one. A second worker is left out until it has loaded the
    model, so that the memory of the server and the number of its processes change in one reading.

    Args:
        pid: the server's.
        container: its container's id; None is returned where /proc knows the process by another, as it does where
            Headgate itself is in a container.
    """
    try:
        if container and container not in Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8"):
            return None
        server = psutil.Process(pid)
        family = [server, *(one for one in server.children(recursive=True) if one.name() != _LOADING)]
        memory, spent = [one.memory_info().rss for one in family], [one.cpu_times() for one in family]
        started = [f"{one.pid}@{one.create_time():.2f}" for one in family if one is server or _is_worker(one)]
    except (OSError, psutil.Error):
        return None
    return Usage(memory=sum(memory), cpu=sum(one.user + one.system for one in spent), servers=tuple(started))


_LOADING = "model-loading"
"""The name that headgate_server/workers.py gives the process of a second worker that loads the model."""


def _is_worker(process: psutil.Process) -> bool:
    """Whether it is one of the server's workers (headgate_server/workers.py), and not what ships its log."""
    return "from multiprocessing.spawn import spawn_main" in " ".join(process.cmdline())
