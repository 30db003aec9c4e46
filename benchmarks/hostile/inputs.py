"""Try thousands of inputs with random faults: each has to be accepted or refused within a second of CPU.

Seeds are printed; the same seed makes the same input.
"""

from __future__ import annotations

import json
import logging
import os
import random
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pydantic import BaseModel, ValidationError
from support import mutated_commands, mutated_kubeconfig, mutated_parquet
from support.models import Models
from support.mutated_files import check as check_files

from headgate_server.model import ModelRaisedError, ServedModel
from tasks.deliveries import Delivery, GivenLabels, Notification, why_not

if TYPE_CHECKING:
    from collections.abc import Iterator

BODIES, FILES, WEBHOOKS = 10_000, 5_000, 5_000
PARQUET, KUBECONFIGS, LINES, PROCESSES = 5_000, 5_000, 5_000, 200
SECONDS = 1.0
"""Of a processor, for one input."""
_PARTS = [
    b"[", b"]", b"{", b"}", b'"', b",", b":", b"\\", b"\x00", b"\xff", b"\xf0\x9f", b"\\ud800", b"1e999", b"-0",
    b"NaN", b"Infinity", b"9" * 400, b"null", b"true", b"\r\n", b"\n\n", b'""', b"[" * 100, b"," * 500, b"{}", b"\t",
    b'"columns":', b'"data":', b'"inputs":', b'"params":', b"'", b"\xef\xbb\xbf", b" " * 1000,
]  # fmt: skip


class Found(NamedTuple):
    """Of one kind of input: how many were tried and taken, the worst time, and what went wrong."""

    tried: int
    taken: int
    slowest: float
    wrong: list[str]


