"""A window of a million rows and twenty columns: the check beside Evidently's own report on all of it.

Each contestant is a process of its own, which reads the window from Parquet; its time is from the first row read to the
verdict, without imports, and its memory is the most that the process ever held, with them.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

SEED = 7
NUMERIC, CATEGORICAL = 16, 4
PLANTED = {"n0": "mean + 0.3", "n1": "spread x 1.5", "c0": "categories swapped", "n2": "20 % missing"}
"""What differs between the window and the reference; missing values are no drift, but a problem of quality."""


def write(file: Path, rows: int, seed: int, is_window: bool) -> None:  # noqa: FBT001 - called in another process
    """A table, column by column, so that this process stays small."""
    import pyarrow as pa  # noqa: PLC0415 - in the child
    import pyarrow.parquet as pq  # noqa: PLC0415

    dice = np.random.default_rng(seed)
    columns: dict[str, Any] = {}
    for number in range(NUMERIC):
        draw = (dice.normal, dice.exponential, dice.lognormal)[number % 3]
        columns[f"n{number}"] = pa.array(draw(size=rows))
    for number in range(CATEGORICAL):
        weights = np.array([0.4, 0.3, 0.2, 0.1])
        if is_window and number == 0:
            weights = weights[::-1]
        drawn = dice.choice(4, rows, p=weights).astype(np.int8)
        columns[f"c{number}"] = pa.DictionaryArray.from_arrays(drawn, ["red", "green", "blue", "grey"]).cast("string")
    if is_window:
        columns["n0"] = pa.array(columns["n0"].to_numpy() + 0.3)
        columns["n1"] = pa.array(columns["n1"].to_numpy() * 1.5)
        columns["n2"] = pa.array(columns["n2"].to_numpy(), mask=dice.random(rows) < 0.2)
    pq.write_table(pa.table(columns), file)


def ours(reference: Path, window: Path) -> dict[str, Any]:
    """The verdict, of a reference that was profiled before."""
    return _ours(reference, window, page=False)


def ours_with_page(reference: Path, window: Path) -> dict[str, Any]:
    """The verdict and Evidently's page on a sample."""
    return _ours(reference, window, page=True)


def _ours(reference: Path, window: Path, *, page: bool) -> dict[str, Any]:
    from headgate.monitor import Monitor  # noqa: PLC0415 - imports are not timed
    from monitoring.drift import ParquetColumns, Reference, check_drift, write_evidently  # noqa: PLC0415

    if page:
        import evidently.metrics  # noqa: F401, PLC0415
    began = time.perf_counter()
    known = Reference.load(reference.with_suffix(".kept"))
    assert known is not None
    check = check_drift(ParquetColumns(window), known, Monitor())
    if page:
        write_evidently(ParquetColumns(window), known, check, window.with_suffix(".html"))
    seconds = time.perf_counter() - began
    found = {column.column: (column.score, column.drifted, column.error) for column in check.columns}
    return {"seconds": seconds, "columns": found, "problems": [problem.message for problem in check.problems]}


def evidently(reference: Path, window: Path) -> dict[str, Any]:
    """The preset, as its documentation has it, and its page."""
    import pandas as pd  # noqa: PLC0415 - imports are not timed
    from evidently import DataDefinition, Dataset, Report  # noqa: PLC0415
    from evidently.presets import DataDriftPreset  # noqa: PLC0415

    warnings.simplefilter("ignore")
    began = time.perf_counter()
    now, before = pd.read_parquet(window), pd.read_parquet(reference)
    numerical = [name for name in now if name.startswith("n")]
    definition = DataDefinition(
        numerical_columns=numerical, categorical_columns=[name for name in now if name not in numerical]
    )
    sides = [Dataset.from_pandas(side, definition) for side in (now, before)]
    snapshot = Report([DataDriftPreset()]).run(*sides)
    metrics = snapshot.dict()["metrics"]
    verdict = time.perf_counter() - began
    snapshot.save_html(str(window.with_suffix(".html")))
    seconds = time.perf_counter() - began
    values = {metric["config"]["column"]: metric for metric in metrics if "column" in metric["config"]}
    found = {
        name: (float(metric["value"]), float(metric["value"]) >= metric["config"]["threshold"], 0.0)
        for name, metric in values.items()
    }
    return {"seconds": verdict, "with page": seconds, "columns": found}


def profile(reference: Path, _window: Path) -> dict[str, Any]:
    """What is done once for each version."""
    from monitoring.drift import ParquetColumns, Reference  # noqa: PLC0415 - imports are not timed

    began = time.perf_counter()
    Reference.of(ParquetColumns(reference)).save(reference.with_suffix(".kept"))
    return {"seconds": time.perf_counter() - began, "columns": {}}


def apart(call: Callable[..., Any], *arguments: object) -> dict[str, Any]:
    """Run in a process of its own; adds the most memory that it held, in MB."""
    context = multiprocessing.get_context("spawn")
    parent, child = context.Pipe()
    process = context.Process(target=_child, args=(child, call, arguments))
    process.start()
    found = json.loads(parent.recv())
    process.join()
    return dict(found)


