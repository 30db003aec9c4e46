"""Parquet files with faults: each is read, or refused as a file, in child processes with limits.

Run as a program it reads the files of some seeds and prints a line of JSON for each (`Ran`); whoever started it starts
another where it ends before the last one.
"""

# ruff: noqa: E501, ISC004, PLW0108 - lists of odd values

from __future__ import annotations

import io
import json
import os
import random
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from headgate.errors import HeadgateError
from headgate.monitor import Monitor
from headgate.records import Window
from headgate_server.shape import Shape
from monitoring.bodies import PARQUET, records
from monitoring.drift import ParquetColumns, Reference, check_drift
from monitoring.predictions import Predictions, PredictionStore
from monitoring.predictions.typed import FIXED
from monitoring.replay.recorded import COLUMNS, read_counts
from monitoring.truth.labels import Labels, labels_from_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

SECONDS = 1.0
"""Of a processor, for one file."""
MEMORY = 512 * 2**20
"""That reading one file may add to the process."""
_KILLED_AFTER = 10
_ADDRESSES = 12 * 2**30
_ROWS = 60
_NOW = datetime(2026, 11, 25, 14, 7, 30, tzinfo=UTC)
_HOUR = Window(start=_NOW - timedelta(hours=1), end=_NOW)
_SLOT = _NOW.replace(minute=0, second=0)

ENDS = ("read", "refused", "traceback", "rows lost", "slow", "memory", "crash")
"""How one file can end; from the third on something is wrong."""


class Ran(NamedTuple):
    """How the files of some seeds ended, the worst time in seconds of a processor, and what went wrong."""

    ends: Counter[str]
    slowest: float
    wrong: list[str]

    @property
    def tried(self) -> int:
        """All of them."""
        return self.ends.total()


def check(seeds: range, *, at_once: int = 1) -> Ran:
    """Read the files of these seeds in child processes.

    Args:
        seeds: of the files.
        at_once: how many processes.
    """
    shares = [range(seeds.start + place, seeds.stop, at_once) for place in range(at_once)]
    children = [_Child(share) for share in shares if share]
    ends: Counter[str] = Counter()
    slowest, wrong = 0.0, []
    for child in children:
        for seed, role, fault, end, why, seconds in child.rows():
            ends[end] += 1
            slowest = max(slowest, seconds)
            if end not in ENDS[:2]:
                wrong.append(f"seed {seed} ({role}, {fault}): {end}: {why}")
    return Ran(ends, slowest, wrong)


class _Child:
    def __init__(self, seeds: range) -> None:
        self._seeds = seeds
        self._process = self._start(seeds)

    def _start(self, seeds: range) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, __file__, str(seeds.start), str(seeds.stop), str(seeds.step)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            # Arrow's own allocators keep addresses, which are limited here.
            env={**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system"},
        )  # fmt: skip

    def rows(self) -> Iterator[tuple[int, str, str, str, str, float]]:
        left = self._seeds
        while left:
            assert self._process.stdout is not None
            begun: tuple[str, str] | None = None
            for line in self._process.stdout:
                told = json.loads(line)
                if len(told) == len(File._fields) - 1:
                    begun = told[0], told[1]
                    continue
                yield tuple(told)
                left, begun = left[1:], None
            _, said = self._process.communicate()
            if left:
                if begun is None:
                    raise RuntimeError(f"the file of seed {left[0]} could not be made: {said[-2000:]}")
                code = self._process.returncode
                end = "slow" if -code in {signal.SIGPROF, signal.SIGXCPU} else "crash"
                yield left[0], *begun, end, f"the process ended with {code}: {said[-300:]}", float(_KILLED_AFTER)
                if left := left[1:]:
                    self._process = self._start(left)


