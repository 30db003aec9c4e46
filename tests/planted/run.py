"""Plant each fault in a copy of the repository and run tests until one fails: `make planted`.

A fault is looked for in three stages, each of what the one before has not found: the unit tests that mirror its file,
those that its change may concern (tests/support/changed.py), and the ring. Where the fault names a test of the ring,
that is run before all others. The copy is a clone in --work with an environment of its own; both are made once. Results
are written down one by one, so that a run that was ended goes on where it was.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from planted import planting

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from planted.planting import Fault

OWN_TEST = "tests/unit/test_planted.py"
"""Every planted fault fails it, which says nothing about the product's tests."""

_UNIT = "tests/unit"
_PASSED, _NO_TESTS = 0, 5
"""Exit codes of pytest: https://docs.pytest.org/en/stable/reference/exit-codes.html."""
_RING = 3
_LIMITS = {1: 1800.0, 2: 3600.0, _RING: 10800.0}
"""Seconds of each stage; one that takes longer has found nothing."""
_ENDING_SECONDS = 120.0
_SUMMARY = r"^{} (\S+?\.py(?:::\w+)*(?:\[.*?\])?)(?: - .*)?$"
_FAILED, _ERROR = (re.compile(_SUMMARY.format(word), re.MULTILINE) for word in ("FAILED", "ERROR"))


class Found(NamedTuple):
    """Hold what found a fault: the stage, 0 for none, and the test that failed, or what else there is to say."""

    stage: int
    test: str


@dataclass(frozen=True)
class Result:
    """Hold what became of a fault; `stage` is 0 where it survived."""

    name: str
    key: str
    stage: int
    test: str
    seconds: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Look for every fault that is not in the results; 1 where one survived."""
    options = _options(arguments)
    # Ended in this way too, it takes the fault out first.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    file = options.results or options.work / "results.jsonl"
    tree = prepare(options.work)
    try:
        faults = chosen(planting.load(root=tree), options.only)
    except planting.PlantingError as error:
        raise SystemExit(f"faults.yaml does not fit the last commit:\n{error}") from error
    if options.again:
        forget_survivors(file, faults)
    todo = unknown(faults, read_results(file))
    left = look_for_all(todo, tree, file, time.monotonic() + options.minutes * 60)
    known = [result for result in read_results(file) if any(_is_of(result, fault) for fault in faults)]
    say("\n".join(table(faults, known)))
    survivors = [result.name for result in known if not result.stage]
    if survivors:
        say(f"{len(survivors)} survived: {', '.join(survivors)}")
    if left:
        say(f"{left} of {len(faults)} faults are left: the time is over; run it again to go on")
    return int(bool(survivors))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="run.py", description="Plant faults, and see that tests find them.")
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="where the copy is kept")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="only these faults")
    parser.add_argument("--minutes", type=float, default=60.0, help="begin with no other fault after this time")
    parser.add_argument("--results", type=Path, metavar="FILE", help="JSON lines; default: results.jsonl in --work")
    parser.add_argument("--again", action="store_true", help="look again for those that survived")
    return parser.parse_args(arguments)


def say(text: str) -> None:
    """Print at once, as a fault may take half an hour."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def prepare(work: Path) -> Path:
    """Return the copy of the repository, at its present commit, with an environment and tests that can be collected.

    Raises:
        SystemExit: the tests cannot be collected without any fault.
    """
    work.mkdir(parents=True, exist_ok=True)
    tree = (work / "tree").absolute()
    if not tree.exists():
        say(f"cloning into {tree}")
        subprocess.run(["git", "clone", "-q", str(planting.ROOT), str(tree)], check=True)
    # What a run that was killed had planted.
    _git(tree, "checkout", "-q", "--", ".")
    _git(tree, "fetch", "-q", str(planting.ROOT), "HEAD")
    _git(tree, "checkout", "-q", "--detach", "FETCH_HEAD")
    say("making the copy's environment, where it is not there")
    subprocess.run(["make", "-s", ".venv/dev"], cwd=tree, env=_environment(), check=True)
    code, output = run_tests(tree, ["--collect-only", "-q", _UNIT], _LIMITS[1])
    if code != _PASSED:
        raise SystemExit(f"the unit tests cannot be collected without any fault:\n{output[-2000:]}")
    return tree