def run() -> list[str]:
    """Print a table; returns what went wrong."""
    first = int(os.environ.get("HEADGATE_TEST_SEED") or int(time.time() // 86_400))
    print(f"\nInput with faults; HEADGATE_TEST_SEED={first} makes the same")
    print(f"  {'':26}{'tried':>8}{'taken':>8}{'slowest ms':>12}{'wrong':>7}")
    began = time.process_time()
    read, refused = check_files(range(first * FILES, (first + 1) * FILES))
    files = Found(read + refused, read, (time.process_time() - began) / FILES, [])
    wrong = []
    kinds = {
        "requests' bodies": _bodies, "webhooks and labels": _webhooks, "Parquet files": _parquet,
        "kubeconfigs": _kubeconfigs, "command lines": _lines, "command lines as programs": _programs,
    }  # fmt: skip
    for name, find in {"release files (mean)": lambda _: files, **kinds}.items():
        found = find(first)
        print(
            f"  {name:26}{found.tried:>8}{found.taken:>8}{found.slowest * 1000:>12.1f}{len(found.wrong):>7}", flush=True
        )
        wrong += [f"{name}: {one}" for one in found.wrong]
    return wrong


def _bodies(seed: int) -> Found:
    """Bodies for two models, of which one takes numbers and the other text too."""
    wrong: list[str] = []
    taken, slowest = 0, 0.0
    with tempfile.TemporaryDirectory() as folder:
        for name in ("wine", "strings"):
            path = Models(Path(folder))(name)
            model, example = ServedModel(path), json.loads((path / "serving_input_example.json").read_text())
            table = example["dataframe_split"]
            records = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
            csv = "\n".join(",".join(map(str, row)) for row in [table["columns"], *table["data"]])
            sound = [
                *(
                    (json.dumps(one).encode(), "application/json")
                    for one in (example, {"dataframe_records": records}, {"instances": records}, {"inputs": records})
                ),
                (csv.encode(), "text/csv"),
            ]
            for number in range(BODIES // 2):
                dice = random.Random(f"{seed} {name} {number}")
                body, kind = dice.choice(sound)
                mutated = _mutated(body, dice)
                began = time.process_time()
                try:
                    status = model.answer(mutated, kind).status
                except ModelRaisedError as error:
                    wrong.append(f"{name} {number}: the model raised {error.__cause__!r}")
                    continue
                except Exception as error:  # noqa: BLE001 - whatever a body leads to
                    wrong.append(f"{name} {number}: {error!r}")
                    continue
                slowest = max(slowest, time.process_time() - began)
                taken += status == 200
                if status >= 500 or time.process_time() - began > SECONDS:
                    wrong.append(f"{name} {number}: {status} after {time.process_time() - began:.1f} s")
    return Found(BODIES, taken, slowest, wrong)


def _webhooks(seed: int) -> Found:
    """What the receiver takes: deliveries of MLflow, alerts and labels."""
    alias = {"entity": "model_version_alias", "data": {"name": "wine", "version": "3", "alias": "champion"}}
    alert = {
        "status": "firing",
        "labels": {"alertname": "slow", "endpoint": "wine"},
        "startsAt": "2026-01-01T00:00:00Z",
    }
    labels = {"endpoint": "wine", "labels": [{"request_id": "1", "label": 2}]}
    sound: list[tuple[type[BaseModel], bytes]] = [
        (kind, json.dumps(body).encode())
        for kind, body in ((Delivery, alias), (Notification, {"alerts": [alert]}), (GivenLabels, labels))
    ]
    wrong, taken, slowest = [], 0, 0.0
    for number in range(WEBHOOKS):
        dice = random.Random(f"{seed} webhook {number}")
        kind, body = dice.choice(sound)
        mutated, began = _mutated(body, dice), time.process_time()
        try:
            kind.model_validate_json(mutated)
            taken += 1
        except ValidationError as error:
            # It is refused with 400 and these words.
            why_not(error)
        except Exception as error:  # noqa: BLE001 - whatever a body leads to
            wrong.append(f"webhook {number}: {error!r}")
        slowest = max(slowest, time.process_time() - began)
        if time.process_time() - began > SECONDS:
            wrong.append(f"webhook {number}: {time.process_time() - began:.1f} s")
    return Found(WEBHOOKS, taken, slowest, wrong)


def _parquet(seed: int) -> Found:
    """What reads Parquet: windows, references, labels, counts and bodies, in child processes with limits."""
    found = mutated_parquet.check(range(seed * PARQUET, (seed + 1) * PARQUET), at_once=os.cpu_count() or 1)
    return Found(found.tried, found.ends["read"], found.slowest, found.wrong)


def _kubeconfigs(seed: int) -> Found:
    """A question to a cluster by each kubeconfig, or by what a pod is given."""
    # The client logs what it refuses.
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        found = mutated_kubeconfig.check(range(seed * KUBECONFIGS, (seed + 1) * KUBECONFIGS), Path(folder))
    logging.disable(logging.NOTSET)
    return Found(found.answered + found.refused, found.answered, found.slowest, found.wrong)


def _lines(seed: int) -> Found:
    """Command lines in this process, where nothing can be started or reached."""
    with tempfile.TemporaryDirectory() as folder:
        found = mutated_commands.check(range(seed * LINES, (seed + 1) * LINES), Path(folder))
    return Found(found.codes.total(), found.codes[0], found.slowest, found.wrong)


def _programs(seed: int) -> Found:
    """Command lines as processes; the worst time is of the wall and has Python's start in it."""
    with tempfile.TemporaryDirectory() as folder:
        found = mutated_commands.in_processes(range(seed * LINES, seed * LINES + PROCESSES), Path(folder))
    return Found(found.codes.total(), found.codes[0], found.slowest, found.wrong)


def _mutated(body: bytes, dice: random.Random) -> bytes:
    for _ in range(dice.randint(1, 3)):
        body = b"".join(dice.choice([_insert, _cut, _flip, _repeat])(body, dice))
    return body


def _insert(body: bytes, dice: random.Random) -> Iterator[bytes]:
    place = dice.randrange(len(body) + 1)
    yield from (body[:place], dice.choice(_PARTS), body[place:])


def _cut(body: bytes, dice: random.Random) -> Iterator[bytes]:
    first, last = sorted((dice.randrange(len(body) + 1), dice.randrange(len(body) + 1)))
    yield from (body[:first], body[last:])


def _flip(body: bytes, dice: random.Random) -> Iterator[bytes]:
    if body:
        place = dice.randrange(len(body))
        yield from (body[:place], bytes([dice.randrange(256)]), body[place + 1 :])


def _repeat(body: bytes, dice: random.Random) -> Iterator[bytes]:
    first, last = sorted((dice.randrange(len(body) + 1), dice.randrange(len(body) + 1)))
    yield from (body[:last], body[first:last] * dice.randint(1, 50), body[last:])