def main() -> None:
    """Read the files of the seeds that the arguments name."""
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESSES, _ADDRESSES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    seeds = range(*map(int, sys.argv[1:]))
    out = os.fdopen(os.dup(1), "w", buffering=1)
    with tempfile.TemporaryDirectory() as name:
        # What only the first one does, such as imports.
        for role in ROLES:
            _end_of(role, sound(role), Path(name))
        for seed in seeds:
            file = mutated(seed)
            out.write(json.dumps([file.role, file.fault]) + "\n")
            before, began = _memory(reset=True), time.process_time()
            signal.setitimer(signal.ITIMER_PROF, _KILLED_AFTER)
            end, why = _end_of(file.role, file.content, Path(name))
            signal.setitimer(signal.ITIMER_PROF, 0)
            seconds, grown = time.process_time() - began, _memory() - before
            if end in ENDS[:2] and grown > MEMORY:
                end, why = "memory", f"{grown / 2**20:.0f} MiB more; {why}"
            elif end in ENDS[:2] and seconds > SECONDS:
                end, why = "slow", f"{seconds:.1f} s; {why}"
            out.write(json.dumps([seed, file.role, file.fault, end, why, seconds]) + "\n")


def _memory(*, reset: bool = False) -> int:
    """The most that this process had since it was asked to forget that; what it has now where it is asked to."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    wanted = "VmRSS" if reset else "VmHWM"
    return (
        next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if wanted in line)
        * 1024
    )


def _end_of(role: str, content: bytes, folder: Path) -> tuple[str, str]:
    try:
        return ROLES[role](content, folder)
    except HeadgateError as error:
        return _refused(str(error))
    except Exception as error:  # noqa: BLE001 - whatever a file leads to
        place = _place(error)
        return "traceback", f"{error!r}"[:300] + f" at {place}"


def _end_of_two(unreadable: Mapping[str, str], read: str) -> tuple[str, str]:
    """How a file ended that is read beside a sound one, whose rows are all there."""
    return _refused(*unreadable.values()) if unreadable else ("read", read)


def _refused(why: str) -> tuple[str, str]:
    return ("refused", why[:300]) if _is_clear(why) else ("traceback", f"no words: {why!r}")


def _is_clear(text: str) -> bool:
    # It is written down, and shown on a terminal.
    return bool(text.strip()) and all(letter.isprintable() or letter == "\n" for letter in text)


def _place(error: BaseException) -> str:
    own, trace = "", error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if "site-packages" not in name:
            own = f"{Path(name).name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return own


# What reads Parquet, and how each is to take a file that it cannot read.


def _window(content: bytes, folder: Path) -> tuple[str, str]:
    """The kept predictions of an hour: a sound file of one slot, and the mutated one of another."""
    place = folder / "store"
    path = place / f"endpoint=e/date={_SLOT:%Y-%m-%d}/revision=v1"
    path.mkdir(parents=True, exist_ok=True)
    (place / "endpoint=e/taken.json").write_text(json.dumps({"until": _NOW.isoformat()}))
    (path / f"{_SLOT:%H%M}-0.parquet").write_bytes(content)
    (path / f"{_SLOT - timedelta(minutes=10):%H%M}-0.parquet").write_bytes(sound("window", minutes=10))
    window = Predictions(PredictionStore(str(place), "e"), lambda _: iter(()), "v1", _HOUR)

    def all_of_it() -> int:
        lengths = {len(window.column(name)) for name in window.column_names}
        if lengths != {window.num_rows}:
            raise AssertionError(f"columns of {lengths} rows, and the window has {window.num_rows}")
        check_drift(window, _known(), Monitor(min_rows=1), window.repeated, window.unreadable_requests)
        return window.num_rows

    rows = window.whole(all_of_it)
    if rows < _ROWS:
        return "rows lost", f"{rows} of {_ROWS} rows of the other file; {window.unreadable}"
    return _end_of_two(window.unreadable, f"{rows} rows")


def _reference(content: bytes, folder: Path) -> tuple[str, str]:
    path = folder / "reference.parquet"
    path.write_bytes(content)
    found = Reference.of(ParquetColumns(path))
    found.save(folder / "kept")
    if Reference.load(folder / "kept") is None:
        return "traceback", "what was kept of it cannot be loaded"
    return "read", f"{found.rows} rows, passed over {found.passed_over}"[:300]


def _kept_sample(content: bytes, folder: Path) -> tuple[str, str]:
    """A reference's kept rows; one that cannot be read is made anew."""
    _known().save(folder / "sample")
    (folder / "sample" / "sample.parquet").write_bytes(content)
    return ("refused", "made anew") if Reference.load(folder / "sample") is None else ("read", "")


def _labels(content: bytes, folder: Path) -> tuple[str, str]:
    path = folder / "labels.parquet"
    path.write_bytes(content)
    return "read", f"{labels_from_file(path).num_rows} labels"


