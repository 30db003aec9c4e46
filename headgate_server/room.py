"""Decide whether a second worker has room in the server's memory and CPUs.

Memory is the resident set (Rss) of /proc/PID/statm. It counts a page for each process that has it, so a sum of several
is an upper bound; unlike the proportional set (PSS), it does not depend on other containers that use the same
libraries, and unlike both PSS and smaps_rollup it costs a few microseconds: the parent reads it each second.
https://docs.kernel.org/filesystems/proc.html
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from headgate_server.settings import WORKERS, SettingError

if TYPE_CHECKING:
    from collections.abc import Iterable

LEAST_RESERVE = 256 * 2**20
"""Bytes that are kept free for requests at least: as much as a worker holds of bodies that have not wholly come."""
_RESERVED_PART = 4
"""A quarter of the limit is kept free for requests, where that is more."""
_SPREAD_PART = 10
"""A second worker starts where it fits with a tenth more than is measured; one that ran before needs no tenth. So a
server that is started again decides as before, unless its model's memory changed by a tenth."""
LEAST_CPUS = 4
"""On two CPUs, of which the client had a part, two workers answered fewer requests than one (benchmarks/workers.py)."""
TIGHT_PART = 0.9
"""Where the server's memory reaches this part of its limit, one of two workers is ended."""
_ROOT = Path("/")
_UNITS = {"Mi": 2**20, "Gi": 2**30}


class Figures(NamedTuple):
    """What a decision depends on.

    Attributes:
        limit: bytes that the server may have; None where nothing limits it.
        cpus: that it may use; a quota may be a fraction.
        has_gpu: whether it sees a GPU.
        worker: bytes of a worker that has loaded the model.
        others: bytes of the server's other processes.
        had_two: whether this server ran two workers before it was started again.
    """

    limit: int | None
    cpus: float
    has_gpu: bool
    worker: int = 0
    others: int = 0
    had_two: bool = False

    @property
    def needed(self) -> int:
        """The least limit in which two workers fit, without the part of it that is kept free."""
        spread = 0 if self.had_two else self.worker // _SPREAD_PART
        return self.others + 2 * (self.worker + spread)

    @property
    def reserve(self) -> int:
        """The bytes of the limit that are kept free."""
        return max(LEAST_RESERVE, (self.limit or 0) // _RESERVED_PART)


def why_one(wanted: str, figures: Figures) -> str:
    """Return why the server has one worker; an empty text where two fit.

    Args:
        wanted: HEADGATE_SERVER_WORKERS: 1, 2 or auto. 2 does without all conditions.
        figures: with `worker` 0 before it is measured; only conditions that do not need it are then looked at.
    """
    if wanted != "auto":
        return "" if wanted == "2" else f"{WORKERS} is 1"
    if figures.has_gpu:
        return "the server has a GPU"
    if figures.limit is None:
        return "nothing limits its memory"
    if figures.cpus < LEAST_CPUS:
        return f"it has less than {LEAST_CPUS} CPUs"
    if figures.needed + figures.reserve > figures.limit:
        return "two do not fit in its memory"
    return ""


def in_words(figures: Figures) -> str:
    """Return the figures of a decision, for one line of the log."""
    limit = "none" if figures.limit is None else _mebibytes(figures.limit)
    worker = f"{_mebibytes(figures.worker)} (Rss of /proc/PID/statm)" if figures.worker else "not measured"
    return (
        f"memory limit {limit}, worker {worker}, other processes {_mebibytes(figures.others)}, two need "
        f"{_mebibytes(figures.needed)} and a reserve of {_mebibytes(figures.reserve)}, CPUs {figures.cpus:g}, "
        f"GPU {'yes' if figures.has_gpu else 'no'}, two before {'yes' if figures.had_two else 'no'}"
    )


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"


def resident(pid: int | str) -> int:
    """Return the bytes of a process that are in memory; 0 where it has ended, or /proc does not say."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def children() -> set[int]:
    """Return the processes that this one has started and that live."""
    found = set()
    for path in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found |= {int(pid) for pid in path.read_text(encoding="ascii").split()}
    return found


def memory_limit(given: str = "", *, root: Path = _ROOT, is_container: bool | None = None) -> int | None:
    """Return the bytes that this server may have: the lesser of what is given and its container's; None where none is.

    The limit of a control group counts only where this process is a container's first one, whose parent is outside
    (its number is 0): in any other case the group's memory is for other programs too, such as the local stack's.

    Args:
        given: HEADGATE_SERVER_MEMORY, such as 2Gi.
        root: of the file systems /proc and /sys.
        is_container: for tests.

    Raises:
        SettingError: what is given is no size.
    """
    limits = []
    if given:
        sizes = re.fullmatch(r"([1-9]\d{0,8})(Mi|Gi)", given)
        if sizes is None:
            raise SettingError(f"HEADGATE_SERVER_MEMORY is {given!r}, and not a size such as 512Mi or 2Gi")
        limits.append(int(sizes[1]) * _UNITS[sizes[2]])
    if (os.getppid() == 0) if is_container is None else is_container:
        read = [*_read(root, "", "memory.max"), *_read(root, "memory", "memory.limit_in_bytes")]
        # A group without a limit says `max`, or a number beyond any machine's memory.
        limits += [int(text) for text in read if text.isdigit() and int(text) < _machine_memory(root)]
    return min(limits, default=None)


def _machine_memory(root: Path) -> int:
    found = re.search(r"^MemTotal:\s+(\d+) kB", (root / "proc/meminfo").read_text(encoding="ascii"), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def cpus(*, root: Path = _ROOT, usable: int | None = None) -> float:
    """Return how many CPUs this process may use, by its affinity and its control groups' quotas.

    Args:
        root: of the file systems /proc and /sys.
        usable: the CPUs of its affinity, for tests.
    """
    found = [float(len(os.sched_getaffinity(0)) if usable is None else usable)]
    for text in _read(root, "", "cpu.max"):
        quota, period = text.split()
        if quota.isdigit():
            found.append(int(quota) / int(period))
    quotas, periods = _read(root, "cpu", "cpu.cfs_quota_us"), _read(root, "cpu", "cpu.cfs_period_us")
    found += [int(quota) / int(period) for quota, period in zip(quotas, periods, strict=False) if int(quota) > 0]
    return min(found)


def _read(root: Path, controller: str, name: str) -> Iterable[str]:
    """Return a file of this process's control group and of each group above it; `controller` is "" for version 2.

    https://docs.kernel.org/admin-guide/cgroup-v2.html and https://docs.kernel.org/admin-guide/cgroup-v1/cgroups.html
    """
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if controller not in controllers.split(","):
                continue
            base = root / "sys/fs/cgroup" / controllers if controller else root / "sys/fs/cgroup"
            group = Path(path.lstrip("/"))
            # In a container the path may be that of the host, where only the last of these folders is here.
            found = [base / one / name for one in (group, *group.parents)]
            return [file.read_text(encoding="ascii").strip() for file in dict.fromkeys(found) if file.is_file()]
    return []
