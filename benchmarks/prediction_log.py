"""What the prediction log, redaction and traces cost a request, and at which rate the log begins to lose rows.

The cost: the app without a network, with and without in turn. Between processes, a machine that others use too moves
throughput by more than the log does. Here both are one process, in slices of a quarter of a second, and the log's
thread writes while the requests of its slices are answered.

The rate: rows handed to a log by themselves, ever more a second. `python benchmarks/prediction_log.py rates` is that
alone.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))

import psutil
from support.models import Models

from headgate_server.app import App
from headgate_server.prediction_log import PredictionLog, Row
from headgate_server.settings import Settings
from headgate_server.tracing import Tracing

PAIRS, SLICE_SECONDS, BURST = 120, 0.25, 20
RATES = ((1_000, 1_000), (5_000, 1_000), (20_000, 1_000), (50_000, 1_000), (100, 1_000_000), (1_000, 1_000_000))
RATE_SECONDS, TICK = 10.0, 0.001


def main() -> None:
    """Print the rates, and the cost for two models."""
    rates()
    if "rates" in sys.argv:
        return
    os.environ["OMP_NUM_THREADS"] = "1"
    logging.disable()
    print(f"{'':16}{'request, no network':>22}{'it costs':>20}   ({PAIRS} pairs of slices)")
    with tempfile.TemporaryDirectory() as folder:
        models = Models(Path(folder))
        for title, name, options in (("scikit-learn", "wine", {}), ("ONNX", "onnx", {"table": True})):
            asyncio.run(price(title, models(name, **options), Path(folder)))


def rates() -> None:
    """Hand rows to a log at a rate, and count those that it could not keep."""
    print(f"{'rows a second':>14}{'of bytes':>10}{'got':>9}{'lost':>8}{'waiting at most':>18}{'memory grew by':>17}")
    for rate, size in RATES:
        got, lost, waiting, grown = at_rate(rate, size)
        share = f"{lost:.1%}" if lost else "0"
        print(f"{rate:>14,}{size:>10,}{got:>9,.0f}{share:>8}{waiting:>14.1f} MiB{grown:>13.0f} MiB")
    print()


def at_rate(rate: int, size: int) -> tuple[float, float, float, float]:
    """The rate that was reached, the share that was lost, and the most MiB that waited and that memory grew by."""
    lost: list[int] = []
    handed, waiting, grown, process = 0, 0, 0, psutil.Process()
    with tempfile.TemporaryDirectory() as folder:
        log, before = PredictionLog(Path(folder), lost.append), process.memory_info().rss
        began = time.perf_counter()
        while (passed := time.perf_counter() - began) < RATE_SECONDS:
            due = int(rate * passed)
            for number in range(handed, due):
                # A body of its own, as each request has.
                body, now = bytes(bytearray(size)), time.time_ns() // 1000
                log.add(Row(str(number), now, 200, 0.001, mirrored=False, content_type="", request=body, response=b"1"))
            handed = due
            waiting = max(waiting, log._pending_bytes)  # noqa: SLF001 - what is bounded
            grown = max(grown, process.memory_info().rss - before)
            time.sleep(TICK)
        log.close()
    return handed / passed, sum(lost) / handed, waiting / 2**20, grown / 2**20


async def price(title: str, model: Path, folder: Path) -> None:
    """Answer requests for some minutes."""
    os.environ |= {"HEADGATE_MODEL": str(model)}
    app = App(Settings.from_env())
    app._load(asyncio.get_running_loop())  # noqa: SLF001 - what the lifespan does, without a server
    example = json.loads((model / "serving_input_example.json").read_bytes())["dataframe_split"]
    body = json.dumps({"dataframe_split": {**example, "data": example["data"][:1]}}).encode()
    hidden = example["columns"][:1]
    # Nobody takes the spans, which is the same for the request: they are sent from a thread.
    os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = "http://127.0.0.1:9"
    logs = [PredictionLog(folder / f"{title}-{bool(fields)}", lambda _rows: None, hidden=fields)
            for fields in ((), hidden)]  # fmt: skip
    ways = (("the log", "_log", logs[0]), ("the log, redacting", "_log", logs[1]),
            ("traces", "_tracing", Tracing(app._settings)))  # fmt: skip  # noqa: SLF001 - as above
    for says, switch, value in ways:
        with_it, without = [], []
        for _ in range(PAIRS):
            setattr(app, switch, value)
            with_it.append(await microseconds(app, body))
            setattr(app, switch, None)
            without.append(await microseconds(app, body))
        costs = [one - other for one, other in zip(with_it, without, strict=True)]
        error = 1.25 * statistics.stdev(costs) / len(costs) ** 0.5
        spread = f"{statistics.median(costs):>11.2f} ± {error:.2f} us"
        print(f"{title:16}{statistics.median(without):>19.1f} us{spread}  {says}")
    for log in logs:
        log.close()


async def microseconds(app: App, body: bytes) -> float:
    """The time of a request, in a slice."""
    scope = {
        "type": "http", "path": "/invocations", "method": "POST",
        "headers": [(b"content-type", b"application/json"), (b"x-request-id", b"0" * 36)],
    }  # fmt: skip

    async def receive() -> dict[str, Any]:
        # A body of its own, as each request has.
        return {"type": "http.request", "body": bytes(bytearray(body))}

    async def send(_message: dict[str, Any]) -> None:
        pass

    requests, began = 0, time.perf_counter()
    while time.perf_counter() - began < SLICE_SECONDS:
        for _ in range(BURST):
            await app(scope, receive, send)
        requests += BURST
    return (time.perf_counter() - began) / requests * 1e6


if __name__ == "__main__":
    main()