def _kept_labels(content: bytes, folder: Path) -> tuple[str, str]:
    path = folder / "labels-store" / "endpoint=e" / "labels"
    path.mkdir(parents=True, exist_ok=True)
    (path / "20261125T140730-000000000000.parquet").write_bytes(content)
    (path / "20261125T140700-000000000001.parquet").write_bytes(sound("kept labels"))
    kept = Labels(PredictionStore(str(folder / "labels-store"), "e"))
    rows = len(kept.read())
    if rows < _ROWS:
        return "rows lost", f"{rows} of {_ROWS} labels of the other file"
    return _end_of_two(kept.unreadable, f"{rows} labels")


def _counts(content: bytes, folder: Path) -> tuple[str, str]:
    path = folder / "counts.parquet"
    path.write_bytes(content)
    return "read", f"{len(read_counts(path).seconds)} looks"


def _body(content: bytes, _folder: Path) -> tuple[str, str]:
    """A request's body: what the server would refuse, and what the readers of its log make of it."""
    misfit = Shape(None).misfit(content, PARQUET)
    found = records(content, b'{"predictions": [1]}', PARQUET)
    return ("refused", misfit) if misfit or found is None else ("read", f"{len(found)} records")


ROLES: dict[str, Callable[[bytes, Path], tuple[str, str]]] = {
    "window": _window, "reference": _reference, "kept sample": _kept_sample, "labels": _labels,
    "kept labels": _kept_labels, "counts": _counts, "body": _body,
}  # fmt: skip


@cache
def _known() -> Reference:
    return Reference.of(_table("reference"))


# Sound files.


