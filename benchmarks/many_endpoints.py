"""`headgate monitor --all` over many endpoints, each with a history and a log. `python benchmarks/many_endpoints.py`.

On the real stack; the first run takes each log over, the second one reads what has come since and what is kept.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

for folder in ("tests", "tests/support"):
    sys.path.insert(0, str(Path(__file__).parent.parent / folder))

from support.many_endpoints import add_endpoint, reference
from support.stack import HEADGATE, Stack, start_stack

from registry.journal import open_journal

COLUMNS = 20


def check(stack: Stack, runner: str) -> tuple[float, float, Counter[str]]:
    """Seconds, the most memory of the process in MB, and what was found."""
    env = {**os.environ, "HEADGATE_HOME": str(stack.root), "HEADGATE_TASK_RUNNER": runner}
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as complaints:
        began = time.perf_counter()
        child = os.posix_spawn(
            HEADGATE, [HEADGATE, "monitor", "--all", "--json"], env,
            file_actions=[(os.POSIX_SPAWN_DUP2, said.fileno(), 1), (os.POSIX_SPAWN_DUP2, complaints.fileno(), 2)],
        )  # fmt: skip
        _, status, used = os.wait4(child, 0)
        seconds = time.perf_counter() - began
        said.seek(0)
        if status:
            complaints.seek(0)
            sys.exit(f"headgate monitor --all failed: {complaints.read()[-2000:]}")
        made = json.loads(said.read().splitlines()[-1])
    return seconds, used.ru_maxrss / 1024, Counter(one["state"] for one in made)


def main() -> None:
    """Print a line a run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--endpoints", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=500)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hg-") as name, start_stack(Path(name) / "s") as stack:
        file = reference(Path(name) / "reference.parquet", COLUMNS)
        with open_journal(stack.home.journal_url) as journal, ThreadPoolExecutor(16) as pool:

            def add(number: int) -> None:
                moved = 1.0 if number % 50 == 0 else 0.0
                add_endpoint(stack.home, journal, f"e{number:04}", file, rows=asked.rows, columns=COLUMNS, moved=moved)

            list(pool.map(add, range(asked.endpoints)))
        print(f"{asked.endpoints} endpoints, {asked.rows} requests of {COLUMNS} columns each")
        for runner in ("threads", "threads", "processes"):
            seconds, peak, found = check(stack, runner)
            each = 1000 * seconds / asked.endpoints
            print(
                f"{runner:>10}: {seconds:6.1f} s, {each:5.1f} ms an endpoint, {peak:5.0f} MB; {dict(found)}", flush=True
            )


if __name__ == "__main__":
    main()
