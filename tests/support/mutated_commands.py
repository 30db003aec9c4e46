"""Command lines with odd words: each ends with a documented exit code and in words, and starts nothing.

What starts programs, or waits for servers, is left out: `up`, `connect` where it has servers, `guard` without --once,
`gateway` where it would make an image, and simulations of `replay` with more than a moment's work.
"""

# ruff: noqa: E501 - lists of odd values

from __future__ import annotations

import contextlib
import io
import os
import random
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest import mock

import click

from headgate import cli
from headgate.errors import BadInputError
from support.processor import measured

if TYPE_CHECKING:
    from collections.abc import Iterator

SECONDS = 1.0
"""Of a processor, for one line, when what it imports was imported before."""
_HANGS_AFTER = 20.0
CODES = {0, 1, 2, 3, 4, 5, 6, 130}
"""Exit codes that are documented (headgate/errors.py, and an interrupt)."""
_LEFT_OUT = {"up"}

_WORDS = [
    "", " ", "-", "--", "---", "-x", "--nothing", "--help", "-h", "--version", "--json", "--json=1", "\x1b[31m", "\x07", "a\nb",
    "\t", "\udcff", "\udcc3(", "é", "\u202e", "\ufeff", "x" * 5000, "x" * 200_000, "a/b", "../x", "..", ".", "./", "a\\b",
    "~", "~nobody-of-that-name/x", "*", "$(touch mark)", "`touch mark`", "; touch mark", "' OR 1=1 --", "%s%n", "{0}", "null",
    "None", "0", "-1", "1e999", "nan", "inf", "9" * 400, "٣", "2001-99-01", "1%", "101%", "1h", "-5m", "models:/x/1",
    "models:/", "runs:/", "runs:/\x1b/x", "models:/a@b", ":/", "wine", "nothing", "release.yaml", "folder", "empty.yaml",
    "binary.yaml", "labels.csv", "export.jsonl", "counts.csv", "counts.parquet", "nowhere/file", "/proc/nowhere/x", "@", "=",
    "localhost:1/x", "UPPER/case:tag", "bash", "prefect", "list", "apply",
]  # fmt: skip
_VALUES = [word for word in _WORDS if not word.startswith("--")]
_ENVIRONMENT: dict[str, list[str]] = {
    "HEADGATE_HOME": ["", "relative", "/proc/nowhere", "file", "x" * 5000, "a\nb", "\x1b[2J", "~nobody-of-that-name", "\udcff"],
    "HEADGATE_JOURNAL_URL": ["", "nonsense", "sqlite:////proc/nowhere/j.db", "sqlite:///folder", "mysql://x", "://", "\x1b",
                             "sqlite:///file", "postgresql://user:secret@127.0.0.1:1/x", "http://[", "sqlite://\udcff"],
    "HEADGATE_PORTS": ["", "x", "0", "99999-99999", "5-1", "1-2-3", "\x1b"],
    "HEADGATE_ACTOR": ["", "\x1b[2J", "x" * 5000, "\udcff", "a\nb"],
    "HEADGATE_SEALING_KEY": ["", "x", "\udcff", "A" * 43 + "="],
    "HEADGATE_ENGINE": ["on", "\x1b"],
    "HEADGATE_TASK_RUNNER": ["nonsense", "ray", "\x1b"],
    "HEADGATE_INSECURE_REGISTRIES": ["\x1b", ",,,"],
    "HEADGATE_DEPLOYMENT": ["", "a/b/c"],
    **{f"HEADGATE_{name}": ["", "x", "-1", "nan", "inf", "1e999", "9" * 400, "٣", "\x1b"] for name in (
        "LEASE_SECONDS", "BUILD_SECONDS", "START_SECONDS", "EFFECT_SECONDS", "BLIND_SECONDS", "HEALTH_SECONDS",
        "GATEWAY_HEADERS_SECONDS", "GATEWAY_CONNECTIONS", "GATEWAY_MEMORY_MIB")},
    "PREFECT_API_URL": ["nonsense", "http://", "http://127.0.0.1:1/api"],
    "KUBECONFIG": ["", "nowhere", "binary.yaml", "\udcff"],
    "COLUMNS": ["0", "-1", "x", "9" * 30],
    "TERM": ["", "dumb", "\x1b"],
}  # fmt: skip


class Ran(NamedTuple):
    """How many lines ended with each exit code, the worst time, and what went wrong."""

    codes: Counter[int]
    slowest: float
    wrong: list[str]


class Line(NamedTuple):
    """What is typed: the words after `headgate`, and variables of the environment."""

    words: list[str]
    environment: dict[str, str]