def _git(tree: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=tree, check=True)


def _environment() -> dict[str, str]:
    """Return that of this process; what is compiled is kept, and comes from the copy alone."""
    left_out = {"PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "PYTEST_ADDOPTS", "VIRTUAL_ENV"}
    return {name: value for name, value in os.environ.items() if name not in left_out}


def chosen(faults: Sequence[Fault], names: Sequence[str]) -> list[Fault]:
    """Return the named faults, or all; those that only the ring finds last.

    Raises:
        SystemExit: there is none of a name.
    """
    if missing := set(names) - {fault.name for fault in faults}:
        raise SystemExit(f"there is no fault {', '.join(sorted(missing))}")
    return sorted((fault for fault in faults if not names or fault.name in names), key=lambda fault: fault.ring)


def read_results(file: Path) -> list[Result]:
    """Return what was written down; of two results of one fault the later one."""
    if not file.exists():
        return []
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    found = [Result(**json.loads(line)) for line in lines]
    return list({(result.name, result.key): result for result in found}.values())


def write_result(file: Path, result: Result) -> None:
    """Add a line to the results."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as opened:
        opened.write(json.dumps(asdict(result)) + "\n")


def forget_survivors(file: Path, faults: Iterable[Fault]) -> None:
    """Take those of these faults out of the results that no test found."""
    names = {fault.name for fault in faults}
    kept = [result for result in read_results(file) if result.stage or result.name not in names]
    file.unlink(missing_ok=True)
    for result in kept:
        write_result(file, result)


def unknown(faults: Iterable[Fault], results: Iterable[Result]) -> list[Fault]:
    """Return the faults that have no result yet; a fault that was changed is another one."""
    known = {(result.name, result.key) for result in results}
    return [fault for fault in faults if (fault.name, fault.key) not in known]


def _is_of(result: Result, fault: Fault) -> bool:
    return (result.name, result.key) == (fault.name, fault.key)


def look_for_all(faults: Sequence[Fault], tree: Path, file: Path, deadline: float) -> int:
    """Look for one fault after the other, and write down what found it; how many are left at the deadline."""
    for number, fault in enumerate(faults):
        if time.monotonic() > deadline:
            return len(faults) - number
        result = look_for(fault, tree)
        write_result(file, result)
        found = f"stage {result.stage}, {result.test}" if result.stage else f"SURVIVED {result.test}".rstrip()
        say(f"[{number + 1}/{len(faults)}] {fault.name}: {found} ({result.seconds:.0f} s)")
    return 0


def look_for(fault: Fault, tree: Path) -> Result:
    """Plant a fault, run tests until one fails, and take it out again, whatever happens."""
    began = time.monotonic()
    planting.apply(fault, tree)
    try:
        found = find(fault, tree)
    finally:
        planting.revert(fault, tree)
    if found.stage and "::" in found.test and not passes(tree, found.test):
        found = Found(0, f"({found.test} fails without it too)")
    return Result(fault.name, fault.key, found.stage, found.test, round(time.monotonic() - began, 1))


def find(fault: Fault, tree: Path) -> Found:
    """Run one stage after the other, until a test fails; what may fail by chance has to do so again."""
    note = ""
    for stage, arguments in stages(fault, tree):
        code, output = run_tests(tree, arguments, _LIMITS[stage])
        if code is None:
            note = f"(stage {stage} took longer than {_LIMITS[stage]:g} s)"
        elif "ERROR: usage:" in output:
            asked = " ".join(arguments)
            raise SystemExit(f"pytest {asked} ended with {code}, which says nothing of the fault:\n{output[-2000:]}")
        elif code not in {_PASSED, _NO_TESTS}:
            test = failed_test(output)
            # It is also seen to pass without the fault (`look_for`).
            is_sure = "::" not in test or ((stage < _RING or fault.ring) and _FAILED.search(output))
            if is_sure or run_tests(tree, _alone(test), _LIMITS[stage])[0] != _PASSED:
                return Found(stage, test or f"(pytest ended with {code})")
            note = f"({test} failed, and passed alone)"
    return Found(0, note)


def stages(fault: Fault, tree: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield each stage's number and pytest's arguments."""
    if fault.ring:
        yield _RING, ["-x", "-q", "-p", "no:cacheprovider", "--ring", fault.ring]
    if mirror := mirrored(fault.file, tree):
        yield 1, ["-x", "-q", "-p", "no:cacheprovider", *mirror]
    yield 2, ["-x", "-q", "-n", "2", "-p", "no:cacheprovider", "--changed", "HEAD", "--ignore", OWN_TEST, _UNIT]
    yield _RING, [
        "-n", "3", "--dist", "loadfile", "--no-loadscope-reorder", "--ring", "--ignore", "tests/ranges",
        "--ignore", OWN_TEST, "-x", "-p", "no:cacheprovider",
    ]  # fmt: skip


def mirrored(file: str, tree: Path) -> list[str]:
    """Return the unit tests of a file's package, those first that speak of its module.

    A package without unit tests of its own has those of others that name the module.
    """
    path = Path(file)
    module = path.parent.name if path.stem.startswith("__") else path.stem
    dotted = ".".join(path.with_suffix("").parts)
    every = [one for one in sorted((tree / _UNIT).rglob("test_*.py")) if one != tree / OWN_TEST]
    texts = {one: one.read_text(encoding="utf-8") for one in every}
    here = [one for one in every if tree / _UNIT / path.parts[0] in one.parents]
    word = re.compile(rf"\b{re.escape(module)}\b")

    def far(one: Path) -> tuple[bool, bool, bool]:
        return module not in one.stem, dotted not in texts[one], not word.search(texts[one])

    chosen_ones = here or [one for one in every if dotted in texts[one]]
    return [one.relative_to(tree).as_posix() for one in sorted(chosen_ones, key=far)]


@cache
def passes(tree: Path, test: str) -> bool:
    """Say whether a test passes without any fault."""
    return run_tests(tree, _alone(test), _LIMITS[1])[0] == _PASSED


def _alone(test: str) -> list[str]:
    return ["-q", "-p", "no:cacheprovider", test]


def run_tests(tree: Path, arguments: Sequence[str], seconds: float) -> tuple[int | None, str]:
    """Run pytest in the copy; its exit code, None where it took too long, and what it printed."""
    command = [str(tree / ".venv/bin/python"), "-m", "pytest", *arguments]
    # No pipe: a server that a test has left behind would hold its end.
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command, cwd=tree, env=_environment(), stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        code: int | None = None
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            say(f"not ended after {seconds:g} s: {' '.join(arguments)}")
        finally:
            if code is None:
                _end(process)
        output.seek(0)
        return code, output.read().decode(errors="replace")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End pytest and what it has started; first as Ctrl-C does, so that its servers are stopped."""
    for number in (signal.SIGINT, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, number)
            process.wait(_ENDING_SECONDS)
            return


def failed_test(output: str) -> str:
    """Return the first test, or the file, of pytest's short summary; empty where it has none.

    A test that fails says more than one that could not be set up, or not be collected.
    """
    found = _FAILED.search(output) or _ERROR.search(output)
    return found[1] if found else ""


def table(faults: Iterable[Fault], results: Iterable[Result]) -> Iterator[str]:
    """Yield the lines of a table of what was found by what."""
    known = {(result.name, result.key): result for result in results}
    yield "| fault | promise | found by | seconds |"
    yield "|---|---|---|---|"
    for fault in faults:
        result = known.get((fault.name, fault.key))
        if result is not None:
            by = f"`{result.test}`" if result.stage else f"**nothing** {result.test}".rstrip()
            yield f"| {fault.name} | {fault.promise} | {by} | {result.seconds:.0f} |"


if __name__ == "__main__":
    sys.exit(main())
