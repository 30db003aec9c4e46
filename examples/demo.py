"""`make demo`: five releases of real wine models under steady traffic, on this machine, in about three minutes.

v1 goes live; v2 is better and is promoted; v3 answers plausibly but wrongly and is refused in shadow; v4 raises
on a few per cent of real inputs and is rolled back by the judge. Then the inputs drift, twice: once so that the version
before would do no better, and once so that it would; the monitor asks it, and goes back to it the second time only.
Everything runs through the commands that a user would type.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent / "wine"))

from client import Client
from train import split

if TYPE_CHECKING:
    import pandas as pd

WINE = Path(__file__).parent / "wine"
HEADGATE = str(Path(sys.executable).parent / "headgate")
MOST_A_SECOND = 100.0
BUSY = 0.3
"""The share of its time that a lone client would spend waiting, at the rate that this machine is asked at. It is
measured with v1; v4, a pipeline with code of its own, takes many times as long, and has to keep up with its copies."""
TRIALS = 50
DRIFT_SCALE = 1.35
DRIFT_SECONDS = 11.0
FIRST = 1
READ_BY_V1 = ("proline", "od280/od315_of_diluted_wines")
# A pipe or a CI log has no width of its own.
console = Console(highlight=False, width=None if sys.stdout.isatty() else 110)


class Chapter(NamedTuple):
    """One release and what should come of it."""

    version: str
    story: str
    outcome: str
    exit_code: int


CHAPTERS = [
    Chapter("v2", "A better model. It has to agree with v1 in shadow, then win live traffic step by step.",
            "promoted", 0),
    Chapter("v3", "Its preprocessing got lost: every answer is plausible, most are wrong. No client may see one.",
            "rejected", 3),
    Chapter("v4", "It raises on a few per cent of real inputs. The judge has to notice under live traffic.",
            "rolled back", 4),
]  # fmt: skip


class WorldChange(NamedTuple):
    """What happens to the inputs, which ones are spared, and what should come of it."""

    story: str
    spared: tuple[str, ...]
    outcome: str


DRIFTS = [
    WorldChange(f"Every sensor is replaced: all inputs are {DRIFT_SCALE:g} times what they were. Would v1 do better?",
                (), "v2 stays"),
    WorldChange("The two that v1 reads are set right; eleven others, which v2 reads too, are still wrong.",
                READ_BY_V1, "back on v1"),
]  # fmt: skip


def main() -> int:
    """Tell the story; 0 when every chapter ended as it should and no request was lost."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--keep", action="store_true", help="leave the stack up")
    arguments.add_argument(
        "--target", default="local", help="where the models are served: local, docker, or a `target` entry as JSON"
    )
    given = arguments.parse_args()
    keep, target = given.keep, given.target
    home = Path(os.environ.get("HEADGATE_HOME") or Path.home() / ".headgate").absolute()
    work = home / "demo"
    began = time.monotonic()
    try:
        chapter("The local stack", "A Prefect server, an MLflow server, Envoy and a worker, under supervisord.")
        stack = json.loads(command("up", "--json"))
        ok = tell(stack, work, home, target, began)
    finally:
        if not keep:
            command("down", capture=False)
    if keep:
        console.print("The stack stays up. Its pages: [bold]headgate open prefect[/], [bold]headgate open mlflow[/]")
        console.print("Stop it: [bold]headgate down[/]")
    return 0 if ok else 1


def tell(stack: dict[str, Any], work: Path, home: Path, target: str, began: float) -> bool:
    """All chapters; whether each ended as it should."""
    chapter("Training", "Four models on scikit-learn's wine data, logged with plain MLflow.")
    runs, model = train({**stack["env"], **json.loads(command("env", "--json"))}), unused_name()
    files = {version: write_file(work, version, model, uri, target) for version, uri in runs.items()}
    chapter("v1 goes live", "The first version: nothing to compare with, so it goes live after its smoke test.")
    first = release(files["v1"])
    _, rows, _, truth = split()
    results = [("v1", first, 0.0)]
    checks: list[dict[str, Any]] = []
    lives: list[int] = []
    rate = rate_for(first["url"], rows)
    with Client(first["url"], rows, truth, rate) as client:
        console.print(f"From now on a client asks {rate:.0f} times a second and checks every answer.\n")
        for version, story, outcome, code in CHAPTERS:
            chapter(f"{version}: {outcome}", story)
            results.append((version, release(files[version], code), 0.0))
        for story, spared, *_ in DRIFTS:
            chapter("The world changes", story)
            client.drift(DRIFT_SCALE, spared)
            wait(DRIFT_SECONDS, "the drifted requests fill the monitor's window")
            checks.append(json.loads(command("monitor", str(files["v2"]), "--json")))
            lives.append(json.loads(command("history", model, "--json"))[-1]["revision"]["version"]["version"])
    return conclude(client, results, list(zip(checks, lives, strict=True)), home, stack, time.monotonic() - began)


def rate_for(url: str, rows: pd.DataFrame) -> float:
    """Requests a second that leave a slow or busy machine room for the copies and for a second model."""
    body = {"dataframe_split": json.loads(rows.head(1).to_json(orient="split", index=False))}
    with httpx.Client() as client:
        taken = [client.post(url, json=body).elapsed for _ in range(TRIALS)]
    return min(MOST_A_SECOND, BUSY / statistics.median(taken).total_seconds())


