"""A column in a hundred kilobytes at most, from which its distance to another is computed: cells, or counts of values.

A sample's quantile function is cut at fixed levels into some two thousand cells, finer towards both ends, and each is
kept as its mean, its lowest and its highest value. The first Wasserstein distance is the integral of the difference of
two quantile functions; from cells it is exact wherever one of the two lies above the other, and elsewhere the error is
bounded (monitoring/drift/distance.py). One sort makes a profile; comparing two costs the same whatever their rows.
"""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

_CELLS = 2048
_FINER = 2.0 ** -np.arange(1, 13) / _CELLS
LEVELS: Floats = np.unique(np.concatenate([np.linspace(0, 1, _CELLS + 1), _FINER, 1 - _FINER]))
"""Where quantile functions are cut; the outermost cells hold one row of eight million."""
WIDTHS: Floats = np.diff(LEVELS)

FEW_VALUES = 12
"""Numbers with at most so many different values are compared as categories."""
_MOST_VALUES = 10_000
_STORED = "<f8"
"""How arrays are stored: doubles, the lowest byte first."""
_BUCKETS = 4096


@dataclass(frozen=True)
class Numbers:
    """A numeric column; the arrays have one entry a cell, or none where there is no value.

    Attributes:
        rows: of the table.
        missing: nulls and NaN.
        infinite: left out too.
        unreadable: values that are no numbers.
        std: of the population.
        means, lows, highs: of each cell.
    """

    rows: int
    missing: int
    infinite: int
    unreadable: int
    std: float
    means: Floats
    lows: Floats
    highs: Floats

    @property
    def used(self) -> int:
        """Values that are compared."""
        return self.rows - self.missing - self.infinite - self.unreadable


@dataclass(frozen=True)
class Categories:
    """A column of categories.

    Attributes:
        rows: of the table.
        missing: nulls and NaN.
        counts: how often each value occurs.
        rest: how many values are too many to be named.
        buckets: where there are such, how often values occur that share a checksum, named or not. Which values are
            named depends on the sample, and which share a bucket does not: so only buckets can be compared.
    """

    rows: int
    missing: int
    counts: dict[str, int] = field(default_factory=dict)
    rest: int = 0
    buckets: list[int] = field(default_factory=list)

    @property
    def used(self) -> int:
        """Values that are compared."""
        return self.rows - self.missing

    @property
    def in_buckets(self) -> list[int]:
        """How often values of each bucket occur."""
        return self.buckets or _bucketed(self.counts)

    @property
    def is_unique(self) -> bool:
        """Whether most values are their own, as those of an identifier are."""
        return self.used > FEW_VALUES and (len(self.counts) > self.used / 2 or self.rest > self.used / 2)

    @property
    def is_open(self) -> bool:
        """Whether values that are not among these were to be expected."""
        return self.is_unique or self.rest > 0


Profile = Numbers | Categories


def profile(column: pa.ChunkedArray) -> Profile | str:
    """A reference's column, as what it is.

    Returns:
        The profile, or why the column is not compared.
    """
    if why := _incomparable(column.type):
        return why
    if types.is_null(column.type):
        return "has no values"
    if not _is_numeric(column.type):
        return categories(column)
    ordered, infinite = _ordered(column)
    if not len(ordered):
        return "has no values"
    if np.count_nonzero(np.diff(ordered)) < FEW_VALUES:
        return categories(column)
    return _numbers(ordered, len(column), _missing(column), infinite, 0)


def profile_like(column: pa.ChunkedArray, reference: Profile) -> Profile | str:
    """A window's column, as what the reference has it for: text in the place of numbers is read as numbers.

    Returns:
        The profile, or why the column is not compared.
    """
    if why := _incomparable(column.type):
        return why
    if isinstance(reference, Categories):
        return categories(column, () if reference.rest else reference.counts)
    missing, unreadable = _missing(column), 0
    if not _is_numeric(column.type):
        read = pd.to_numeric(_text(column).to_pandas(), errors="coerce")
        unreadable = int(read.isna().sum()) - missing
        column = pa.chunked_array([pa.array(read, pa.float64(), from_pandas=True)])
    ordered, infinite = _ordered(column)
    return _numbers(ordered, len(column), missing, infinite, unreadable)


