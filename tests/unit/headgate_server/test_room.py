"""Whether a second worker has room: the decision, and what it is made of."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate_server import room
from headgate_server.room import LEAST_CPUS, LEAST_RESERVE, Figures, in_words, why_one
from headgate_server.settings import SettingError

MIB = 2**20
GIB = 2**30


@pytest.mark.parametrize(("wanted", "figures", "says"), [
    ("auto", Figures(GIB, LEAST_CPUS, False, 200 * MIB, 40 * MIB), ""),
    ("auto", Figures(None, 8, False, 200 * MIB, 40 * MIB), "nothing limits its memory"),
    ("auto", Figures(GIB, LEAST_CPUS - 0.5, False, 200 * MIB, 40 * MIB), f"it has less than {LEAST_CPUS} CPUs"),
    ("auto", Figures(64 * GIB, 8, True, 200 * MIB, 40 * MIB), "the server has a GPU"),
    # 40 + 2 x 330 MiB is 700, and with a tenth more 766: a quarter of 1 GiB leaves 768.
    ("auto", Figures(GIB, 8, False, 330 * MIB, 40 * MIB), ""),
    ("auto", Figures(GIB, 8, False, 332 * MIB, 40 * MIB), "two do not fit in its memory"),
    ("auto", Figures(GIB, 8, False, 332 * MIB, 40 * MIB, had_two=True), ""),
    ("auto", Figures(GIB, 8, False, 365 * MIB, 40 * MIB, had_two=True), "two do not fit in its memory"),
    # The reserve is 256 MiB at least.
    ("auto", Figures(512 * MIB, 8, False, 100 * MIB, 40 * MIB), "two do not fit in its memory"),
    ("1", Figures(64 * GIB, 8, False, 200 * MIB), "HEADGATE_SERVER_WORKERS is 1"),
    ("2", Figures(None, 1, True, 200 * MIB), ""),
    ("2", Figures(100 * MIB, 1, False, 200 * MIB), ""),
])  # fmt: skip
def test_two_workers_only_where_they_fit(wanted, figures, says):
    assert why_one(wanted, figures) == says


SIZES = st.integers(0, 256 * GIB)
FIGURES = st.builds(
    Figures, st.none() | SIZES, st.floats(0.01, 512), st.booleans(), st.integers(1, 128 * GIB), SIZES, st.booleans()
)


@given(FIGURES)
@settings(max_examples=500)
def test_two_are_never_above_the_limit(figures):
    if why_one("auto", figures) == "":
        assert figures.limit is not None
        assert figures.others + 2 * figures.worker + LEAST_RESERVE <= figures.limit
        assert (figures.others + 2 * figures.worker) * 4 <= figures.limit * 3 + 4
        assert not figures.has_gpu


@given(FIGURES, SIZES, st.integers(0, 4 * GIB), st.floats(0, 8))
@settings(max_examples=500)
def test_more_memory_or_cpus_never_take_the_second_worker_away(figures, more, less, cpus):
    if why_one("auto", figures) == "":
        roomier = figures._replace(
            limit=figures.limit + more, cpus=figures.cpus + cpus, worker=max(1, figures.worker - less)
        )
        assert why_one("auto", roomier) == ""


@given(FIGURES, st.floats(0, 0.099), st.booleans())
@settings(max_examples=500)
def test_a_server_that_is_started_again_decides_as_before(figures, share, is_less):
    if why_one("auto", figures._replace(had_two=False)) == "":
        other = round(figures.worker * (1 - share if is_less else 1 + share))
        again = figures._replace(worker=other, had_two=True)
        # What is rounded off the tenth is a byte.
        assert why_one("auto", again) == "" or again.worker - figures.worker > figures.worker // 10


def test_all_figures_are_in_the_line():
    assert in_words(Figures(GIB, 1.5, False, 200 * MIB, 40 * MIB)) == (
        "memory limit 1024 MiB, worker 200 MiB (Rss of /proc/PID/statm), other processes 40 MiB, two need 480 MiB and "
        "a reserve of 256 MiB, CPUs 1.5, GPU no, two before no"
    )


def machine(root: Path, groups: str, files: dict[str, str]) -> Path:
    """File systems of a machine of 16 GiB, as far as they are read."""
    files = {"proc/meminfo": "MemTotal:       16777216 kB\n", "proc/self/cgroup": groups, **files}
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(("groups", "files", "limit", "cpus"), [
    ("0::/\n", {"sys/fs/cgroup/memory.max": "1073741824\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, GIB, 1.5),
    ("0::/\n", {"sys/fs/cgroup/memory.max": "max\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, None, 4),
    # The least of all groups above counts.
    ("0::/pod/one\n", {
        "sys/fs/cgroup/pod/one/memory.max": "max\n", "sys/fs/cgroup/pod/memory.max": "2147483648\n",
        "sys/fs/cgroup/pod/cpu.max": "100000 100000\n", "sys/fs/cgroup/pod/one/cpu.max": "300000 100000\n",
    }, 2 * GIB, 1),
    ("4:memory:/docker/abc\n1:cpu,cpuacct:/docker/abc\n", {
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "1073741824\n",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "50000\n",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
    }, GIB, 0.5),
    ("4:memory:/a\n1:cpu:/a\n", {
        "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "9223372036854771712\n",
        "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000\n",
    }, None, 4),
    ("0::/\n", {}, None, 4),
])  # fmt: skip
def test_limits_are_those_of_the_control_groups_of_both_versions(tmp_path, groups, files, limit, cpus):
    root = machine(tmp_path, groups, files)
    assert room.memory_limit(root=root, is_container=True) == limit
    assert room.memory_limit(root=root, is_container=False) is None, "the group is for other programs too"
    assert room.cpus(root=root, usable=4) == cpus


def test_the_lesser_of_what_is_given_and_of_the_containers_limit_counts(tmp_path):
    root = machine(tmp_path, "0::/\n", {"sys/fs/cgroup/memory.max": "1073741824\n"})
    assert room.memory_limit("512Mi", root=root, is_container=True) == 512 * MIB
    assert room.memory_limit("64Gi", root=root, is_container=True) == GIB
    assert room.memory_limit("64Gi", root=root, is_container=False) == 64 * GIB
    for wrong in ("512", "0Gi", "1.5Gi", "-1Gi", "1Ti", " 1Gi", "1Gi\n"):
        with pytest.raises(SettingError, match="not a size such as 512Mi or 2Gi"):
            room.memory_limit(wrong, root=root)


def test_what_is_measured_is_what_the_kernel_says():
    status = Path("/proc/self/status").read_text()
    (told,) = [int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS")]
    assert abs(room.resident(os.getpid()) - told) < 8 * MIB
    assert room.resident(2**22 + 1) == 0
    pid = os.posix_spawn("/bin/sleep", ["sleep", "100"], {})
    try:
        assert pid in room.children()
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    assert pid not in room.children()
