"""How often chance passes for drift, and whether real shifts are found, in columns that are hard to judge.

`python benchmarks/drift_worlds.py [--only WORD] [--windows N] [--held-out]`. Each quiet window has a reference of its
own, drawn from the same population, so that windows are independent: at a rate of 1 %, more than 29 hits of 2,000
come about in 3 % of runs. The worlds, their shifts and seeds were written down before the check was changed; the three
of `HELD_OUT` were run once, at the end.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from headgate.monitor import Monitor

    Floats = NDArray[np.float64]

WINDOWS, SHIFTED = 2000, 200
CONSISTENT = 29
"""So many hits of 2,000 are consistent with a rate of 1 %."""
COMMON = 10


class World(NamedTuple):
    """A population.

    Attributes:
        name: for people.
        seed: of its draws.
        reference, window: rows.
        draw: a column, by the generator, the number of rows and the shift; a shift of "" is none.
        shifts: that should be found.
        new: the limit of new categories, where those are counted in the place of drift; otherwise "".
    """

    name: str
    seed: int
    reference: int
    window: int
    draw: Callable[[np.random.Generator, int, str], pa.Array]
    shifts: tuple[str, ...]
    new: str = ""


def categories(shares: Floats) -> Callable[[np.random.Generator, int, str], pa.Array]:
    """A column of categories.

    The shifts are `move X` (of the rows, from the ten most common to the ten after them) and `new X` (of the rows, to
    one category that was never seen).
    """
    names = pa.array([f"k{number}" for number in range(len(shares))] + ["unheard of"])
    quiet = np.append(shares / shares.sum(), 0.0)

    def draw(dice: np.random.Generator, rows: int, shift: str) -> pa.Array:
        now = quiet.copy()
        kind, _, size = shift.partition(" ")
        if kind == "new":
            now *= 1 - float(size)
            now[-1] = float(size)
        elif kind == "move":
            first, after = slice(0, COMMON), slice(COMMON, 2 * COMMON)
            # Where the ten have too little, the rows come from all the others.
            giver = first if now[first].sum() > float(size) else slice(2 * COMMON, None)
            now[giver] *= 1 - float(size) / now[giver].sum()
            now[after] *= 1 + float(size) / now[after].sum()
        drawn = np.searchsorted(np.cumsum(now), dice.random(rows) * now.sum(), side="right").astype(np.int32)
        return pa.DictionaryArray.from_arrays(pa.array(np.minimum(drawn, len(names) - 1)), names).cast(pa.string())

    return draw


def numbers(kind: str, parameter: float) -> Callable[[np.random.Generator, int, str], pa.Array]:
    """A column of numbers; shifts are `shift X` (quartile ranges of the population) and `scale X` (of all values)."""

    def population(dice: np.random.Generator, rows: int) -> Floats:
        return {
            "pareto": lambda: 1 + dice.pareto(parameter, rows), "lognormal": lambda: dice.lognormal(0, parameter, rows),
            "student": lambda: dice.standard_t(parameter, rows), "normal": lambda: dice.normal(0, parameter, rows),
        }[kind]()  # fmt: skip

    between = float(np.subtract(*np.quantile(population(np.random.default_rng(0), 400_000), [0.75, 0.25])))

    def draw(dice: np.random.Generator, rows: int, shift: str) -> pa.Array:
        values = population(dice, rows)
        how, _, size = shift.partition(" ")
        if how:
            values = values + float(size) * between if how == "shift" else values * float(size)
        return pa.array(values)

    return draw


def zipf(kinds: int, power: float = 1.0) -> Floats:
    """Shares of a long tail."""
    shares: Floats = np.arange(1, kinds + 1) ** -power
    return shares


NEW = ("new 0.15", "new 0.3")
MOVES = ("move 0.1", "move 0.2", "new 0.1")
REAL = ("shift 0.3", "shift 0.5", "scale 1.5", "scale 2")
WORLDS = (
    World("300 categories, Zipf", 101, 5000, 1000, categories(zipf(300)), MOVES),
    World("300 categories, uniform", 102, 5000, 1000, categories(np.ones(300)), MOVES),
    World("300 categories, Zipf, 150 rows", 103, 5000, 150, categories(zipf(300)), MOVES),
    World("2,000 categories, Zipf", 104, 10_000, 1000, categories(zipf(2000)), MOVES),
    World("2,000 categories, uniform", 105, 10_000, 1000, categories(np.ones(2000)), MOVES),
    World("20,000 categories, Zipf", 106, 50_000, 2000, categories(zipf(20_000)), MOVES),
    World("20,000 categories, uniform", 107, 50_000, 2000, categories(np.ones(20_000)), MOVES),
    World("new ones of 2,000, Zipf, limit 10 %", 108, 2000, 500, categories(zipf(2000)), NEW, "10%"),
    World("new ones of 20,000, Zipf, limit 10 %", 109, 20_000, 1000, categories(zipf(20_000)), NEW, "10%"),
    World("new ones of 2,000, Zipf, limit 0 %", 110, 5000, 500, categories(zipf(2000)), ("new 0.05", "new 0.1"), "0%"),
    World("Pareto 1.5", 111, 5000, 500, numbers("pareto", 1.5), REAL),
    World("lognormal, sigma 2", 112, 5000, 500, numbers("lognormal", 2), REAL),
    World("Cauchy", 113, 5000, 500, numbers("student", 1), REAL),
    World("Cauchy, 150 rows", 114, 2000, 150, numbers("student", 1), REAL),
    World("Pareto 1.5, 5,000 rows", 115, 5000, 5000, numbers("pareto", 1.5), REAL),
    World("normal, deviation 0.0001", 116, 5000, 500, numbers("normal", 1e-4), REAL),
    World("normal, deviation 1", 117, 5000, 500, numbers("normal", 1), REAL),
    World("six categories", 118, 5000, 500, categories(np.array([30, 25, 20, 15, 9, 1.0])), ("new 0.1", "new 0.2")),
)  # fmt: skip
HELD_OUT = (
    World("5,000 categories, Zipf 1.3", 901, 20_000, 3000, categories(zipf(5000, 1.3)), MOVES),
    World("new ones of 8,000, Zipf 0.9, limit 10 %", 902, 15_000, 800, categories(zipf(8000, 0.9)), NEW, "10%"),
    World("Student's t, 1.2 degrees", 903, 3000, 400, numbers("student", 1.2), REAL),
)  # fmt: skip


def hits(world: World, windows: int, shift: str, seed: int) -> tuple[int, int]:
    """In how many windows the column drifted, or has new categories; and in how many it was compared at all."""
    from monitoring.drift import Reference, check_drift  # noqa: PLC0415 - after the path

    dice = np.random.default_rng([world.seed, seed])
    found = compared = 0
    for _ in range(windows):
        known = Reference.of(pa.table({"x": world.draw(dice, world.reference, "")}))
        check = check_drift(pa.table({"x": world.draw(dice, world.window, shift)}), known, limits(world))
        kinds = {problem.kind for problem in check.problems}
        found += "new categories" in kinds if world.new else bool(check.drifted)
        compared += "x" in check.checked
    return found, compared


def limits(world: World) -> Monitor:
    """Those that are the default, but for new categories."""
    from headgate.monitor import Monitor  # noqa: PLC0415 - after the path

    quality: dict[str, Any] = {"new_categories": world.new or "10%"}
    return Monitor.model_validate({"data_quality": quality})


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="", help="worlds whose name has this word")
    parser.add_argument("--windows", type=int, default=WINDOWS)
    parser.add_argument("--shifted", type=int, default=SHIFTED)
    parser.add_argument("--held-out", action="store_true")
    asked = parser.parse_args()
    print(f"| world | reference / window | hits of {asked.windows:,} quiet | found, of {asked.shifted} | ms |")
    print("|---|---|---|---|---|", flush=True)
    for world in HELD_OUT if asked.held_out else WORLDS:
        if asked.only not in world.name:
            continue
        began = time.perf_counter()
        false, compared = hits(world, asked.windows, "", 0)
        each = (time.perf_counter() - began) / max(asked.windows, 1) * 1000
        power = ", ".join(
            f"{shift}: {hits(world, asked.shifted, shift, 1 + number)[0]}" for number, shift in enumerate(world.shifts)
        )
        quiet = f"{false}" + ("" if compared == asked.windows else f" ({compared} compared)")
        print(f"| {world.name} | {world.reference:,} / {world.window:,} | {quiet} | {power} | {each:.1f} |", flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    main()
