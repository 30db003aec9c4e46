"""Kills by the hundred: whatever dies, an endpoint ends well. `make chaos`, or `make chaos ARGS="--kills 50 --seed 3"`.

Each round releases, or rolls back, on the real stack and under live requests, and something is killed with SIGKILL: the
process that carries it out, at a call or a row drawn from all that such a release passes, or at a random moment; a
server of the stack; a model's own process. Then the guard, `reconcile`, or the same release started again sees to it,
and every invariant is checked (tests/support/chaos.py). What was drawn is printed, and drawn again with the same seed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

for folder in ("tests", "tests/support", "tests/flows", "examples"):
    sys.path.insert(0, str(Path(__file__).parent.parent / folder))

import psutil
from conftest import QUICK, World
from support.chaos import (
    Children,
    Kill,
    head_of,
    is_back,
    problems_of,
    release_in_child,
    rollback_in_child,
    trail_of,
)
from support.models import Models
from support.stack import start_stack, wait_for

from headgate.errors import HeadgateError
from headgate.stack import Supervisor
from registry import history
from registry.lease import holder

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.process import BaseProcess

    from support.stack import Stack

BRISK = QUICK.replace("min_requests: 60, min_duration: 2s", "min_requests: 40, min_duration: 1s")
SERVERS = ("worker", "engine", "prefect-server", "mlflow-server", "gateway", "guard", "receiver")
RATE = 80.0
_ALREADY_STARTED = 60  # supervisor.xmlrpc.Faults.ALREADY_STARTED


@dataclass
class Tally:
    """What was done and seen."""

    killed: Counter[str] = field(default_factory=Counter)
    ways: Counter[str] = field(default_factory=Counter)
    safe: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    requests: int = 0
    failed: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)


class Lane:
    """One endpoint, to which things happen one after the other."""

    def __init__(self, stack: Stack, models: Models, children: Children, seed: str, tally: Tally) -> None:
        self.world, self.models, self.children, self.tally = World(stack), models, children, tally
        self.dice, self.seed, self.number = random.Random(seed), seed, 0
        self.trail: list[Kill] = []
        self.guarded = True

    def begin(self) -> None:
        """A version that is live, and the points that a whole release passes."""
        self.world.release(self.models("pyfunc", does="double"), BRISK)
        with self.world.traffic(rate=RATE):
            file = self._file("begin")
            child = self._release("begin", None, file)
            child.join(120)
        self.trail = trail_of(file)

    def round(self, what: str = "") -> None:
        """Kill something, see that somebody sees to it, and check."""
        self.number += 1
        world, name = self.world, f"chaos-{self.seed.replace('.', '-')}-{self.number}"
        rows = len(world.journal.read(world.endpoint))
        head = head_of(world, rows)
        what = what or self.dice.choices(("point", "moment", "rollback", "model", "server"), (60, 20, 8, 6, 6))[0]
        # A gateway that is killed loses requests by itself.
        with world.traffic(rate=RATE, may_lose=True) as client:
            died, killed = getattr(self, f"_kill_{what}")(name)
            way = self._recover(name, what)
            if way == "reconcile":
                self._reconcile()
            safe = self._wait(lambda: is_back(world), died)
            if "the guard" in way and what not in {"server", "model"}:
                self._wait(lambda: not problems_of(world), died, seconds=20)
            else:
                self._reconcile()
            whole = self._wait(lambda: not problems_of(world, rows, head), died)
        problems = problems_of(world, rows, head)
        failed = sum(counter["failed"] + counter["wrong"] for counter in client.by_revision.values())
        with self.tally.lock:
            self.tally.killed[what if what in {"point", "moment", "rollback"} else killed] += 1
            self.tally.ways[way] += 1
            self.tally.requests += client.total
            if what in {"point", "moment", "rollback"}:
                # A gateway or a model that is killed fails requests by itself.
                self.tally.failed += failed + client.lost
                if failed + client.lost:
                    problems.append(f"{failed + client.lost} requests failed")
                # A release that is started again takes as long as its steps do.
                if way in {"the guard", "reconcile"}:
                    self.tally.safe.append(safe)
                    self.tally.whole.append(whole)
            self.tally.violations += [f"{name} ({killed}, {way}): {problem}" for problem in problems]
        print(f"{name}: {killed}; {way}; safe {safe:.2f} s, whole {whole:.2f} s {'; '.join(problems)}", flush=True)

    def _kill_point(self, name: str) -> tuple[float, str]:
        kill = self.dice.choice(self.trail)
        child = self._release(name, kill, self._file(name))
        child.join(90)
        return time.monotonic(), str(kill) if child.exitcode == -signal.SIGKILL else "nothing (it did not come by)"

    def _kill_moment(self, name: str) -> tuple[float, str]:
        child, after = self._release(name, None, self._file(name)), self.dice.uniform(0.1, 8.0)
        child.join(after)
        child.kill()
        child.join()
        return time.monotonic(), f"the release after {after:.1f} s"

    def _kill_rollback(self, name: str) -> tuple[float, str]:
        if history.predecessor(self.world.journal, self.world.endpoint) is None:
            return self._kill_point(name)
        points = ("take lease", "row rollback", "route", "row live", "set champion", "retire", "row went back")
        kill = Kill(self.dice.choice(points), 1, self.dice.choice(("before", "after")))
        arguments = (self.world.stack.env, self.world.endpoint, kill, self._file(name))
        child = self.children.start(rollback_in_child, *arguments)
        child.join(60)
        return time.monotonic(), f"rollback {kill}"

    def _kill_model(self, name: str) -> tuple[float, str]:
        child = self._release(name, None, self._file(name))
        child.join(self.dice.uniform(0.5, 6.0))
        supervisor = Supervisor(self.world.stack.home)
        programs = [key for key in supervisor.states() if key.startswith(f"{self.world.endpoint}--")]
        program = self.dice.choice(sorted(programs))
        champion = history.champion(self.world.journal, self.world.endpoint)
        role = "the champion" if champion and program.endswith(champion.revision.name) else "another revision"
        psutil.Process(supervisor.states()[program].pid).kill()
        child.join(120)
        return time.monotonic(), f"{role}'s process"

    def _kill_server(self, name: str) -> tuple[float, str]:
        child = self._release(name, None, self._file(name))
        child.join(self.dice.uniform(0.5, 6.0))
        program = self.dice.choice(SERVERS)
        state = Supervisor(self.world.stack.home).states()[program]
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(state.pid)
            for one in [*process.children(recursive=True), process]:
                one.kill()
        child.join(150)
        return time.monotonic(), program

    def _recover(self, name: str, what: str) -> str:
        """Start the same release again, where that is drawn and it is in flight still; else others see to it."""
        flight = history.in_flight(self.world.journal, self.world.endpoint)
        others = "the guard" if self.guarded else "reconcile"
        if what not in {"point", "moment"} or flight is None or self.dice.random() < 0.5:
            return others
        child = self._release(name, None, self._file(f"{name}-again"))
        child.join(120)
        if child.is_alive():
            # Forked from a server that has threads, a child may stand still before it does anything.
            child.kill()
            return f"the same release again, which stood still, beside {others}"
        return f"the same release again, beside {others}"

    def _reconcile(self) -> None:
        deadline = time.monotonic() + 90
        while problems_quietly(self.world) and time.monotonic() < deadline:
            with contextlib.suppress(HeadgateError):
                reconcile(self.world.endpoint)
            time.sleep(0.2)

    def _release(self, name: str, kill: Kill | None, trail: Path) -> BaseProcess:
        model = self.models("pyfunc", does="negative" if (self.world.live or 0) % 2 else "double")
        text = self.world.text(model, BRISK + f"rollback: {{keep_warm: {self.dice.choice(('1h', '1h', '0s'))}}}\n")
        return self.children.start(release_in_child, self.world.stack.env, text, name, kill, trail)

    def _file(self, name: str) -> Path:
        return self.world.stack.root / f"trail-{self.world.endpoint}-{name}"

    @staticmethod
    def _wait(condition: Callable[[], object], since: float, seconds: float = 60.0) -> float:
        deadline = time.monotonic() + seconds
        while not _quietly(condition) and time.monotonic() < deadline:
            time.sleep(0.02)
        return time.monotonic() - since


def _quietly(condition: Callable[[], object]) -> bool:
    """The condition; not yet, while a server that was killed is not back."""
    try:
        return bool(condition())
    except HeadgateError:
        return False


def reconcile(endpoint: str = "") -> None:
    """What `headgate reconcile` does."""
    from flows.reconcile import reconcile as flow  # noqa: PLC0415 - it reads the stack's settings, which come first

    asyncio.run(flow.fn(endpoint))


def problems_quietly(world: World) -> bool:
    """Whether something is not in order, or cannot be seen."""
    return not _quietly(lambda: not problems_of(world))


def freeze(lane: Lane, rounds: int) -> list[float]:
    """Stop a release's process under live traffic: seconds from the end of its lease to a safe endpoint."""
    taken = []
    for number in range(rounds):
        world, name = lane.world, f"frozen-{lane.seed}-{number}"
        model = lane.models("pyfunc", does="negative" if (world.live or 0) % 2 else "double")
        text = world.text(model, BRISK.replace("1s, max_duration: 30s", "50s, max_duration: 60s"))
        with world.traffic(rate=RATE):
            env = {**world.stack.env, "HEADGATE_LEASE_SECONDS": "2"}
            child = lane.children.start(release_in_child, env, text, name, None, lane._file(name))  # noqa: SLF001
            wait_for(lambda world=world: len(world.state.traffic.weights) > 1, 60)
            with world.target._gateway._locked():  # noqa: SLF001
                os.kill(child.pid or 0, signal.SIGSTOP)
            held = holder(world.journal, world.endpoint)
            assert held is not None
            wait_for(lambda world=world: is_back(world), 30)
            taken.append(time.time() - held.expires)
            os.kill(child.pid or 0, signal.SIGCONT)
            child.join(60)
            wait_for(lambda world=world: not problems_of(world), 30)
    return taken