def categories(column: pa.ChunkedArray, known: Iterable[str] = ()) -> Categories:
    """A column's values and how often each occurs; whole numbers are the same as text, integer or floating point.

    Args:
        column: of any type that can be compared.
        known: values that are named, however rare.
    """
    # Arrow counts no values of 16 bits.
    found = pc.value_counts(column.cast(pa.float32()) if types.is_float16(column.type) else column)
    counts: Counter[str] = Counter()
    missing = 0
    values = zip(found.field("values").to_pylist(), found.field("counts").to_pylist(), strict=True)
    for value, count in values:
        if value is None or value != value:  # noqa: PLR0124 - NaN
            missing += count
        else:
            counts[_name(value)] += count
    named = dict(counts.most_common(_MOST_VALUES))
    if len(named) == len(counts):
        return Categories(len(column), missing, named)
    named |= {name: counts[name] for name in known if name in counts}
    return Categories(len(column), missing, named, counts.total() - sum(named.values()), _bucketed(counts))


def to_arrow(frame: pd.DataFrame) -> pa.Table:
    """A table from pandas; a column that mixes types becomes text."""
    columns = {}
    for name in frame.columns:
        try:
            columns[str(name)] = pa.array(frame[name], from_pandas=True)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
            texts = [None if value is None or value is pd.NA else str(value) for value in frame[name]]
            columns[str(name)] = pa.array(texts, pa.string())
    return pa.table(columns)


def dump(found: Profile) -> str:
    """Return a profile as JSON; arrays are their bytes in base64, as six thousand numbers written out take 8 ms."""
    return json.dumps(asdict(found), default=lambda array: base64.b64encode(array.astype(_STORED).tobytes()).decode())


def load(text: str) -> Profile:
    """Return a profile from JSON, the same bit for bit; its arrays may be lists of numbers too, as they once were."""
    stored: dict[str, Any] = json.loads(text)
    if "counts" in stored:
        return Categories(**stored)
    for name in ("means", "lows", "highs"):
        kept = stored[name]
        array = np.frombuffer(base64.b64decode(kept), _STORED) if isinstance(kept, str) else np.array(kept)
        stored[name] = array.astype(np.float64)
    return Numbers(**stored)


def _incomparable(kind: pa.DataType) -> str:
    if types.is_nested(kind):
        return f"is nested ({kind}) and not compared"
    return "is a time and not compared" if types.is_temporal(kind) else ""


def _is_numeric(kind: pa.DataType) -> bool:
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind))


def _missing(column: pa.ChunkedArray) -> int:
    nan = pc.sum(pc.is_nan(column)).as_py() or 0 if types.is_floating(column.type) else 0
    return int(column.null_count + nan)


def _text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(pa.string())


def _ordered(column: pa.ChunkedArray) -> tuple[Floats, int]:
    """The finite values, lowest first, and how many are infinite."""
    values = column.cast(pa.float64(), safe=False).drop_null().to_numpy()
    finite = np.isfinite(values)
    if finite.all():
        return np.sort(values), 0
    return np.sort(values[finite]), int(np.isinf(values).sum())


def _numbers(ordered: Floats, rows: int, missing: int, infinite: int, unreadable: int) -> Numbers:
    size = len(ordered)
    if not size:
        return Numbers(rows, missing, infinite, unreadable, 0.0, ordered, ordered, ordered)
    at = LEVELS * size
    whole = np.minimum(at.astype(np.int64), size - 1)
    # Moved to the middle, as sums of large numbers lose the small differences between cells.
    middle = ordered[size // 2]
    ordered -= middle
    # Of each cell a part of its first row, the rows between and a part of its last. Differences of running sums would
    # be as inexact as the largest value makes the sums.
    first, end = whole[:-1], whole[1:]
    between = np.add.reduceat(ordered, np.stack([np.minimum(first + 1, size - 1), end], axis=1).ravel())[::2]
    between[first + 1 >= end] = 0.0
    parts = (first + 1 - at[:-1]) * ordered[first] + between + (at[1:] - end) * ordered[end]
    means = np.where(first == end, ordered[first], parts / (WIDTHS * size))
    last = np.clip(np.ceil(at[1:]).astype(np.int64) - 1, 0, size - 1)
    variance = float(ordered @ ordered) / size - (float(ordered.sum()) / size) ** 2
    return Numbers(
        rows, missing, infinite, unreadable, math.sqrt(max(variance, 0.0)),
        means + middle, ordered[first] + middle, ordered[last] + middle,
    )  # fmt: skip


def _bucketed(counts: Mapping[str, int]) -> list[int]:
    buckets = [0] * _BUCKETS
    for name, count in counts.items():
        buckets[zlib.crc32(name.encode(errors="surrogatepass")) % _BUCKETS] += count
    return buckets


def _name(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
