"""Looking for code in a model's files before anything loads them: every file by its content, names by a list.

What may be named is in `allowed.json`; docs/scan.md says how it was made and how it is kept.
"""

from __future__ import annotations

import posixpath
import re
import sys
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from headgate.errors import ArtifactError, UnsafeArtifactError
from images.allowed import Allowed
from images.bundle import model_files
from images.declared import Declared
from images.machine import FAILS_ALONE
from images.pickles import read_pickle
from images.skops_types import types_of
from images.wrappings import DEEPEST, Budget, Part, Unreadable, head_of, parts_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from images.symbols import Reading

PICKLES = frozenset({".pkl", ".pickle", ".joblib", ".dill", ".pt", ".pth", ".ckpt"})
"""Endings of files that are read to their end whatever they begin with."""

EMPTY = PICKLES | {".bin", ".npy", ".npz", ".zip"}
"""Endings of files that are not empty."""

_MOST_NAMES = 5
_IMPORTABLE = re.compile(r"[\w.-]+")
_LAST_PROTOCOL = 5
_NUMPY = b"\x93NUMPY"


@dataclass
class Found:
    """What a file of a model does when it is loaded.

    Attributes:
        runs: names that it calls and that are not allowed.
        loads: names that it only imports.
        odd: what it does that cannot be followed.
        unreadable: why it, or a part of it, could not be read to its end.
        by_value: it holds functions or classes with their code.
        harm: names that run programs or code, and are called.
    """

    runs: set[str] = field(default_factory=set)
    loads: set[str] = field(default_factory=set)
    odd: set[str] = field(default_factory=set)
    unreadable: list[str] = field(default_factory=list)
    by_value: bool = False
    harm: set[str] = field(default_factory=set)

    def sentence(self, name: str) -> str:
        """What people are told of a file; nothing where nothing was found."""
        loads = self.loads - self.runs
        clauses = [
            f"runs {_listed(self.runs)}" if self.runs else "", f"loads {_listed(loads)}" if loads else "",
            *sorted(self.odd),
        ]  # fmt: skip
        did = " and ".join(clause for clause in clauses if clause)
        told = [f"{name} {did} when it is loaded"] if did else []
        told += [f"{reason}, so it is not known what it runs" for reason in self.unreadable]
        return "; ".join(told)


def scan_artifact(
    folder: Path,
    policy: Literal["block", "warn", "off"],
    *,
    allow: Collection[str] = (),
    code: Literal["trusted", "refused"] = "trusted",
) -> list[str]:
    """Look at every file of a model.

    Args:
        folder: the model.
        policy: what to do about what is not allowed.
        allow: more names that may be loaded (`my_package.Class`), and files that are not looked at (`file:data/x`).
        code: what to do about the author's own program, which MLmodel declares.

    Returns:
        What was found, for people: under `warn` all of it, under `block` the author's own program.

    Raises:
        UnsafeArtifactError: under `block`, a file runs or loads what is not allowed, or cannot be read to its end.
        ArtifactError: a file is empty, or a link leads out of the folder.
    """
    allowed, declared = Allowed.with_entries(allow), Declared.by(folder)
    refused, entries, notes = [], set[str](), []
    for name, path in model_files(folder).items():
        if path.suffix.lower() in EMPTY and path.stat().st_size == 0:
            raise ArtifactError(f"artifact: {name} is empty (0 bytes)", fix="log the model again")
        if policy == "off" or name in allowed.files:
            continue
        found = look(path, name, allowed)
        if declared.is_program(name, by_value=found.by_value):
            notes.append(f"{name} carries code of its own, which runs when it is loaded, as MLmodel says")
            found = Found(runs=found.harm)
        else:
            # Under `refused`, the note of these modules is what refuses the model.
            found = _without_own(found, declared, allowed)
        if said := found.sentence(name):
            refused.append(said)
            entries |= found.runs | found.loads or {f"file:{name}"}
    if policy != "off":
        notes += declared.notes
        if bad := _strange_to_skops(declared, allowed):
            refused.append(f"MLmodel has skops trust {_listed(bad)}")
            entries |= bad
    if code == "refused" and notes:
        refused += [f"{note}, and image.code is refused" for note in notes]
        notes = []
    if refused and policy == "block":
        raise UnsafeArtifactError(f"artifact: {'; '.join(refused)}", fix=_fix(entries))
    return [*refused, *notes]


def _strange_to_skops(declared: Declared, allowed: Allowed) -> set[str]:
    """Return the types that MLmodel has skops trust and that are neither allowed nor the model's own."""
    strange = [name for name in declared.trusted_types if not allowed.has_joined(name)]
    return {name for name in strange if not _is_own(name, declared, allowed)}


def _without_own(found: Found, declared: Declared, allowed: Allowed) -> Found:
    """Leave out what the model's own modules define: they are the author's program, which is noted."""
    runs, loads = (
        {one for one in names if one in found.harm or not _is_own(one, declared, allowed)}
        for names in (found.runs, found.loads)
    )
    return replace(found, runs=runs, loads=loads)