def conclude(
    client: Client, results: list[Any], checks: list[tuple[dict[str, Any], int]], home: Path, stack: dict[str, Any],
    seconds: float,
) -> bool:  # fmt: skip
    """The final table, result.json, and whether all is as it should be."""
    rows = []
    for version, result, _ in results:
        number = result["version"]
        seen = client.by_revision.get(next((r for r in client.by_revision if r.startswith(f"v{number}-")), ""), {})
        bad = seen.get("failed", 0) + (seen.get("wrong", 0) if result["outcome"] != "promoted" else 0)
        rows.append({
            "version": version, "outcome": result["outcome"], "why": result["reason"],
            "answers": seen.get("answers", 0), "failed": seen.get("failed", 0), "wrong": seen.get("wrong", 0),
            "bad answers clients saw": bad, "seconds": round(result["seconds"], 1), "report": result["report"],
        })  # fmt: skip
    for check, live in checks:
        why = check["attribution"]["reason"] if check["attribution"] else check["reason"]
        rows.append({
            "version": "drift", "outcome": f"v{live} stays" if live != FIRST else "back on v1", "why": why,
            "answers": 0, "failed": 0, "wrong": 0, "bad answers clients saw": 0, "seconds": 0.0, "report": "",
        })  # fmt: skip
    expected = ["promoted", *(chapter.outcome for chapter in CHAPTERS), *(drift.outcome for drift in DRIFTS)]
    as_told = [row["outcome"] for row in rows] == expected
    v3 = rows[2]
    ok = as_told and client.lost == 0 and v3["answers"] == 0
    summary = {
        "ok": ok, "seconds": round(seconds, 1), "requests": client.total, "requests_per_second": round(client.rate, 1),
        "asked_per_second": round(client.asked, 1),
        "lost_by_shifting_traffic": client.lost, "versions": rows,
    }  # fmt: skip
    (home / "result.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    show(rows, client, home, stack, seconds)
    return ok


def show(rows: list[dict[str, Any]], client: Client, home: Path, stack: dict[str, Any], seconds: float) -> None:
    """The table for people."""
    table = Table(title="What happened", title_justify="left")
    for column in ("version", "outcome", "why", "answers", "bad answers\nclients saw", "time"):
        table.add_column(column, overflow="fold")
    for row in rows:
        time_taken = f"{row['seconds']:g} s" if row["seconds"] else ""
        table.add_row(row["version"], row["outcome"], row["why"], str(row["answers"] or ""),
                      str(row["bad answers clients saw"]), time_taken)  # fmt: skip
    console.print(table)
    console.print(f"{client.total} requests at {client.rate:.0f} a second; lost by shifting traffic: {client.lost}; "
                  f"{seconds:.0f} s in all")  # fmt: skip
    ports = stack["ports"]
    console.print(f"Report of v4:  file://{rows[3]['report']}", soft_wrap=True)
    console.print(f"Prefect:       http://127.0.0.1:{ports['prefect']}")
    console.print(f"MLflow:        http://127.0.0.1:{ports['mlflow']}")
    console.print(f"result.json:   {home / 'result.json'}", soft_wrap=True)


def release(file: Path, expected: int = 0) -> dict[str, Any]:
    """Run `headgate release`, and read the result that it prints last."""
    lines = command("release", str(file), "--json", expected=expected).splitlines()
    result: dict[str, Any] = json.loads(lines[-1])
    console.print()
    return result


def command(*arguments: str, expected: int | None = 0, capture: bool = True) -> str:
    """Run a headgate command; its progress is shown as it comes, its result returned. None expects any exit code."""
    shown = " ".join(Path(part).name if part.startswith("/") else part for part in arguments if part != "--json")
    console.print(f"[bold green]$[/] headgate {shown}")
    done = subprocess.run([HEADGATE, *arguments], stdout=subprocess.PIPE if capture else None, text=True, check=False)
    if expected is not None and done.returncode != expected:
        console.print(f"[red]headgate {arguments[0]} ended with {done.returncode}, not {expected}[/]")
        sys.exit(1)
    return done.stdout or ""


def train(env: dict[str, str]) -> dict[str, str]:
    """Run the training script as a data scientist would."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(WINE / "train.py")], env={**os.environ, **env}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        console.print(done.stderr)
        sys.exit(1)
    runs: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return runs


def unused_name() -> str:
    """`wine`, or `wine-2` and so on where that was released here before: every demo begins with a first version."""
    known = {row["endpoint"] for row in json.loads(command("status", "--json", expected=None))["endpoints"]}
    names = ("wine", *(f"wine-{number}" for number in range(2, len(known) + 2)))
    return next(name for name in names if name not in known)


def write_file(work: Path, version: str, model: str, uri: str, target: str) -> Path:
    """The example's release file, with the run of one version, and with the model and the target of this demo."""
    work.mkdir(parents=True, exist_ok=True)
    file = work / f"{version}.yaml"
    text = (WINE / "release.yaml").read_text(encoding="utf-8")
    entry = target if target.startswith("{") else json.dumps({"kind": target})
    text = text.replace("runs:/<run_id>/model", uri).replace("{kind: local}", entry)
    text = text.replace("model: wine", f"model: {model}")
    file.write_text(text, encoding="utf-8")
    return file


def wait(seconds: float, why: str) -> None:
    """Let the world go on for a while, and say why."""
    with console.status(f"{seconds:g} s, so that {why}"):
        time.sleep(seconds)


def chapter(title: str, story: str) -> None:
    """A heading."""
    console.rule(f"[bold]{title}[/]", align="left")
    console.print(story + "\n")


if __name__ == "__main__":
    sys.exit(main())