def leaks(stack: Stack, patience: float = 30.0) -> dict[str, Any]:
    """What grows when something is left behind; runs that died with their worker end after `patience` seconds."""
    from tasks import leftovers, runs  # noqa: PLC0415 - they read the stack's settings, which come first

    leftovers.HALF_WRITTEN_SECONDS = 0.0
    runs._BEGINS = timedelta(seconds=20)  # noqa: SLF001
    reconcile()
    late = unended(stack, patience)
    half = [path for pattern in leftovers._HALF_WRITTEN for path in stack.root.glob(pattern)]  # noqa: SLF001
    mine = [process for process in psutil.process_iter() if belongs(process, stack)]
    return {
        "processes": len(mine),
        "resident MB": round(sum(process.memory_info().rss for process in mine) / 1e6),
        "half-written files": len(half),
        "flow runs that never ended": len(late),
        "bundles": len([path for path in stack.home.bundles.iterdir() if path.is_dir()]),
    }


def unended(stack: Stack, seconds: float) -> list[str]:
    """The flow runs that are neither over within so long, nor what a schedule will run some day; they are printed."""
    deadline = time.monotonic() + seconds
    wanted = {"flow_runs": {"state": {"type": {"not_any_": ["CANCELLED", "COMPLETED", "CRASHED", "FAILED"]}}}}
    while True:
        runs = stack.prefect.post("/flow_runs/filter", json=wanted).raise_for_status().json()
        late = [f"{run['name']} is {run['state']['name']}" for run in runs if run["state"]["name"] != "Scheduled"]
        if not late or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    if late:
        print(f"not ended: {late}", flush=True)
    return late