def _is_own(joined: str, declared: Declared, allowed: Allowed) -> bool:
    """Return whether a name is the author's own.

    A module of the name of one that Python or a library of the list has is not the one that is loaded.
    """
    root = joined.partition(".")[0]
    is_taken = root in sys.stdlib_module_names or any(module.partition(".")[0] == root for module, _ in allowed.names)
    return not is_taken and declared.defines(joined)


def _fix(entries: set[str]) -> str:
    """How a model is released that is known to be harmless."""
    if not entries:
        return "log the model without code of its own, or set image.code to trusted"
    return (
        "do not load this model anywhere unless you know who made it; what you know to be harmless is allowed by "
        f"image.allow: [{', '.join(sorted(entries)[:20])}]"
    )


def _listed(names: set[str]) -> str:
    """Some names, and how many more there are."""
    first = sorted(names)[:_MOST_NAMES]
    more = len(names) - len(first)
    return ", ".join(first) + (f" and {more} more" if more else "")


def look(path: Path, name: str, allowed: Allowed) -> Found:
    """Look at one file and at all that is packed into it.

    Args:
        path: the file.
        name: what it is called in the model.
        allowed: what may be named.
    """
    found = Found()
    try:
        with path.open("rb") as file:
            _Look(found, allowed, Budget()).into(Part(name, file, path.stat().st_size), 0)
    except Unreadable as error:
        found.unreadable.append(str(error))
    except OSError as error:
        found.unreadable.append(f"{name} cannot be read: {error.strerror}")
    return found


@dataclass(frozen=True)
class _Look:
    """One file of a model, with what it is packed in."""

    found: Found
    allowed: Allowed
    budget: Budget

    def into(self, part: Part, depth: int) -> None:
        """Look at a part as every loader may take it."""
        if depth > DEEPEST:
            raise Unreadable(f"{part.name} is packed more than {DEEPEST} times")
        head = head_of(part)
        is_packed = False
        for inner in parts_of(part, self.budget):
            is_packed = True
            self.into(inner, depth + 1)
        if head.startswith(_NUMPY):
            self._array(part, head)
            return
        ending = posixpath.splitext(part.name)[1].lower() if depth == 0 or "." in part.name.rpartition("/")[2] else ""
        begins = head[:1] == b"\x80" and head[1:2] <= bytes([_LAST_PROTOCOL]) and len(head) > 1
        self._pickles(part, 0, is_one=begins or (ending in PICKLES and not is_packed))
        if part.name.endswith("schema.json") and depth:
            self.found.loads |= {one for one in types_of(part) if not self.allowed.has_joined(one)}

    def _array(self, part: Part, head: bytes) -> None:
        """NumPy's own file, which holds a pickle where it is of objects."""
        wide = 2 if head[6:7] == b"\x01" else 4
        length = int.from_bytes(head[8 : 8 + wide], "little")
        start = 8 + wide + length
        if start > part.size:
            raise Unreadable(f"{part.name} ends within its header")
        part.file.seek(8 + wide)
        header = part.file.read(min(length, 2**16))
        self._pickles(part, start, is_one=b"|O" in header or b"'O" in header)

    def _pickles(self, part: Part, start: int, *, is_one: bool) -> None:
        """Follow a pickle, and those behind it."""
        for reading in self._readings(part, start, is_one=is_one):
            self._note(reading, certain=is_one)
            if is_one and not reading.whole:
                self.found.unreadable.append(f"{part.name} could not be read as a pickle to its end")
            # What follows may as well be weights.
            is_one = False

    def _readings(self, part: Part, start: int, *, is_one: bool) -> Iterator[Reading]:
        while start < part.size:
            reading = read_pickle(part.file, part.size, start=start, guarded=self.allowed.guarded)
            if reading.arrays:
                # As pickle.load takes it, which reads no array; then as joblib does.
                self._note(reading, certain=is_one)
                reading = read_pickle(part.file, part.size, start=start, guarded=self.allowed.guarded, joblib=True)
            yield reading
            if not reading.whole:
                return
            start = reading.end

    def _note(self, reading: Reading, *, certain: bool) -> None:
        """Sort what a pickle names.

        Of a file that is no pickle, such as a text, only what would run, or be found, before it breaks off is told.
        """
        if certain or reading.whole or reading.names:
            self.found.odd.update(reading.odd)
        else:
            self.found.odd.update(set(reading.odd) - FAILS_ALONE)
        for (module, name), called in reading.names.items():
            joined = f"{module}.{name}"
            if self.allowed.has(module, name):
                continue
            if module.partition(".")[0] == "cloudpickle":
                self.found.by_value = True
            if called and self.allowed.does_harm(module, name):
                self.found.harm.add(joined)
            known = module.partition(".")[0] in sys.stdlib_module_names
            if certain or reading.whole or (_IMPORTABLE.fullmatch(module) and (called or known)):
                (self.found.runs if called else self.found.loads).add(joined)
