"""A window of kept predictions beside the same window parsed from the log. `python benchmarks/predictions.py`.

Both give the monitor the same columns. Kept ones were parsed once, when they were taken over, which is timed too.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

COLUMNS = 20
BATCH = 500
SPAN = timedelta(minutes=50)
END = datetime(2026, 11, 25, 14, 0, tzinfo=UTC)


def write_log(path: Path, rows: int) -> None:
    """A server's log: requests of one record, with numbers and a category."""
    import numpy as np  # noqa: PLC0415 - imports are not timed
    import orjson  # noqa: PLC0415 - imports are not timed
    import pyarrow as pa  # noqa: PLC0415 - imports are not timed

    from deploy_targets.prediction_log import SCHEMA  # noqa: PLC0415 - imports are not timed

    dice = np.random.default_rng(0)
    names = [f"c{number}" for number in range(COLUMNS - 1)]
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, SCHEMA) as writer:
        for start in range(0, rows, BATCH):
            values, kinds = dice.normal(size=(BATCH, COLUMNS - 1)).tolist(), dice.choice(list("abcdef"), BATCH).tolist()
            bodies = [
                orjson.dumps({"dataframe_split": {"columns": [*names, "kind"], "data": [[*row, kind]]}})
                for row, kind in zip(values, kinds, strict=True)
            ]
            at = [END - SPAN + SPAN * (number / rows) for number in range(start, start + BATCH)]
            writer.write_batch(pa.RecordBatch.from_arrays([
                pa.array([f"{number:036d}" for number in range(start, start + BATCH)]),
                pa.array(at, SCHEMA.field("time").type), pa.array([200] * BATCH, pa.int16()),
                pa.array([0.001] * BATCH, pa.float32()), pa.array([False] * BATCH),
                pa.array(["application/json"] * BATCH), pa.array(bodies, pa.binary()),
                pa.array([b'{"predictions": [1.5]}'] * BATCH, pa.binary()), pa.array(["e"] * BATCH),
                pa.array(["v1"] * BATCH),
            ], schema=SCHEMA))  # fmt: skip


def measure(way: str, folder: Path) -> None:
    """One way in a process of its own: seconds, and the most memory it had."""
    import pyarrow as pa  # noqa: PLC0415 - imports are not timed

    from headgate.records import Window  # noqa: PLC0415 - imports are not timed
    from monitoring.predictions import Predictions, PredictionStore  # noqa: PLC0415 - imports are not timed

    def captured(_: Window):  # noqa: ANN202
        with pa.OSFile(str(folder / "log.arrows")) as source:
            yield from pa.ipc.open_stream(source)

    store, hour = PredictionStore(str(folder / "store"), "e"), Window(start=END - timedelta(hours=1), end=END)
    began = time.perf_counter()
    if way == "take":
        store.take(captured, END + timedelta(minutes=1), timedelta(days=1))
    else:
        kept = Predictions(store, lambda _: iter(()), "v1", hour) if way == "kept" else None
        window = kept or Predictions(None, captured, "v1", hour)
        for name in window.column_names:
            window.column(name)
    seconds, peak = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(seconds, peak / 1024)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--measure", nargs=2, metavar=("WAY", "FOLDER"))
    asked = parser.parse_args()
    if asked.measure:
        measure(asked.measure[0], Path(asked.measure[1]))
        return
    with tempfile.TemporaryDirectory(prefix="hg-") as name:
        folder = Path(name)
        write_log(folder / "log.arrows", asked.rows)
        found: dict[str, tuple[float, float]] = {}
        for way in ("take", "log", "kept"):
            runs = []
            for _ in range(1 if way == "take" else 3):
                command = [sys.executable, __file__, "--measure", way, str(folder)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                seconds, peak = map(float, done.stdout.split())
                runs.append((seconds, peak))
            found[way] = min(runs)
        sizes = [sum(file.stat().st_size for file in folder.rglob(kind)) / 1e6 for kind in ("*.arrows", "*.parquet")]
    print(f"{asked.rows} requests of {COLUMNS} columns; log {sizes[0]:.0f} MB, kept {sizes[1]:.0f} MB")
    for way, says in (("take", "taken over"), ("log", "a window from the log"), ("kept", "a window from the store")):
        seconds, peak = found[way]
        print(f"{says:>24}: {seconds:6.2f} s, {asked.rows / seconds:10,.0f} rows/s, {peak:5.0f} MB")
    print(f"kept over log: {found['log'][0] / found['kept'][0]:.1f} x faster, "
          f"1/{found['log'][1] / found['kept'][1]:.1f} of the memory")  # fmt: skip


if __name__ == "__main__":
    main()
