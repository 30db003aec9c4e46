"""Operating it: from an event to a run, from an abort to safety, and what Prefect adds to a release."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

import pandas as pd
from client import Client
from support.models import Models
from support.stack import HEADGATE, Stack, http, start_stack, wait_for

from headgate.errors import RolledBackError
from headgate.home import Home
from headgate.stack.secrets import Secrets
from registry import Kind
from registry.journal import open_journal

if TYPE_CHECKING:
    from collections.abc import Callable

ENDPOINT = "bench"
# It shifts until someone ends it.
FILE = """\
model: bench
artifact: {artifact}
target: {{kind: local}}
gates: {{shadow: {{min_requests: 50, max_disagreement: 50%}}}}
strategy: {{steps: [25%], min_requests: 100, min_duration: {least}, max_duration: 10m}}
judge: {{error_rate: {{margin_points: 20%}}, latency: {{quantiles: [0.5], floor: 1s}}}}
"""
REPEATS, LOOKS = 5, 200
ALIKE = ("quadruple", "slow", "negative")
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def main() -> None:
    """Print all three."""
    with tempfile.TemporaryDirectory() as folder, start_stack(Path(folder) / "home") as stack:
        os.environ |= stack.env
        (Path(folder) / "models").mkdir()
        models = Models(Path(folder) / "models")
        file = Path(folder) / "release.yaml"

        def write(does: str, least: str = "2s") -> Path:
            file.write_text(FILE.format(artifact=models("pyfunc", does=does), least=least), encoding="utf-8")
            return file

        started = json.loads(headgate("release", str(write("double")), "--json"))
        rows = pd.DataFrame({"x": [1.0, 2.0]})
        events(stack)
        with Client(started["url"], rows, rows["x"].map(lambda x: {"x": x * 2}), 100) as client:
            aborts(client, write("negative", "5m"))
            releases(write)
        tasks()


def headgate(*arguments: str) -> str:
    """Run a command to its end; gives its last line."""
    done = subprocess.run(
        [HEADGATE, *arguments], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    return done.stdout.splitlines()[-1] if done.stdout else ""


def spread(seconds: list[float]) -> str:
    """The least, the median and the most."""
    return f"{min(seconds):.2f} / {statistics.median(seconds):.2f} / {max(seconds):.2f} s"


def events(stack: Stack) -> None:
    """From an alert's arrival to the run that it starts being Running; nobody has the endpoint, so nothing changes."""
    bearer = {"authorization": f"Bearer {Secrets.of(stack.home).alerts}"}
    seconds = []
    for number in range(REPEATS):
        alert = {"status": "firing", "labels": {"alertname": "bench", "endpoint": f"none-{number}"}, "startsAt": "now"}
        began = time.perf_counter()
        sent = http.post(f"{stack.ports.receiver_url}/alertmanager", json={"alerts": [alert]}, headers=bearer)
        sent.raise_for_status()

        def runs(endpoint: str = f"none-{number}") -> bool:
            asked = {"flows": {"name": {"any_": ["rollback"]}}, "limit": 50}
            found = stack.prefect.post("/flow_runs/filter", json=asked).json()
            ours = [run for run in found if run["parameters"].get("endpoint") == endpoint]
            return any(run["start_time"] for run in ours)

        wait_for(runs, 60)
        seconds.append(time.perf_counter() - began)
        # The run fails, as it should, and an automation looks after it; that is not what is timed.
        time.sleep(15)
    print(f"\nfrom an event to a running flow: {spread(seconds)} (least / median / most of {REPEATS})", flush=True)


def aborts(client: Client, file: Path) -> None:
    """From the start of `headgate abort` to the last answer of the canary that a client sees."""
    seconds, pauses = [], []
    for _ in range(REPEATS):
        process = subprocess.Popen(
            [HEADGATE, "release", str(file)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        before = {name: counter["answers"] for name, counter in client.by_revision.items()}

        def canary(known: dict[str, int] = before) -> int:
            return sum(
                counter["answers"] - known.get(name, 0)
                for name, counter in list(client.by_revision.items()) if not name.startswith("v1")
            )  # fmt: skip

        wait_for(lambda seen=canary, release=process: seen() > 100 or release.poll() is not None, 120)
        if process.poll() is not None:
            print(f"a release ended before it could be aborted: {ending(process)}")
            continue
        headgate("pause", ENDPOINT, "--reason", "bench")
        pauses.append(wait_for(reached))
        began, last, answers = time.perf_counter(), 0.0, canary()
        abort = subprocess.Popen([HEADGATE, "abort", ENDPOINT, "--reason", "bench"], **QUIET)
        while abort.poll() is None:
            if (now := canary()) > answers:
                answers, last = now, time.perf_counter() - began
            time.sleep(0.005)
        seconds.append(last)
        process.communicate()
    if not seconds:
        print("no figures of aborts: no release lasted until one; is the machine busy?")
        return
    print(f"from the start of `headgate abort` to the canary's last answer: {spread(seconds)}")
    print(f"from a pause that is asked for to the first look that keeps it: {spread(pauses)}", flush=True)


def ending(release: subprocess.Popen[str]) -> str:
    """Return what a release that has ended said last."""
    _, said = release.communicate()
    return next((line for line in reversed(said.splitlines()) if line.strip()), f"exit code {release.returncode}")


def reached() -> float:
    """Seconds from the last pause to the first look that kept it; 0 where there was none yet."""
    with open_journal(Home.from_env().journal_url) as journal:
        asked = [row for row in journal.read(ENDPOINT, kinds=(Kind.DECISION,)) if row.what == "pause"][-1]
        looks = journal.read(ENDPOINT, kinds=(Kind.LOOK,), after=asked.seq)
        kept = next((row.at for row in looks if row.evidence["paused"]), asked.at)
    return (kept - asked.at).total_seconds()


def releases(write: Callable[[str], Path]) -> None:
    """The same release as a flow with tasks, and as plain functions without Prefect, in turn."""
    from flows.release import release  # noqa: PLC0415 - reads the environment that main has set
    from headgate.release_file import load_release  # noqa: PLC0415 - reads the environment that main has set

    calls = {"as a flow": release, "as plain functions": release.fn}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    # Two ways and three models of the same kind: what is released is never what is live.
    for number in range(4 * len(ALIKE)):
        name = list(calls)[number % 2]
        try:
            result = asyncio.run(calls[name](load_release(write(ALIKE[number % len(ALIKE)]))))
        except RolledBackError as error:
            print(f"a release {name} was rolled back, and is left out: {error.message}")
            continue
        if number >= len(ALIKE):
            seconds[name].append(result.seconds - result.waited)
    print(
        "\na release less its waits " + "; ".join(f"{name}: {spread(each)}" for name, each in seconds.items() if each)
    )


def tasks() -> None:
    """A look a second as a task each, and all of a shift in one task, as it is."""
    from prefect import flow, task  # noqa: PLC0415 - reads the environment that main has set

    @task
    def look() -> int:
        return 1

    @task
    def shift() -> int:
        return sum(look.fn() for _ in range(LOOKS))

    @flow
    async def one_task_a_look() -> int:
        return sum(look() for _ in range(LOOKS))

    @flow
    async def one_task() -> int:
        return shift()

    print(f"\n{LOOKS} looks of a shift, Prefect's part of it")
    for name, one in (("a task each", one_task_a_look), ("all in one task, as it is", one_task)):
        began = time.perf_counter()
        asyncio.run(one())
        seconds = time.perf_counter() - began
        print(f"  {name:28}{seconds:>8.2f} s  {seconds / LOOKS * 1000:>8.2f} ms a look")


if __name__ == "__main__":
    main()
