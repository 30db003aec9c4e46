"""What stands for objects while a pickle is followed, and what was found."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

LONGEST_NAME = 4096
"""Texts from this length on are stepped over, in characters; what names such a text cannot be followed."""

DTYPE = ("numpy", "dtype")


class Seekable(Protocol):
    """What a pickle is read from."""

    def read(self, size: int = -1, /) -> bytes: ...  # noqa: D102
    def readline(self, size: int = -1, /) -> bytes: ...  # noqa: D102
    def seek(self, offset: int, whence: int = 0, /) -> int: ...  # noqa: D102
    def tell(self) -> int: ...  # noqa: D102


@dataclass
class Reading:
    """What a pickle does when it is loaded.

    Attributes:
        names: module and name of all that it imports, and whether it calls that.
        odd: what it does that cannot be followed, or that no writer of pickles does.
        whole: it was read to its STOP.
        arrays: it holds arrays as joblib writes them, which only joblib reads.
        end: the offset behind it, in bytes.
    """

    names: dict[tuple[str, str], bool] = field(default_factory=dict)
    odd: list[str] = field(default_factory=list)
    whole: bool = False
    arrays: bool = False
    end: int = 0


class Ends(Exception):  # noqa: N818 - no error: every loader ends here
    """Every loader fails here, so nothing behind it is run."""


class Symbol:
    """Stands for an object that no code depends on."""

    def __init__(self, says: str) -> None:
        self.says = says


DATA: Final = Symbol("plain data, which cannot be called")
UNKNOWN: Final = Symbol("something that may be anything")


@dataclass(eq=False, slots=True)
class Name:
    """Something imported."""

    key: tuple[str, str]


@dataclass(eq=False, slots=True)
class Made:
    """What a call gave.

    Attributes:
        of: what was called; None where the loader itself gave it.
        args: its arguments.
        state: what it was given afterwards, where that matters.
        is_text: it may be a plain text, as a function may give one; an object that was made of its class is none.
    """

    of: tuple[str, str] | None
    args: Any
    state: Any = None
    is_text: bool = True


def items_of(values: list[Any]) -> dict[Any, Any]:
    """The items of a dictionary by those keys that are texts; under UNKNOWN, one whose key is computed."""
    if len(values) % 2:
        raise Ends
    found: dict[Any, Any] = {}
    for key, value in zip(values[::2], values[1::2], strict=True):
        if isinstance(key, str):
            found[key] = value
        elif isinstance(key, Made) or key is UNKNOWN:
            found[UNKNOWN] = value
    return found


def bytes_of(state: dict[Any, Any]) -> int | None:
    """How many bytes an array of joblib has; -1 where it is of objects; None where that is not known."""
    shape, dtype = state.get("shape"), state.get("dtype")
    if UNKNOWN in state or not isinstance(shape, tuple) or not isinstance(dtype, Made) or dtype.of != DTYPE:
        return None
    if not all(type(side) is int and side >= 0 for side in shape):
        return None
    size = _item_size(dtype)
    return math.prod(shape) * size if size is not None and size >= 0 else size


def _item_size(dtype: Made) -> int | None:
    """How many bytes an item has; -1 where it is an object; None where that is not known."""
    code = dtype.args[0] if isinstance(dtype.args, tuple) and dtype.args else None
    form = re.fullmatch(r"[<>|=]?([biufcmMSUVO])(\d{1,9})", code) if isinstance(code, str) else None
    if form is None:
        return None
    kind, size = form[1], int(form[2])
    if kind == "O":
        return -1
    return _flexible(kind, size, dtype.state) if kind in "SUV" else size


def _flexible(kind: str, size: int, state: object) -> int | None:
    """The size of an item of texts, bytes or records, whose state says it."""
    if not (isinstance(state, tuple) and len(state) > 7 and state[2] is None and type(state[5]) is int):  # noqa: PLR2004
        return None
    # Bit 0 of the flags: an item refers to objects.
    if type(state[7]) is not int or state[7] & 1 or (kind == "V" and state[4] is not None and not _plain(state[4])):
        return None
    return state[5] if state[5] >= 0 else size * (4 if kind == "U" else 1)


def _plain(fields: object) -> bool:
    """Whether a record's fields have no objects."""
    if not isinstance(fields, dict):
        return False
    kinds = [value[0] for value in fields.values() if isinstance(value, tuple) and value]
    return len(kinds) == len(fields) and all(
        isinstance(kind, Made) and isinstance(kind.args, tuple) and isinstance(kind.args[0], str)
        and re.fullmatch(r"[<>|=]?[biufcmMSU]\d+", kind.args[0]) for kind in kinds
    )  # fmt: skip