def mutated(seed: int) -> Line:
    """A command line; the same for the same seed."""
    dice = random.Random(seed)
    environment = {}
    if dice.random() < 0.25:
        for name in dice.sample(sorted(_ENVIRONMENT), dice.choice([1, 1, 2])):
            environment[name] = dice.choice(_ENVIRONMENT[name])
    if dice.random() < 0.05:
        return Line([dice.choice(_WORDS) for _ in range(dice.randint(0, 4))], environment)
    name = dice.choice([name for name in cli.COMMANDS if name not in _LEFT_OUT])
    words = _words(name, dice)
    if name == "guard":
        words = ["--once", *[word for word in words if word not in {"--once", "--"}]]
    if name == "replay":
        # What a rule is tried for, and how often, is its price.
        words = [*words[:4], *dice.choice([["--counts", dice.choice(["counts.csv", "counts.parquet", "folder", "nowhere"])],
                                          ["--release", dice.choice(_VALUES)]])]  # fmt: skip
    if name == "connect":
        environment.pop("PREFECT_API_URL", None)
    if name == "open":
        words = ["--no-browser", *words]
    if name == "gateway":
        words = ["--image", "x", *words]
    if dice.random() < 0.1:
        words.insert(dice.randrange(len(words) + 1), dice.choice(_WORDS))
    return Line([name, *words], environment)


def _words(name: str, dice: random.Random) -> list[str]:
    """Arguments and options as the command has them, with odd values, and some missing, twice or too many."""
    command = cli.cli.get_command(click.Context(cli.cli), name)
    assert command is not None
    words: list[str] = []
    for parameter in command.params:
        if isinstance(parameter, click.Argument):
            if dice.random() < 0.85:
                words.append(dice.choice(_VALUES))
        elif dice.random() < (0.85 if parameter.required else 0.3):
            for _ in range(dice.choice([1, 1, 1, 2])):
                option = dice.choice([*parameter.opts, *parameter.secondary_opts])
                flag = isinstance(parameter, click.Option) and parameter.is_flag
                words += (
                    [option]
                    if flag
                    else dice.choice([[option, dice.choice(_VALUES)], [f"{option}={dice.choice(_VALUES)}"]])
                )
    if dice.random() < 0.1:
        words.append(dice.choice(_WORDS))
    if dice.random() < 0.2:
        dice.shuffle(words)
    return words


def check(seeds: range, folder: Path) -> Ran:
    """Call the command line of these seeds in this process.

    Args:
        seeds: of the lines.
        folder: an empty one, for HEADGATE_HOME and all that is written.
    """
    codes: Counter[int] = Counter()
    slowest, wrong = 0.0, []
    place = prepare(folder)
    import_all(place)
    for seed in seeds:
        line = mutated(seed)
        with measured() as taken:
            code, said, started = called(line, place)
        slowest = max(slowest, seconds := taken.seconds)
        codes[code] += 1
        shown = f"seed {seed}: {[word[:40] for word in line.words]} {dict(line.environment)}"[:400]
        if why := _wrong(code, said, started) or (f"{seconds:.1f} s" if seconds > SECONDS else ""):
            wrong.append(f"{shown}: {why}")
        if found := {path.name for path in folder.iterdir()} - {"place", "homes"}:
            wrong.append(f"{shown}: it wrote {found}")
            for name in found:
                (folder / name).unlink()
    return Ran(codes, slowest, wrong)


def _wrong(code: int, said: str, started: list[str]) -> str:
    if "Traceback (most recent call last)" in said:
        return f"a traceback: {said[-700:]}"
    if code not in CODES:
        return f"the exit code {code}"
    if started:
        return f"it started {started}"
    if code and not said.strip():
        return f"the exit code {code} without a word"
    if "\x1b" in said:
        return f"control letters: {said[-300:]!r}"
    return ""


def prepare(folder: Path) -> Path:
    """Make the files that the words name, and return the folder that lines are called in."""
    place = folder / "place" / "a" / "b"
    place.mkdir(parents=True)
    (folder / "homes").mkdir()
    (place / "folder").mkdir()
    for name, content in {
        "release.yaml": b"model: wine\nartifact: runs:/1/model\ntarget: {kind: local}\n", "empty.yaml": b"", "file": b"x",
        "binary.yaml": b"\x00\xff\x1b", "labels.csv": b"request_id,label\n1,2\n", "export.jsonl": b"{}\n[]\n\xff",
        "counts.csv": b"seconds,stable_requests,stable_failures,canary_requests,canary_failures\n1,10,0,1,0\n2,20,0,2,1\n",
        "counts.parquet": b"PAR1",
    }.items():  # fmt: skip
        (place / name).write_bytes(content)
    return place


def environment_of(line: Line, place: Path) -> dict[str, str]:
    """The environment of a call: nothing of this machine's settings, and a home of its own."""
    home = place.parents[2] / "homes"
    kept = {name: value for name, value in os.environ.items() if name in {"PATH", "LANG", "TMPDIR", "PYTHONPATH"}}
    return {
        **kept, "HOME": str(home), "HEADGATE_HOME": str(home / "headgate"), "HEADGATE_ENGINE": "off",
        "PREFECT_HOME": str(home / "prefect"), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_TRACKING_URI": "http://127.0.0.1:1", "NO_PROXY": "*",
        "DO_NOT_TRACK": "1", **line.environment,
    }  # fmt: skip


