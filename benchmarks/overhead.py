"""What Headgate itself costs: a whole release less its configured waits, imports, and `headgate --help`."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

import json

import pandas as pd
from client import Client
from support.models import Models
from support.stack import HEADGATE, start_stack

from headgate.errors import RolledBackError

FILE = """\
model: bench
artifact: {artifact}
target: {{kind: local}}
gates: {{shadow: {{min_requests: 50, max_disagreement: 50%}}}}
strategy: {{steps: [25%], min_requests: 100, min_duration: 2s}}
"""


TRIES = 3
TAKEN_BACK = RolledBackError.exit_code
"""On a busy machine a good canary may be slower for a while than the stable version, and the judge takes it back."""


def main() -> None:
    """Print all of it."""
    for name, command in (
        ("headgate --help", [HEADGATE, "--help"]),
        ("headgate validate", [HEADGATE, "validate", str(Path(__file__).parent.parent / "examples/wine/release.yaml")]),
        ("import headgate.spec", [sys.executable, "-c", "import headgate.spec"]),
        ("import flows.release", [sys.executable, "-c", "import flows.release"]),
        ("python -c pass", [sys.executable, "-c", "pass"]),
    ):
        print(f"{name:24}{statistics.median(timed(command) for _ in range(7)):>8.3f} s")
    releases()


def timed(command: list[str]) -> float:
    """Seconds that a command takes."""
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def releases() -> None:
    """Release three versions under traffic, and take the configured waits off."""
    with tempfile.TemporaryDirectory() as folder, start_stack(Path(folder) / "home") as stack:
        models = Models(Path(folder) / "models")
        (Path(folder) / "models").mkdir()
        file = Path(folder) / "release.yaml"
        print("\nA whole release, from the command to its end")
        print(f"  {'':34}{'command':>9}{'flow':>9}{'waits':>9}{'overhead':>10}")

        def release(title: str, does: str) -> dict[str, Any]:
            file.write_text(FILE.format(artifact=models("pyfunc", does=does)), encoding="utf-8")
            for _ in range(TRIES):
                began = time.perf_counter()
                done = subprocess.run([HEADGATE, "release", str(file), "--json"], check=False, capture_output=True,
                                      text=True, env={**os.environ, **stack.env})  # fmt: skip
                seconds = time.perf_counter() - began
                if done.returncode not in {0, TAKEN_BACK}:
                    raise SystemExit(f"the release ended with {done.returncode}:\n{done.stderr}")
                result: dict[str, Any] = json.loads(done.stdout)
                if done.returncode == 0:
                    print(f"  {title:34}{seconds:>8.1f}s{result['seconds']:>8.1f}s{result['waited']:>8.1f}s"
                          f"{seconds - result['waited']:>9.1f}s")  # fmt: skip
                    return result
                print(f"  {title:34}rolled back after {seconds:.1f} s: {result['reason']}")
            print(f"  {title:34}no figure: {TRIES} of {TRIES} releases were rolled back; is the machine busy?")
            return result

        first = release("first version, environment built", "double")
        rows = pd.DataFrame({"x": [1.0, 2.0]})
        with Client(first["url"], rows, rows["x"].map(lambda x: {"x": x * 2}), 100):
            release("canary, environment shared", "negative")
            release("canary again", "slow")


if __name__ == "__main__":
    main()
