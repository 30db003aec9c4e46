"""What commands cost while the stack's engine is up: CPU seconds, and rows a second. `python benchmarks/commands.py`.

CPU is that of the process which was started and of the one that the engine forks for it. The benchmark is
not the parent of a forked process, so it reads that CPU time from /proc until the process ends.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))

import psutil
from support.models import Models
from support.stack import HEADGATE, start_stack, wait_for

from headgate.counts import Counts, latencies
from headgate.stack import Supervisor
from headgate.verdicts import Look, Verdict
from registry import Entry, Kind
from registry.journal import open_journal

if TYPE_CHECKING:
    from support.stack import Stack

REPEATS = 5
SAMPLE_SECONDS = 0.002
FILE = "model: bench\nartifact: {artifact}\ntarget: {{kind: local}}\n"


class Cost(NamedTuple):
    """Of one command."""

    cpu: float
    seconds: float


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=20_000, help="of the history and of the labels")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hg-") as name, start_stack(Path(name) / "home") as stack:
        os.environ |= {**stack.env, "HEADGATE_HOME": str(stack.root)}
        folder = Path(name)
        (folder / "models").mkdir()
        models = Models(folder / "models")
        file = folder / "release.yaml"
        file.write_text(FILE.format(artifact=json.dumps(str(models("wine")))), encoding="utf-8")
        subprocess.run(
            [HEADGATE, "release", str(file)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        file.write_text(FILE.format(artifact=json.dumps(str(models("wine", regularisation=0.1)))), encoding="utf-8")
        wait_for((stack.home.supervisor / "engine.sock").exists)
        print(f"CPU and whole seconds of a command with the engine up, the median of {REPEATS}")
        for what, command in (("status", ["status"]), ("history", ["history", "bench"]), ("plan", ["plan", str(file)])):
            show(what, [cost(stack, *command) for _ in range(REPEATS)])
        fill(stack, asked.rows)
        out = str(folder / "bench.jsonl")
        show("export", [cost(stack, "export", "bench", "-o", out) for _ in range(REPEATS)], asked.rows)
        told = [cost(stack, "labels", "bench", labels(folder, number, asked.rows)) for number in range(REPEATS)]
        show("labels", told, asked.rows)


def cost(stack: Stack, *command: str) -> Cost:
    """Run a command, and add up what both of its processes took."""
    engine = psutil.Process(Supervisor(stack.home).states()["engine"].pid)
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    forked: dict[int, float] = {}
    quiet = subprocess.DEVNULL
    with subprocess.Popen([HEADGATE, *command], stdout=quiet, stderr=quiet) as process:
        seconds, alive = 0.0, True
        # The one that was forked may work on for a while after it has said how it ended.
        while not seconds or alive:
            alive = False
            for child in engine.children():
                try:
                    times = child.cpu_times()
                except psutil.NoSuchProcess:
                    continue
                alive, forked[child.pid] = True, times.user + times.system
            if process.poll() is not None:
                seconds = seconds or time.perf_counter() - began
            time.sleep(SAMPLE_SECONDS)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode != 0 or not forked:
        raise RuntimeError(f"headgate {command[0]} ended with {process.returncode}, forked {len(forked)} times")
    own = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(own + sum(forked.values()), seconds)


def show(what: str, costs: list[Cost], rows: int = 0) -> None:
    """A line of the table."""
    cpu, seconds = (statistics.median(part) for part in zip(*costs, strict=True))
    speed = f"{rows / seconds:10,.0f} rows/s" if rows else ""
    print(f"{what:>10}: {cpu:5.2f} s of CPU, {seconds:5.2f} s in all {speed}", flush=True)


def fill(stack: Stack, rows: int) -> None:
    """A history of so many looks more."""
    counts = Counts(requests=1000, failures=1, histograms=latencies((10,) * 40))
    look = Look(
        seconds=1,
        share=500,
        stable=counts,
        canary=counts,
        e_value=1,
        needed=100,
        verdict=Verdict.RUNNING,
        reason="looks",
    ).model_dump(mode="json")
    with open_journal(stack.home.journal_url) as journal:
        for _ in range(rows):
            journal.append(
                Entry(endpoint="bench", release_id="r", kind=Kind.LOOK, what="running", actor="judge", evidence=look)
            )


def labels(folder: Path, number: int, rows: int) -> str:
    """Write a file of labels that are new to the store; return its path."""
    path = folder / f"labels-{number}.csv"
    lines = (f"{number}-{row:032d},{row % 3}" for row in range(rows))
    path.write_text("\n".join(["request_id,label", *lines, ""]), encoding="utf-8")
    return str(path)


if __name__ == "__main__":
    main()