def import_all(place: Path) -> None:
    """Import what commands import when they are called, which is not what is measured."""
    import flows.promote
    import flows.reconcile
    import flows.release  # noqa: F401
    import tasks.foresee
    import tasks.upkeep  # noqa: F401

    for name in cli.COMMANDS:
        cli.cli.get_command(click.Context(cli.cli), name)
    called(Line(["reconcile"], {}), place)
    called(Line(["doctor"], {}), place)
    called(Line(["scan", "models:/x/1"], {}), place)


def called(line: Line, place: Path) -> tuple[int, str, list[str]]:
    """Call the command line in this process, where nothing can be started or reached.

    Returns:
        The exit code, or -1 where an exception came through; all output; the programs that it would have started.
    """
    started: list[str] = []
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors=how, write_through=True)
               for how in ("surrogateescape", "backslashreplace")]  # fmt: skip
    code = 0
    with ExitStack() as stack:
        for patch in (
            mock.patch.dict(os.environ, environment_of(line, place), clear=True),
            mock.patch.object(sys, "argv", ["headgate", *line.words]),
            mock.patch.object(sys, "stdout", streams[0]), mock.patch.object(sys, "stderr", streams[1]),
            mock.patch.object(sys, "stdin", io.StringIO()),
            *_nothing_starts(started),
        ):  # fmt: skip
            stack.enter_context(patch)
        stack.enter_context(contextlib.chdir(place))
        stack.enter_context(_signals_as_they_were())
        try:
            cli.main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:  # noqa: BLE001 - whatever a line leads to
            code = -1
            traceback.print_exc(file=streams[1])
    said = b"".join(stream.buffer.getvalue() for stream in streams).decode("utf-8", "backslashreplace")  # type: ignore[attr-defined]
    return code, said, started


@contextlib.contextmanager
def _signals_as_they_were() -> Iterator[None]:
    def interrupt(_number: int, _frame: object) -> None:
        raise TimeoutError(f"it hangs for {_HANGS_AFTER:g} s")

    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)}
    signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, _HANGS_AFTER)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in kept.items():
            signal.signal(number, handler)


def _nothing_starts(started: list[str]) -> list[Any]:
    """Programs are refused as if they were not installed, and no address answers."""

    class Refused(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, args: Any, *_more: Any, **_kwargs: Any) -> None:
            name = Path(str(args[0] if isinstance(args, list | tuple) and args else args)).name
            if name not in _ASKED_FOR_A_VERSION:
                started.append(name)
            raise FileNotFoundError(2, "No such file or directory", name)

    def nobody(_self: socket.socket, address: Any) -> None:
        raise ConnectionRefusedError(111, "Connection refused", str(address)[:100])

    def no_name(*_args: Any, **_kwargs: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "no such host")

    def no_browser(*_args: Any, **_kwargs: Any) -> bool:
        started.append("a browser")
        return False

    return [
        mock.patch("subprocess.Popen", Refused), mock.patch.object(socket.socket, "connect", nobody),
        mock.patch("socket.getaddrinfo", no_name), mock.patch("webbrowser.open", no_browser),
    ]  # fmt: skip


_ASKED_FOR_A_VERSION = {
    "bash",
    "docker",
    "envoy",
    "uv",
    "git",
    "ldconfig",
    "gcc",
    "cc",
    "nvidia-smi",
    "uname",
    "lsof",
    "ss",
}
"""Programs that `doctor` and libraries ask what they are; they start nothing that stays."""


def in_processes(seeds: range, folder: Path) -> Ran:
    """Call the command line of these seeds in processes of their own, as a shell does; network and programs are there.

    Only lines that cannot reach another machine by their words are called.
    """
    codes: Counter[int] = Counter()
    slowest, wrong = 0.0, []
    place = prepare(folder)
    headgate = Path(sys.executable).with_name("headgate")
    for seed in seeds:
        line = mutated(seed)
        if any("localhost" in word or "case:tag" in word for word in line.words) or "scan" in line.words[:1]:
            continue
        words = [headgate, *(word[:100_000] for word in line.words)]
        began = time.monotonic()
        try:
            done = subprocess.run(
                words, cwd=place, env=environment_of(line, place), capture_output=True, timeout=60, check=False,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
            code, said = done.returncode, (done.stdout + done.stderr).decode("utf-8", "backslashreplace")
        except subprocess.TimeoutExpired:
            code, said = -1, "it hangs for a minute"
        codes[code] += 1
        slowest = max(slowest, time.monotonic() - began)
        if why := _wrong(code, said, []):
            wrong.append(f"seed {seed}: {[word[:40] for word in line.words]} {dict(line.environment)}: {why}")
    return Ran(codes, slowest, wrong)


assert BadInputError.exit_code in CODES
