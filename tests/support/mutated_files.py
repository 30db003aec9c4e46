"""Release files with faults that nobody thought of: each is read, or refused as a problem of the file, and quickly."""

from __future__ import annotations

import gc
import random
import signal
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from headgate.errors import SpecError
from headgate.release_file import parse_release

if TYPE_CHECKING:
    from collections.abc import Iterator

SECONDS = 1.0
"""Of a processor, for one file: other programs of a busy machine do not count."""

_EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*/release.yaml"))
_FULL = """
model: wine
artifact: runs:/1/model
endpoint: wine
target: {kind: local}
runtime: {cpu: 1, memory: 1Gi, replicas: {min: 1, max: 2}, env: {A: "b", C: d}, ready_timeout: 5m}
image: {base: "python:3.11-slim", repository: registry.example/team/wine, scan: block}
capture: {keep: 1Gi, sample: 50%, redact: [ssn]}
gates: {shadow: {min_requests: 500, max_disagreement: 1%}, smoke: {max_latency: 2s}}
strategy: {steps: [5%, 25%, 50%], min_requests: 1000, min_duration: 3m, max_duration: 1h}
judge: {false_rollback: 1%, error_rate: {tolerance: 10%}, latency: {quantiles: [0.5, 0.99], floor: 5ms}}
rollback: {keep_warm: 1h, on: [errors, latency, drift]}
monitor: {reference: training, schedule: "0 * * * *", min_rows: 100}
approvals: [{before: shift, expires: 4h}]
freeze: [{start: "0 18 * * FRI", end: "0 8 * * MON", timezone: Europe/Berlin, reason: weekend}]
notify: ["env:OPS"]
"""
_ODD = [
    "\x00", "\ud800", "\ufeff", "\u2028", "٣", "&a ", "*a", "&a [*a]", "<<: *a", "!!int ", "!!binary ",
    "!!timestamp x", "!!set ", "!!python/name:os.system ", "9" * 5000, "-" + "9" * 400, "1e999", ".nan", "-.inf",
    "0x", "0o9", "1_0", "190:20:30", "2001-99-01", "2001-01-01 25:61:00", "{" * 60, "[" * 60, "? ", "- - - -", "|\n",
    ">-\n", "---\n", "...\n", "%YAML 9.9\n", "\t", "'", '"', '"\\x00"', '"\\ud800"', "#", ": ", ",", "~", "off",
    "yes", "''", "[]", "{}", "-1", "0", "1e400%", "9" * 400 + "%", "9" * 400 + "d", "nan%", "null", "x" * 3000,
    "[" + "1, " * 2000 + "1]", "!", "!<x> ", "*", "&",
]  # fmt: skip


def mutated(seed: int) -> str:
    """Return a release file with one to three faults; the same for the same seed."""
    dice = random.Random(seed)
    text = dice.choice([_FULL, *(path.read_text(encoding="utf-8") for path in _EXAMPLES)])
    for _ in range(dice.randint(1, 3)):
        text = dice.choice([_insert, _replace_value, _cut, _repeat, _swap])(text, dice)
    return text


def _insert(text: str, dice: random.Random) -> str:
    place = dice.randrange(len(text) + 1)
    return text[:place] + dice.choice(_ODD) + text[place:]


def _replace_value(text: str, dice: random.Random) -> str:
    places = [place for place, letter in enumerate(text) if letter == ":"]
    if not places:
        return text
    begin = dice.choice(places) + 1
    end = min((found for stop in ",}]\n" if (found := text.find(stop, begin)) >= 0), default=len(text))
    return f"{text[:begin]} {dice.choice(_ODD)}{text[end:]}"


def _cut(text: str, dice: random.Random) -> str:
    begin = dice.randrange(len(text) + 1)
    return text[:begin] + text[begin + dice.randint(1, 30) :]


def _repeat(text: str, dice: random.Random) -> str:
    begin = dice.randrange(len(text) + 1)
    end = begin + dice.randint(1, 60)
    return text[:end] + text[begin:end] * dice.choice([1, 2, 50]) + text[end:]


def _swap(text: str, dice: random.Random) -> str:
    lines = text.splitlines(keepends=True)
    dice.shuffle(lines)
    return "".join(lines)


def check(seeds: range) -> tuple[int, int]:
    """Read the files of these seeds.

    Returns:
        How many were read and how many refused.

    Raises:
        AssertionError: one ended in another way, or took longer than a second; it names the seed.
    """
    read = refused = 0
    for seed in seeds:
        text = mutated(seed)
        try:
            with _at_most(SECONDS):
                parse_release(text)
            read += 1
        except SpecError as error:
            refused += 1
            _require_words(seed, error)
        except Exception as error:
            raise AssertionError(
                f"the file of seed {seed} ended with {error!r}; to see it: print(mutated_files.mutated({seed}))"
            ) from error
    return read, refused


def _require_words(seed: int, error: SpecError) -> None:
    assert str(error).encode("utf-8"), f"seed {seed}: a text that can be written down"
    assert all(problem.line >= 1 and problem.message for problem in error.problems), f"seed {seed}: {error.problems}"


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Interrupt what takes more of a processor."""

    def interrupt(_number: int, _frame: object) -> None:
        raise TimeoutError(f"it takes more than {seconds:g} s of a processor")

    before = signal.signal(signal.SIGVTALRM, interrupt)
    # The garbage of the tests before is not part of what is measured, and Python drops an error raised in a finalizer.
    gc.disable()
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        gc.enable()
        signal.signal(signal.SIGVTALRM, before)