def belongs(process: psutil.Process, stack: Stack) -> bool:
    """Whether a process was started by a stack."""
    try:
        return process.environ().get("HEADGATE_SUPERVISED_BY") == str(stack.root)
    except psutil.Error:
        return False


def main() -> None:
    """Run, and print what is to be shown; exit code 1 where an invariant was violated."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--servers", type=int, help="how many of them are of servers and models; an eighth by default")
    parser.add_argument("--lanes", type=int, default=2)
    parser.add_argument("--patience", type=float, default=1200, help="seconds until every flow run is to be over")
    parser.add_argument("--frozen", type=int, default=10)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    print(f"seed {asked.seed}: {asked.kills} kills in {asked.lanes} lanes", flush=True)
    with tempfile.TemporaryDirectory(prefix="hg-", ignore_cleanup_errors=True) as folder:
        root = Path(folder)
        with start_stack(root / "s") as stack:
            # Before Prefect is imported, as threads know no other settings than these.
            assert "prefect" not in sys.modules
            os.environ.update(stack.env, MLFLOW_DISABLE_TELEMETRY="true", PREFECT_LOGGING_LEVEL="CRITICAL")
            violated = _run(asked, stack, Models(root))
    sys.exit(1 if violated else 0)


def _run(asked: argparse.Namespace, stack: Stack, models: Models) -> bool:
    tally, children = Tally(), Children()
    lanes = [Lane(stack, models, children, f"{asked.seed}.{number}", tally) for number in range(asked.lanes)]
    for lane in lanes:
        lane.begin()
    before, began = leaks(stack), time.monotonic()

    def work(lane: Lane, rounds: int) -> None:
        for _ in range(rounds):
            lane.round(lane.dice.choices(("point", "moment", "rollback"), (66, 24, 10))[0])

    # The servers are everybody's: they are killed when one lane is left.
    shared = asked.kills // 8 if asked.servers is None else asked.servers
    for guarded, part in ((True, 2 / 3), (False, 1 / 3)):
        Supervisor(stack.home)._call("startProcess" if guarded else "stopProcess", "guard", accept=_ALREADY_STARTED)  # noqa: SLF001
        for lane in lanes:
            lane.guarded = guarded
        each = round((asked.kills - shared) * part / asked.lanes)
        threads = [threading.Thread(target=work, args=(lane, each)) for lane in lanes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    Supervisor(stack.home)._call("startProcess", "guard")  # noqa: SLF001
    lanes[0].guarded = True
    for _ in range(shared):
        lanes[0].round(lanes[0].dice.choice(("server", "model")))
    frozen, took = freeze(lanes[0], asked.frozen) if asked.frozen else [], time.monotonic() - began
    print(f"\nbefore: {before}\nafter:  {leaks(stack, asked.patience)}")
    _print(tally, frozen, took)
    return bool(tally.violations)


def _print(tally: Tally, frozen: list[float], seconds: float) -> None:
    print(f"{sum(tally.killed.values())} kills in {seconds / 60:.0f} min: {dict(tally.killed)}")
    print(f"seen to by: {dict(tally.ways)}")
    print(
        f"{len(tally.violations)} violated invariants; {tally.failed} of {tally.requests} requests failed by shifting"
    )
    for name, times in (("to a safe endpoint", tally.safe), ("to a whole one", tally.whole)):
        if not times:
            continue
        ranked = sorted(times)
        print(
            f"from the death {name}: median {statistics.median(ranked):.2f} s, "
            f"p95 {ranked[int(len(ranked) * 0.95)]:.2f} s, most {ranked[-1]:.2f} s"
        )
    if frozen:
        median, most = statistics.median(frozen), max(frozen)
        print(f"from the end of a lease to a safe endpoint: median {median:.2f} s, most {most:.2f} s")
    for violation in tally.violations:
        print(f"VIOLATED {violation}")


if __name__ == "__main__":
    main()
