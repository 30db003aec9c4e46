"""A day of an endpoint's life at sixty times the pace: releases, drift, kills and rollbacks at random, and no leak.

`make day`, or `make day ARGS="--hours 3 --seed 2"`. An hour lasts a minute or longer, and a version is kept warm for
one of these. In each, an ordinary thing happens, and then something is killed (benchmarks/chaos.py). All invariants are
checked after both, and what would grow with a leak is counted at the end of each hour.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import pandas as pd
import psutil
from chaos import BRISK, RATE, Lane, Tally, belongs, leaks, unended
from support.chaos import Children, head_of, problems_of, release_in_child
from support.models import Models
from support.stack import start_stack, wait_for

from headgate.errors import NothingToRollBackError
from headgate.release_file import parse_release
from headgate.stack import Supervisor

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from support.chaos import Kill
    from support.stack import Stack

HOUR = 60.0
MONITOR = (
    "monitor: {{reference: {reference}, window: 5s, min_rows: 50, trigger: {{violations: 1, of: 1}}}}\n"
    "rollback: {{on: [errors, drift], keep_warm: 60s}}\n"
)
HABITS = ("release", "bad release", "drift", "rollback")
# As in the chaos run; servers and models are killed more often than in an even draw over all points.
KILLS = (("point", 45), ("moment", 20), ("rollback", 10), ("model", 10), ("server", 15))


class Endpoint(Lane):
    """One that is watched, and to which ordinary things happen as well as kills."""

    def __init__(self, stack: Stack, models: Models, children: Children, seed: str, reference: Path) -> None:
        super().__init__(stack, models, children, seed, Tally())
        self._more = BRISK + MONITOR.format(reference=json.dumps(str(reference)))
        self._drawn: dict[str, Path] = {}
        self.happened: Counter[str] = Counter()

    def hour(self) -> None:
        """One of its hours."""
        until, world = time.monotonic() + HOUR, self.world
        rows = len(world.journal.read(world.endpoint))
        head, habit = head_of(world, rows), self.dice.choice(HABITS)
        came = self._live(habit)
        self._wait(lambda: not problems_of(world, rows, head), time.monotonic())
        self.tally.violations += [f"{habit}: {problem}" for problem in problems_of(world, rows, head)]
        self.happened[f"{habit}: {came}"] += 1
        print(f"{habit}: {came}", flush=True)
        kinds, weights = zip(*KILLS, strict=True)
        self.round(self.dice.choices(kinds, weights)[0])
        with world.traffic(rate=RATE, may_lose=True):
            time.sleep(max(0.0, until - time.monotonic()))

    def _live(self, habit: str) -> str:
        """What comes of it."""
        if habit == "drift":
            return self._drift()
        if habit == "rollback":
            return self._go_back()
        return self._whole(self.models("pyfunc", does="always") if habit == "bad release" else self._next())

    def _whole(self, model: Path) -> str:
        """How a release ends that nobody kills."""
        with self.world.traffic(rate=RATE, may_lose=True) as client:
            child = self._start(model, f"whole-{self.seed}-{sum(self.happened.values())}")
            child.join(120)
        if client.lost:
            self.tally.violations.append(f"{client.lost} requests of a whole release were lost")
        (row,) = self.world.journal.read(self.world.endpoint, what="outcome", newest=1)
        return str(row.evidence["result"]["outcome"])

    def _drift(self) -> str:
        """The inputs move: the version before is asked, and takes over where it would do better."""
        from flows.monitor import monitor  # noqa: PLC0415 - it reads the stack's settings, which come first

        with self.world.traffic(low=500, rate=RATE, may_lose=True) as client:
            wait_for(lambda: client.total > 6 * RATE)
            report = asyncio.run(monitor(parse_release(self.world.text("unused", self._more))))
        blamed = report.attribution.cause if report.attribution else "nobody asked"
        return f"seen {report.violation}, to blame {blamed}"

    def _go_back(self) -> str:
        try:
            with self.world.traffic(rate=RATE):
                return str(self.world.rollback("somebody wants it").outcome)
        except NothingToRollBackError:
            return "nothing to go back to"

    def _release(self, name: str, kill: Kill | None, trail: Path) -> BaseProcess:
        # Started again, a release has the same content.
        return self._start(self._drawn.setdefault(name, self._next()), name, kill, trail)

    def _start(self, model: Path, name: str, kill: Kill | None = None, trail: Path | None = None) -> BaseProcess:
        arguments = (self.world.stack.env, self.world.text(model, self._more), name, kill, trail or self._file(name))
        return self.children.start(release_in_child, *arguments)

    def _next(self) -> Path:
        return self.models("pyfunc", does=self.dice.choice(("double", "negative", "periodic")))


def grown(stack: Stack) -> dict[str, Any]:
    """What there is at the end of an hour; flow runs whose process was killed have ended after `reconcile` at last."""
    late_ones = unended(stack, 30.0)
    files = [path for path in stack.root.rglob("*") if path.is_file() and not path.is_symlink()]
    ours = [path for path in files if path.relative_to(stack.root).parts[0] not in {"prefect", "mlflow", "envs"}]
    mine = [process for process in psutil.process_iter() if belongs(process, stack)]
    return {
        "unended": len(late_ones),
        "files": len(ours),
        "MB": round(sum(path.stat().st_size for path in ours) / 1e6, 1),
        "descriptors": sum(process.num_fds() for process in mine),
        **leaks(stack),
        **{f"{name} MB": round(_tree(state.pid) / 1e6) for name, state in _servers(stack).items()},
    }


def _servers(stack: Stack) -> dict[str, Any]:
    states = Supervisor(stack.home).states()
    return {name: state for name, state in sorted(states.items()) if "--" not in name and state.pid}


def _tree(pid: int) -> int:
    process = psutil.Process(pid)
    return sum(one.memory_info().rss for one in [process, *process.children(recursive=True)])


def main() -> None:
    """Run, and print what is to be shown; exit code 1 where an invariant was violated or a flow run never ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--hours", type=int, default=24)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="hg-", ignore_cleanup_errors=True) as folder:
        root = Path(folder)
        with start_stack(root / "s") as stack:
            # Before Prefect is imported, as threads know no other settings than these.
            os.environ.update(stack.env, MLFLOW_DISABLE_TELEMETRY="true", PREFECT_LOGGING_LEVEL="CRITICAL")
            reference = root / "reference.parquet"
            pd.DataFrame({"x": np.random.default_rng(0).uniform(1, 21, 500)}).to_parquet(reference)
            endpoint = Endpoint(stack, Models(root), Children(), f"day-{asked.seed}", reference)
            bad = _live(endpoint, stack, asked.hours)
    sys.exit(1 if bad else 0)


def _live(endpoint: Endpoint, stack: Stack, hours: int) -> bool:
    endpoint.begin()
    history = [grown(stack)]
    for hour in range(1, hours + 1):
        print(f"hour {hour}", flush=True)
        endpoint.hour()
        history.append(grown(stack))
        print(history[-1], flush=True)
    table = pd.DataFrame(history)
    print(table.to_string())
    print(f"\n{dict(endpoint.happened)}\nkilled: {dict(endpoint.tally.killed)}")
    print(f"{len(endpoint.tally.violations)} violated invariants")
    for violation in endpoint.tally.violations:
        print(f"VIOLATED {violation}")
    return bool(endpoint.tally.violations) or bool(table["flow runs that never ended"].iloc[-1])


if __name__ == "__main__":
    main()
