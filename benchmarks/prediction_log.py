"""What the prediction log, redaction and traces cost a request: the app without a network, with and without in turn.

Between processes, a machine that others use too moves throughput by more than the log does. Here both are one
process, in slices of a quarter of a second, and the log's thread writes while the requests of its slices are answered.
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

from support.models import Models

from serving.app import App
from serving.prediction_log import PredictionLog
from serving.settings import Settings
from serving.tracing import Tracing

PAIRS, SLICE_SECONDS, BURST = 120, 0.25, 20


def main() -> None:
    """Print the cost for two models."""
    os.environ["OMP_NUM_THREADS"] = "1"
    logging.disable()
    print(f"{'':16}{'request, no network':>22}{'it costs':>20}   ({PAIRS} pairs of slices)")
    with tempfile.TemporaryDirectory() as folder:
        models = Models(Path(folder))
        for title, name, options in (("scikit-learn", "wine", {}), ("ONNX", "onnx", {"table": True})):
            asyncio.run(price(title, models(name, **options), Path(folder)))


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
