"""The check beside NannyML and whylogs, on the same planted drifts. `python benchmarks/drift_peers.py [--rows N]`.

Each tool has an environment of its own, which uv makes, and a process of its own: the time is from the first row read
to the verdict, without imports, and the memory the most that the process held. Of the others everything is asked that
would find one of the planted drifts, with their defaults.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

SEED = 7
PLANTED = {
    "n0": "mean + 0.3", "n1": "spread x 1.5", "n2": "20 % missing", "c0": "categories swapped",
    "a, b": "correlation 0.7 -> 0, each alone as before",
}  # fmt: skip
QUIET = ("n3", "n4", "n5", "n6", "n7", "n8", "n9", "n10", "n11", "n12", "n13", "n14", "c1", "a", "b")
PEERS = {
    "nannyml": ("nannyml", "statsmodels"),
    "whylogs": ("whylogs[viz]", "pandas<2.3", "pyarrow", "ipython"),
}


def write(file: Path, rows: int, seed: int, *, is_window: bool) -> None:
    """Twenty columns: fifteen of numbers, three of which moved, a pair of numbers, three of categories."""
    import numpy as np  # noqa: PLC0415 - the peers' environments have what they need, and this one is not timed
    import pandas as pd  # noqa: PLC0415

    dice = np.random.default_rng(seed)
    draws = (dice.normal, dice.exponential, dice.lognormal)
    table: dict[str, Any] = {f"n{number}": draws[number % 3](size=rows) for number in range(15)}
    a, other = dice.normal(size=(2, rows))
    table |= {"a": a, "b": other if is_window else 0.7 * a + np.sqrt(1 - 0.49) * other}
    for name in ("c0", "c1", "c2"):
        weights = np.array([0.4, 0.3, 0.2, 0.1])
        table[name] = dice.choice(["red", "green", "blue", "grey"], rows, p=weights[::-1] if name == "c0" and is_window
                                  else weights)  # fmt: skip
    if is_window:
        table["n0"] += 0.3
        table["n1"] *= 1.5
        table["n2"] = np.where(dice.random(rows) < 0.2, np.nan, table["n2"])
    pd.DataFrame(table).to_parquet(file)


def headgate(reference: Path, window: Path) -> tuple[float, list[str]]:
    """The monitor's check; the reference was profiled with its version."""
    sys.path.insert(0, str(Path(__file__).parent.parent))
    from headgate.monitor import Monitor  # noqa: PLC0415 - imports are not timed
    from monitoring.drift import ParquetColumns, Reference  # noqa: PLC0415
    from monitoring.drift.check import check_drift  # noqa: PLC0415

    Reference.of(ParquetColumns(reference)).save(reference.with_suffix(".kept"))
    began = time.perf_counter()
    known = Reference.load(reference.with_suffix(".kept"))
    assert known is not None
    check = check_drift(ParquetColumns(window), known, Monitor())
    return time.perf_counter() - began, [*check.drifted, *(problem.column for problem in check.problems)]


def nannyml(reference: Path, window: Path) -> tuple[float, list[str]]:
    """Univariate drift, missing values, and the reconstruction error, which sees correlations."""
    import nannyml as nml  # noqa: PLC0415 - imports are not timed
    import pandas as pd  # noqa: PLC0415

    began = time.perf_counter()
    before, now = pd.read_parquet(reference), pd.read_parquet(window)
    names = list(before)
    found = set()
    univariate = nml.UnivariateDriftCalculator(column_names=names).fit(before).calculate(now)
    missing = nml.MissingValuesCalculator(column_names=names).fit(before).calculate(now)
    for result in (univariate, missing):
        analysed = result.filter(period="analysis").to_df()
        for column in analysed.columns:
            if column[-1] == "alert" and analysed[column].mean() > 1 / 2:
                found.add(column[0])
    numbers = [name for name in names if not name.startswith("c")]
    together = nml.DataReconstructionDriftCalculator(column_names=numbers).fit(before).calculate(now)
    alerts = together.filter(period="analysis").to_df()[("reconstruction_error", "alert")]
    # It says that something did, and not what; where the others were left out it is the correlation.
    rest = [name for name in numbers if name not in {"n0", "n1", "n2"}]
    alone = nml.DataReconstructionDriftCalculator(column_names=rest).fit(before).calculate(now)
    seconds = time.perf_counter() - began
    of_rest = alone.filter(period="analysis").to_df()[("reconstruction_error", "alert")]
    marks = ["(together)"] * bool(alerts.mean() > 1 / 2) + ["a, b"] * bool(of_rest.mean() > 1 / 2)
    return seconds, [*sorted(found), *marks]


def whylogs(reference: Path, window: Path) -> tuple[float, list[str]]:
    """Profiles of both sides, and its drift scores."""
    import pandas as pd  # noqa: PLC0415 - imports are not timed
    import whylogs as why  # noqa: PLC0415
    from whylogs.viz.drift.column_drift_algorithms import calculate_drift_scores  # noqa: PLC0415

    known = why.log(pd.read_parquet(reference)).view()
    began = time.perf_counter()
    now = why.log(pd.read_parquet(window)).view()
    scores = calculate_drift_scores(target_view=now, reference_view=known, with_thresholds=True)
    seconds = time.perf_counter() - began
    return seconds, [name for name, score in scores.items() if score and score["drift_category"] == "DRIFT"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--contestant", nargs=3, metavar=("NAME", "REFERENCE", "WINDOW"))
    asked = parser.parse_args()
    if asked.contestant:
        warnings.simplefilter("ignore")
        name, *files = asked.contestant
        seconds, found = globals()[name](*map(Path, files))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps([seconds, peak, sorted(set(found))]))
        return
    with tempfile.TemporaryDirectory(prefix="hg-") as folder:
        reference, window = Path(folder) / "reference.parquet", Path(folder) / "window.parquet"
        write(reference, asked.rows, SEED, is_window=False)
        write(window, asked.rows, SEED + 1, is_window=True)
        print(f"{asked.rows:,} rows of 20 columns on both sides, seed {SEED}; planted: {PLANTED}")
        first = 0.0
        for name in ("headgate", *PEERS):
            packages = [part for package in PEERS.get(name, ()) for part in ("--with", package)]
            interpreter = [sys.executable, "-m", "uv", "run", "--no-project", "--isolated", *packages, "python"]
            command = [*(interpreter if packages else [sys.executable]), __file__, "--contestant", name]
            done = subprocess.run([*command, str(reference), str(window)], capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"{name:>10}: failed: {done.stderr.strip().splitlines()[-1]}")
                continue
            seconds, peak, found = json.loads(done.stdout.splitlines()[-1])
            first = first or seconds
            hits = [kind for kind in PLANTED if kind in found]
            false = [column for column in found if column in QUIET]
            ratio = "" if name == "headgate" else f" ({seconds / first:.1f} x)"
            print(f"{name:>10}: {seconds:7.2f} s{ratio}, {peak:6.0f} MB; finds {hits}; of {len(QUIET)} quiet columns "
                  f"{len(false)} {false or ''}")  # fmt: skip


if __name__ == "__main__":
    main()