def _child(pipe: Any, call: Callable[..., Any], arguments: tuple[object, ...]) -> None:  # noqa: ANN401
    found = call(*arguments) or {}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    pipe.send(json.dumps({**found, "MB": peak}))


def main() -> None:
    """Print the comparison, then how the check grows."""
    print(f"{NUMERIC} numeric and {CATEGORICAL} categorical columns, seed {SEED}; planted: {PLANTED}")
    with tempfile.TemporaryDirectory(prefix="hg-") as folder:
        compare(Path(folder), 1_000_000)
        grow(Path(folder))
        false_alarms()


def compare(folder: Path, rows: int) -> None:
    """The check beside Evidently, on the same two files."""
    reference, window = folder / "reference.parquet", folder / "window.parquet"
    apart(write, reference, rows, SEED, False)  # noqa: FBT003
    apart(write, window, rows, SEED + 1, True)  # noqa: FBT003
    once = apart(profile, reference, window)
    check = min((apart(ours, reference, window) for _ in range(3)), key=lambda found: float(found["seconds"]))
    page = apart(ours_with_page, reference, window)
    theirs = apart(evidently, reference, window)
    print(f"\n{rows:,} rows on both sides      seconds      MB   Evidently over it")
    for name, found, against in (
        ("Evidently's preset, verdict", theirs, theirs["seconds"]), ("Evidently's preset, page", theirs, None),
        ("the check", check, theirs["seconds"]), ("the check and a page", page, theirs["with page"]),
        ("profile of the reference, once", once, None),
    ):  # fmt: skip
        seconds = theirs["with page"] if name.endswith("preset, page") else found["seconds"]
        ratio = f"{against / seconds:6.1f} x, memory {theirs['MB'] / found['MB']:.1f} x" if against else ""
        print(f"{name:32} {seconds:7.2f} {found['MB']:7.0f}   {ratio}")
    differ = [abs(check["columns"][name][0] - value) for name, (value, _, _) in theirs["columns"].items()]
    stated = [check["columns"][name][2] for name in theirs["columns"]]
    unequal = [name for name, (_, drifted, _) in theirs["columns"].items() if check["columns"][name][1] != drifted]
    within = sum(difference <= error + 1e-9 for difference, error in zip(differ, stated, strict=True))
    print(
        f"scores of {len(differ)} columns: {within} within the stated error, which is at most {max(stated):.5f}; "
        f"the greatest difference is {max(differ):.6f}; verdicts that differ: {unequal or 'none'}"
    )
    print(f"found: {[name for name, (_, drifted, _) in check['columns'].items() if drifted]}, {check['problems']}")


def grow(folder: Path) -> None:
    """Time and memory by rows of the window, and by rows of the reference."""
    print("\nrows of window / reference    seconds      MB")
    for rows, before in ((100_000, 100_000), (1_000_000, 100_000), (1_000_000, 1_000_000), (10_000_000, 1_000_000)):
        reference, window = folder / f"r{before}.parquet", folder / f"w{rows}.parquet"
        for file, size in ((reference, before), (window, rows)):
            if not file.exists():
                apart(write, file, size, SEED, file == window)
        apart(profile, reference, window)
        found = apart(ours, reference, window)
        print(f"{rows:>12,} / {before:<12,} {found['seconds']:9.2f} {found['MB']:7.0f}")
        window.unlink()


def false_alarms(windows: int = 1000) -> None:
    """Columns of windows without drift that count as drifted, and planted shifts that are found."""
    import pandas as pd  # noqa: PLC0415 - heavy

    from headgate.monitor import Monitor  # noqa: PLC0415
    from monitoring.drift import Reference, check_drift, to_arrow  # noqa: PLC0415

    dice = np.random.default_rng(SEED)

    def draw(rows: int, shift: float = 0.0) -> pa.Table:
        values = {f"n{number}": dice.normal(shift, 1, rows) for number in range(4)}
        return to_arrow(pd.DataFrame(values | {"c": dice.choice(list("abcdef"), rows)}))

    known = Reference.of(draw(5000))
    print(
        f"\n{windows} windows without drift, 5 columns each     columns that drifted   by Evidently's threshold alone"
    )
    for rows in (100, 300, 1000, 10_000):
        checks = [check_drift(draw(rows), known, Monitor()) for _ in range(windows)]
        columns = [column for check in checks for column in check.columns]
        alone = sum(column.score >= column.threshold for column in columns) / len(columns)
        share = sum(column.drifted for column in columns) / len(columns)
        print(f"{rows:>8,} rows {'':32} {share:8.2%} {alone:24.2%}")
    print("\nshift of the mean, in deviations        found in windows of 100 / 300 / 1,000 rows (of 200)")
    for shift in (0.1, 0.15, 0.2, 0.3, 0.5):
        found = []
        for rows in (100, 300, 1000):
            checks = [check_drift(draw(rows, shift), known, Monitor()) for _ in range(200)]
            found.append(sum("n0" in check.drifted for check in checks) / len(checks))
        print(f"{shift:>8} {'':38} " + " / ".join(f"{share:.0%}" for share in found))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    main()