def _table(role: str, minutes: int = 0) -> pa.Table:
    """The sound table of a role; of a window the rows are of `minutes` earlier."""
    dice = np.random.default_rng(0)
    inputs = {
        "a": dice.normal(size=_ROWS), "b": [f"text {number % 7}" for number in range(_ROWS)],
        "c": dice.integers(0, 9, _ROWS),
    }  # fmt: skip
    ids = [f"request-{minutes}-{number}" for number in range(_ROWS)]
    if role == "window":
        times = [_SLOT - timedelta(minutes=minutes) + timedelta(seconds=number) for number in range(_ROWS)]
        fixed = [ids, [0] * _ROWS, times, [200] * _ROWS, [0.1] * _ROWS, [False] * _ROWS, [True] * _ROWS]
        columns = {field.name: pa.array(values, field.type) for field, values in zip(FIXED, fixed, strict=True)}
        more = {f"input.{name}": pa.array(values) for name, values in inputs.items()}
        return pa.table(columns | more | {"output.prediction": pa.array(inputs["a"])})
    if role in {"labels", "kept labels"}:
        return pa.table({
            "request_id": ids, "row": pa.array([0] * _ROWS, pa.int32()), "label": [str(n % 3) for n in range(_ROWS)],
        })  # fmt: skip
    if role == "counts":
        steps = np.arange(_ROWS) * 10
        return pa.table(dict(zip(COLUMNS, (steps, steps * 100, steps, steps * 5, steps // 10), strict=True)))
    return pa.table(inputs)


@cache
def sound(role: str, minutes: int = 0) -> bytes:
    """A file as Headgate, or pandas, writes it."""
    return _written(_table(role, minutes))


def _written(table: pa.Table, **how: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **{"compression": "zstd", **how})
    return buffer.getvalue()


# Faults.


class File(NamedTuple):
    """A file with faults: what it is taken for, what was done to it, its bytes."""

    role: str
    fault: str
    content: bytes


def mutated(seed: int) -> File:
    """A file with one fault of its table, or one to three of its bytes; the same for the same seed."""
    dice = random.Random(seed)
    role = dice.choice(list(ROLES))
    if dice.random() < 0.5:
        faults = []
        content = sound(role)
        for _ in range(dice.randint(1, 3)):
            fault = dice.choice(_OF_BYTES)
            faults.append(fault.__name__.strip("_"))
            content = fault(content, dice)
        return File(role, "+".join(faults), content)
    fault = dice.choice(_OF_TABLES)
    return File(role, fault.__name__.strip("_"), fault(_table(role), dice))


def _truncate(content: bytes, dice: random.Random) -> bytes:
    return content[: dice.randrange(len(content) + 1)]


def _flip(content: bytes, dice: random.Random) -> bytes:
    if not content:
        return content
    changed = bytearray(content)
    for _ in range(dice.choice([1, 2, 8, 40])):
        changed[dice.randrange(len(changed))] = dice.randrange(256)
    return bytes(changed)


def _flip_footer(content: bytes, dice: random.Random) -> bytes:
    """Counts, sizes, offsets, types, encodings and names are there."""
    if len(content) < 12:
        return content
    changed, length = bytearray(content), min(int.from_bytes(content[-8:-4], "little"), len(content) - 8)
    for _ in range(dice.choice([1, 1, 2, 4])):
        place = len(changed) - 8 - dice.randrange(max(length, 1)) - 1
        changed[place] = dice.choice(
            [0, 0xFF, 0x7F, 0x80, changed[place] ^ (1 << dice.randrange(8)), dice.randrange(256)]
        )
    return bytes(changed)


def _huge_number(content: bytes, dice: random.Random) -> bytes:
    """A number of nine bytes in the place of a short one, as Thrift writes it."""
    place = dice.randrange(len(content) + 1)
    huge = bytes([0xFE, *[0xFF] * dice.choice([3, 4, 7, 8]), 0x01])
    return content[:place] + huge + content[place + dice.choice([0, 1, len(huge)]) :]


def _zero_page(content: bytes, dice: random.Random) -> bytes:
    first, size = dice.randrange(len(content) + 1), dice.choice([4, 64, 512, 4096])
    return content[:first] + bytes(len(content[first : first + size])) + content[first + size :]


def _swap_parts(content: bytes, dice: random.Random) -> bytes:
    a, b, c = sorted(dice.randrange(len(content) + 1) for _ in range(3))
    return content[:a] + content[b:c] + content[a:b] + content[c:]


def _insert(content: bytes, dice: random.Random) -> bytes:
    place = dice.randrange(len(content) + 1)
    return content[:place] + dice.randbytes(dice.choice([1, 4, 100])) + content[place:]


def _footer_length(content: bytes, dice: random.Random) -> bytes:
    length = dice.choice([0, 1, 2**31 - 1, 2**31, 2**32 - 1, len(content), len(content) - 8, dice.randrange(2**32)])
    return content[:-8] + struct.pack("<I", length) + content[-4:]


def _magic(content: bytes, dice: random.Random) -> bytes:
    return content[:-4] + dice.choice([b"PARE", b"PAR2", b"\x00\x00\x00\x00", b"ARRO"])


_OF_BYTES = [
    _truncate, _flip, _flip, _flip_footer, _flip_footer, _flip_footer, _flip_footer, _huge_number, _zero_page,
    _swap_parts, _insert, _footer_length, _magic,
]  # fmt: skip


def _values(dice: random.Random, rows: int) -> pa.Array:
    """Values of a type that nobody expects in this column."""
    odd: list[Callable[[], pa.Array]] = [
        lambda: pa.nulls(rows),
        lambda: pa.array([None] * rows, pa.float64()),
        lambda: pa.array([dice.choice([float("nan"), float("inf"), float("-inf"), None, 0.0]) for _ in range(rows)]),
        lambda: pa.array([[1, 2]] * rows),
        lambda: pa.array([{"x": {"y": [1]}}] * rows),
        lambda: pa.array([[("k", 1)]] * rows, pa.map_(pa.string(), pa.int64())),
        lambda: pa.array([b"\xff\xfe\x00"] * rows),
        lambda: pa.array([b"12345678"] * rows, pa.binary(8)),
        lambda: pa.array(["\x1b[31m\x00\u202e", "", "é" * 50][:3] * (rows // 3 + 1))[:rows],
        lambda: pa.array(["9" * 400, "1e999", "nan", "-0"] * (rows // 4 + 1))[:rows],
        lambda: pa.array([Decimal("1e30")] * rows, pa.decimal128(38, 2)),
        lambda: pa.array([Decimal(1)] * rows, pa.decimal256(70, 2)),
        lambda: pa.array([2**64 - 1] * rows, pa.uint64()),
        lambda: pa.array([-(2**63)] * rows),
        lambda: pa.array([dice.choice([-1, 0, 2**31, None]) for _ in range(rows)]),
        lambda: pa.array([True, None] * (rows // 2 + 1))[:rows],
        lambda: pa.array(np.zeros(rows, np.float16)),
        lambda: pa.array([0] * rows, pa.date32()),
        lambda: pa.array([2**62] * rows, pa.timestamp("us")),
        lambda: pa.array([-(2**63) + 1] * rows, pa.timestamp("us", tz="UTC")),
        lambda: pa.array([10**15] * rows, pa.timestamp("us", tz=dice.choice(_ZONES))),
        lambda: pa.array([1] * rows, pa.timestamp("ns", tz=dice.choice(_ZONES))),
        lambda: pa.array([1] * rows, pa.time64("ns")),
        lambda: pa.array([1] * rows, pa.duration("us")),
        lambda: pa.array(["x", "y"] * (rows // 2 + 1))[:rows].dictionary_encode(),
        lambda: pa.array(["x"] * rows, pa.large_string()),
        lambda: pa.array(["x"] * rows, pa.string_view()),
        lambda: pa.array([[1.0]] * rows, pa.list_(pa.float64(), 1)),
    ]
    return dice.choice(odd)()


_ZONES = ["Europe/Nowhere", "+99:99", "-25:00", "UTC\x00", "\x1b[2J", "", "Z" * 300, "+05:30", "Etc/GMT-14"]
_NAMES = [
    "", "\x00", "\x1b[31m", "a\nb", "\u202e", "a.b", "__index_level_0__", "x" * 5000, "input.", "output.", "/", "'",
    "\ufeff", "input.\x1b[2J", "input." + "y" * 3000, "0",
]  # fmt: skip


def _wrong_type(table: pa.Table, dice: random.Random) -> bytes:
    place = dice.randrange(table.num_columns)
    return _written(table.set_column(place, table.column_names[place], _values(dice, table.num_rows)))


def _missing_column(table: pa.Table, dice: random.Random) -> bytes:
    return _written(table.drop_columns(dice.sample(table.column_names, dice.randint(1, table.num_columns))))


def _doubled_column(table: pa.Table, dice: random.Random) -> bytes:
    name = dice.choice(table.column_names)
    again = dice.choice([table[name], _values(dice, table.num_rows)])
    return _written(table.append_column(name, again))


def _odd_names(table: pa.Table, dice: random.Random) -> bytes:
    name = dice.choice(_NAMES)
    if dice.random() < 0.5:
        return _written(table.append_column(name, _values(dice, table.num_rows)))
    names = list(table.column_names)
    names[dice.randrange(len(names))] = name
    return _written(table.rename_columns(names))


def _no_rows(table: pa.Table, dice: random.Random) -> bytes:
    """No row group, empty ones, or empty ones between others."""
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, table.schema) as writer:
        for _ in range(dice.randrange(4)):
            writer.write_table(table.slice(0, dice.choice([0, 0, table.num_rows])))
    return buffer.getvalue()


def _many_columns(table: pa.Table, dice: random.Random) -> bytes:
    more = {f"{dice.choice(['input.', 'output.', ''])}n{number}": table[0] for number in range(100)}
    return _written(pa.table(dict(zip(table.column_names, table.columns, strict=True)) | more))


def _odd_format(table: pa.Table, dice: random.Random) -> bytes:
    """Other versions, encodings and compressions, which are no fault."""
    return _written(
        table, version=dice.choice(["1.0", "2.4", "2.6"]), data_page_version=dice.choice(["1.0", "2.0"]),
        compression=dice.choice(["none", "snappy", "gzip", "brotli", "lz4"]), use_dictionary=dice.random() < 0.5,
        row_group_size=dice.choice([1, 7, 1000]), store_schema=dice.random() < 0.5,
        use_deprecated_int96_timestamps=dice.random() < 0.5, write_page_checksum=dice.random() < 0.5,
    )  # fmt: skip


def _odd_metadata(table: pa.Table, dice: random.Random) -> bytes:
    """What pandas and Arrow write beside the schema, which their readers follow."""
    pandas = [
        b"", b"null", b"[]", b"{}", b'{"columns": 7}', b"\xff", b"[" * 100_000, b'{"index_columns": [7]}',
        b'{"index_columns": ["a"], "columns": [], "column_indexes": []}',
        b'{"index_columns": [{"kind": "range", "name": null, "start": 0, "stop": 4000000000, "step": 0}], '
        b'"columns": [], "column_indexes": [{}]}',
        b'{"index_columns": [{"kind": "range", "name": "a", "start": 0, "stop": 9e99, "step": 1}], '
        b'"columns": [{"name": "a", "field_name": "a", "pandas_type": "x", "numpy_type": "object[", '
        b'"metadata": 7}], "column_indexes": []}',
        b'{"index_columns": [], "column_indexes": [], "columns": [{"name": "b", "field_name": "b", '
        b'"pandas_type": "datetimetz", "numpy_type": "datetime64[ns]", "metadata": {"timezone": "No/Where"}}]}',
        b'{"index_columns": [], "column_indexes": [], "attributes": 5, "columns": [{"name": "b", "field_name": "b", '
        b'"pandas_type": "unicode", "numpy_type": "period[Q]", "metadata": null}]}',
    ]  # fmt: skip
    name = dice.choice([b"pandas", b"pandas", b"ARROW:schema", b"\xff", b"\x00"])
    kept = table.replace_schema_metadata({name: dice.choice(pandas)})
    return _written(kept, store_schema=name != b"ARROW:schema")


@cache
def _many_rows(role: str, kind: str) -> bytes:
    """A quarter of a billion rows in some kilobytes: one row group of equal values, named 960 times."""
    rows = 2**18
    table = _table(role)
    equal = {"first": 0, "long": 0, "null": None}[kind]
    columns = {
        name: pa.nulls(rows, column.type) if equal is None else pa.repeat(column[0], rows)
        for name, column in zip(table.column_names, table.columns, strict=True)
    }
    if kind == "long":
        # Of a dictionary's one text of 100 kB.
        rows //= 64
        text = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array(["x" * 100_000]))
        columns = {name: text if pa.types.is_string(column.type) else column[:rows] for name, column in columns.items()}
    content = bytearray(_written(pa.table(columns), row_group_size=rows, store_schema=False))
    footer = int.from_bytes(content[-8:-4], "little")
    described = pq.read_metadata(io.BytesIO(content))
    every = pq.read_metadata(io.BytesIO(content))
    for _ in range(959 if kind != "long" else 9):
        every.append_row_groups(described)
    buffer = io.BytesIO()
    every.write_metadata_file(buffer)
    return bytes(content[: -8 - footer]) + buffer.getvalue()[4:]


def _bomb(table: pa.Table, dice: random.Random) -> bytes:
    role = next(role for role in ROLES if _table(role).column_names == table.column_names)
    return _many_rows(role, dice.choice(["first", "null", "long"]))


@cache
def _zeros() -> bytes:
    return _written(pa.table({"a": pa.array([b"\x00" * (3 * 2**28)])}), use_dictionary=False)


def _zstd_bomb(table: pa.Table, dice: random.Random) -> bytes:
    """One value that becomes 768 MiB."""
    del table, dice
    return _zeros()


def _wrong_indexes(table: pa.Table, dice: random.Random) -> bytes:
    """Pages without compression, of which some bytes are others: indexes of a dictionary, lengths, levels."""
    content = bytearray(_written(table, compression="none", use_dictionary=True))
    described = pq.read_metadata(io.BytesIO(content)).row_group(0)
    column = described.column(dice.randrange(described.num_columns))
    first, size = column.data_page_offset, column.total_compressed_size
    for _ in range(dice.choice([1, 2, 8])):
        place = first + dice.randrange(max(size, 1))
        if place < len(content):
            content[place] = dice.choice([0, 0xFF, 0x7F, dice.randrange(256)])
    return bytes(content)


def _other_rows(table: pa.Table, dice: random.Random) -> bytes:
    """No Parquet, or a file of something else."""
    other = dice.choice([role for role in ROLES if _table(role).column_names != table.column_names])
    return dice.choice([b"", b"PAR1", b"PAR1PAR1", b"a,b\n1,2\n", sound(other), b"\x00" * 4096, sound(other)[:-4]])


_OF_TABLES = [
    _wrong_type, _wrong_type, _wrong_type, _wrong_type, _missing_column, _doubled_column, _odd_names, _odd_names, _no_rows,
    _odd_format, _odd_metadata, _odd_metadata, _bomb, _zstd_bomb, _wrong_indexes, _wrong_indexes, _wrong_indexes,
    _other_rows, _many_columns,
]  # fmt: skip


if __name__ == "__main__":
    main()
