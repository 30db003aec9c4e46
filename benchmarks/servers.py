"""Our server against `mlflow models serve`, on the same models, side by side, one worker each.

The load is `wrk`'s (apt-get install wrk), so that the client costs next to nothing.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import httpx

from headgate.stack.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))

from support.models import Models

ROUNDS, SECONDS = 5, 3
QUANTILE = re.compile(r"(50|99)%\s+([\d.]+)(us|ms|s)")
RATE = re.compile(r"Requests/sec:\s+([\d.]+)")
THREADS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
SERVERS = ("mlflow models serve", "headgate")


def main() -> None:
    """Print one table for each model."""
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed: apt-get install wrk")
    with tempfile.TemporaryDirectory() as folder:
        models = Models(Path(folder))
        for title, name, options in (
            ("scikit-learn pipeline, 13 numbers", "wine", {}),
            ("ONNX, 13 numbers", "onnx", {"table": True}),
            ("LightGBM, 10 numbers", "lightgbm", {}),
            ("scikit-learn with text columns", "strings", {}),
            ("custom pyfunc, 1 number", "pyfunc", {"does": "double"}),
        ):
            compare(title, models(name, **options), Path(folder))


class Result(NamedTuple):
    """What wrk measured: requests a second, and milliseconds."""

    rate: float
    p50: float
    p99: float


def run(url: str, body: object, connections: int, seconds: int, folder: Path) -> Result:
    """Load a server for a while; every answer has to be good."""
    script = folder / "post.lua"
    script.write_text(
        f'wrk.method = "POST"\nwrk.body = [==[{json.dumps(body)}]==]\n'
        'wrk.headers["content-type"] = "application/json"\n',
        encoding="utf-8",
    )
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", str(script), url]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    if "Non-2xx" in output or "Socket errors" in output:
        raise RuntimeError(output)
    scale = {"us": 1e-3, "ms": 1.0, "s": 1e3}
    quantiles = {name: float(value) * scale[unit] for name, value, unit in QUANTILE.findall(output)}
    return Result(float(RATE.findall(output)[0]), quantiles["50"], quantiles["99"])


def compare(title: str, model: Path, folder: Path) -> None:
    """Start both servers and load them in turn."""
    body = one_row(model)
    with ExitStack() as running:
        urls = {server: running.enter_context(start(server, model, folder)) for server in SERVERS}
        for url in urls.values():
            run(url, body, 1, 1, folder)
        print(f"\n{title}, one row a request, one worker")
        print(f"  {'':30}{'c':>3}{'req/s':>9}{'p50 ms':>9}{'p99 ms':>9}{'ratio':>8}")
        for connections in (1, 8):
            rounds = [
                {name: run(url, body, connections, SECONDS, folder) for name, url in urls.items()}
                for _ in range(ROUNDS)
            ]
            median = {
                name: Result(*map(statistics.median, zip(*(results[name] for results in rounds), strict=True)))
                for name in SERVERS
            }
            base = median[SERVERS[0]].rate
            for name, (rate, p50, p99) in median.items():
                print(f"  {name:30}{connections:>3}{rate:>9.0f}{p50:>9.2f}{p99:>9.2f}{rate / base:>7.1f}x")


def one_row(model: Path) -> object:
    """The first row of the model's example, as a request body."""
    example = json.loads((model / "serving_input_example.json").read_bytes())["dataframe_split"]
    return {"dataframe_split": {**example, "data": example["data"][:1]}}


@contextmanager
def start(server: str, model: Path, folder: Path) -> Iterator[str]:
    """Start one server; gives its URL."""
    port = free_port(for_what=server)
    # `mlflow models serve` finds uvicorn on the PATH.
    env = {**os.environ, **THREADS, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    if server.startswith("mlflow"):
        command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(model), "-p", str(port),
                   "--env-manager", "local", "--workers", "1"]  # fmt: skip
    else:
        command = [sys.executable, "-m", "headgate_server"]
        env |= {
            "HEADGATE_MODEL": str(model), "PORT": str(port), "HEADGATE_HOST": "127.0.0.1",
            "HEADGATE_SCRATCH": tempfile.mkdtemp(dir=folder),
        }  # fmt: skip
    with subprocess.Popen(
        command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        try:
            wait(port, process)
            yield f"http://127.0.0.1:{port}/invocations"
        finally:
            os.killpg(process.pid, 15)


def wait(port: int, process: subprocess.Popen[bytes]) -> None:
    """Until /ping says 200."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/ping").is_success:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise RuntimeError(f"no server at port {port}")


if __name__ == "__main__":
    main()
