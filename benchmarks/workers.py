"""One worker and two: what a second one costs in throughput, time and memory, and what it saves when a model hangs.

The load is `wrk`'s (apt-get install wrk). Servers of one and of two workers are loaded in turn, pair by pair, as the
machine may be busy; with `cpus 1` the server has one CPU of its own choice of two, and wrk has the other one.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import psutil
from servers import Result, one_row, run, start

if TYPE_CHECKING:
    from collections.abc import Iterator

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))

from support.models import Models

PAIRS, SECONDS = 8, 2
WORKERS = (1, 2)
CLIENTS, HANG_SECONDS = 8, 3
NEVER = 666
_LOAD_SECONDS = 60


def main() -> None:
    """Print throughput, then what is lost in a hang."""
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed: apt-get install wrk")
    with tempfile.TemporaryDirectory() as folder:
        models = Models(Path(folder))
        for cpus in (2, 1):
            compare(models("wine"), Path(folder), cpus)
        for where, does in (("in Python code", "stuck"), ("in native code that holds the interpreter", "seized")):
            for workers in WORKERS:
                hang(models("pyfunc", does=does), Path(folder), workers, where)


def compare(model: Path, folder: Path, cpus: int) -> None:
    """Load both servers in turn, and print the medians and how many pairs the second worker won."""
    body = one_row(model)
    with ExitStack() as running:
        urls, sizes = {}, {}
        for workers in WORKERS:
            urls[workers], process = running.enter_context(_server(model, folder, workers, cpus))
            run(urls[workers], body, 8, 2, folder)
            sizes[workers] = _memory(process)
        print(f"\nscikit-learn pipeline, 13 numbers, one row a request, {cpus} CPU(s) for the server, {PAIRS} pairs")
        print(f"  {'':12}{'c':>3}{'req/s':>9}{'p50 ms':>9}{'p99 ms':>9}{'ratio':>8}{'MiB':>7}")
        for connections in (1, 8):
            pairs = [
                {workers: run(urls[workers], body, connections, SECONDS, folder) for workers in order}
                for order in (WORKERS if pair % 2 else WORKERS[::-1] for pair in range(PAIRS))
            ]
            ratio = statistics.median(pair[2].rate / pair[1].rate for pair in pairs)
            for workers in WORKERS:
                columns = zip(*(pair[workers] for pair in pairs), strict=True)
                rate, p50, p99 = Result(*map(statistics.median, columns))
                told = f"{ratio:>7.2f}x" if workers == 2 else f"{'1.00x':>8}"
                print(
                    f"  {workers} worker(s){connections:>3}{rate:>9.0f}{p50:>9.2f}{p99:>9.2f}{told}"
                    f"{sizes[workers] / 2**20:>7.0f}"
                )
            won = sum(pair[2].rate > pair[1].rate for pair in pairs)
            print(f"  two workers answered more in {won} of {PAIRS} pairs")


def hang(model: Path, folder: Path, workers: int, where: str) -> None:
    """Ask from clients that keep their connections, hang one request, and print what the others got."""
    with _server(model, folder, workers, 2, HEADGATE_DEADLINE=str(HANG_SECONDS)) as (url, _):
        over, counts, slowest = threading.Event(), {"answered": 0, "lost": 0}, [0.0]
        lock = threading.Lock()

        def keep_asking() -> None:
            client = httpx.Client(timeout=30)
            while not over.is_set():
                began = time.monotonic()
                try:
                    good = client.post(url, json={"dataframe_records": [{"x": 1.0}]}).status_code == httpx.codes.OK
                except httpx.TransportError:
                    good = False
                    client.close()
                    client = httpx.Client(timeout=30)
                with lock:
                    counts["answered" if good else "lost"] += 1
                    slowest[0] = max(slowest[0], time.monotonic() - began)
            client.close()

        for _ in range(200):
            httpx.post(url, json={"dataframe_records": [{"x": 1.0}]})
        threads = [threading.Thread(target=keep_asking) for _ in range(CLIENTS)]
        for one in threads:
            one.start()
        # A body of more than 64 KiB is never answered in the event loop.
        content = json.dumps({"dataframe_records": [{"x": NEVER}]}) + " " * 2**16
        headers = {"content-type": "application/json"}
        try:
            told = str(httpx.post(url, content=content, headers=headers, timeout=60).status_code)
        except httpx.TransportError as error:
            told = type(error).__name__
        time.sleep(HANG_SECONDS)
        over.set()
        for one in threads:
            one.join()
    print(
        f"hang {where}, {workers} worker(s), {CLIENTS} other clients: the request itself {told}; of the others' "
        f"{counts['answered']} answered, {counts['lost']} lost, the slowest {slowest[0]:.1f} s"
    )


@contextmanager
def _server(model: Path, folder: Path, workers: int, cpus: int, **more: str) -> Iterator[tuple[str, psutil.Process]]:
    """Start a server of so many workers; gives its URL once all of them answer."""
    before = psutil.Process().cpu_affinity()
    assert before is not None
    os.environ |= {"HEADGATE_SERVER_WORKERS": str(workers), **more}
    known = {one.pid for one in psutil.Process().children()}
    if cpus == 1:
        psutil.Process().cpu_affinity(before[:1])
    try:
        with start("headgate", model, folder) as url:
            psutil.Process().cpu_affinity(before[1:] if cpus == 1 else before)
            (process,) = [one for one in psutil.Process().children() if one.pid not in known]
            deadline = time.monotonic() + _LOAD_SECONDS
            while f"headgate_workers {workers}" not in httpx.get(url.replace("invocations", "metrics")).text:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{workers} workers have not started within {_LOAD_SECONDS} s")
                time.sleep(0.2)
            yield url, process
    finally:
        psutil.Process().cpu_affinity(before)


def _memory(process: psutil.Process) -> int:
    """The proportional set size of a server's processes: bytes, with pages that several have counted once."""
    return sum(one.memory_full_info().pss for one in [process, *process.children(recursive=True)])


if __name__ == "__main__":
    main()
