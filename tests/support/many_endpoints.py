"""Endpoints as their monitor finds them, by the hundred: a history, a log of requests, a reference, and no server."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from headgate.phases import Phase
from headgate.records import Image, ModelVersion, Revision
from headgate.release_file import parse_release
from headgate_server.prediction_log import PredictionLog, Row
from registry import Entry, Kind
from registry.watches import watch

if TYPE_CHECKING:
    from pathlib import Path

    from headgate.home import Home
    from registry import Journal


def reference(file: Path, columns: int, rows: int = 2000) -> Path:
    """What all of them were trained on."""
    values = np.random.default_rng(0).normal(size=(rows, columns))
    pd.DataFrame(values, columns=[f"x{number}" for number in range(columns)]).to_parquet(file)
    return file


def add_endpoint(
    home: Home, journal: Journal, name: str, file: Path, *, rows: int, columns: int, moved: float = 0.0,
    live_for: timedelta = timedelta(hours=1),
) -> None:  # fmt: skip
    """One that is live and has just answered `rows` requests, `moved` from its reference."""
    text = f"model: {name}\nartifact: nowhere\ntarget: {{kind: local}}\n"
    spec = parse_release(text + f"monitor: {{reference: {json.dumps(str(file))}, window: 10m, min_rows: 50}}\n")
    # Before anything else: what is live for no time was not live yet when it was asked.
    now = time.time_ns() // 1000
    earlier = datetime.now(UTC) - live_for
    version = ModelVersion(name=name, version=1, digest="sha256:" + "0" * 64)
    image = Image(
        digest="sha256:" + "1" * 64, lock_digest="sha256:" + "2" * 64, path=file.parent, interpreter=None, size=1
    )
    revision = Revision.of(version, image, env={}, workers=1, ready_timeout=60)
    for kind, what, evidence in (
        (Kind.PHASE, Phase.STARTED, {"spec": spec.model_dump(mode="json")}),
        (Kind.PHASE, Phase.PROMOTED, {}),
        (Kind.LIVE, revision.name, {"revision": revision.model_dump(mode="json")}),
    ):
        row = Entry(endpoint=name, release_id="r1", kind=kind, what=what, actor="test", evidence=evidence, at=earlier)
        journal.append(row)
    watch(journal, spec, "test")
    dice = np.random.default_rng(len(name) + rows)
    lost: list[int] = []
    log = PredictionLog(home.revisions / name / revision.name / "predictions", lost.append)
    for number, values in enumerate(dice.normal(moved, 1, size=(rows, columns)).tolist()):
        body = {"dataframe_split": {"columns": [f"x{place}" for place in range(columns)], "data": [values]}}
        log.add(Row(f"{name}-{number}", now - number * 1000, 200, 0.001, False, "application/json",
                    json.dumps(body).encode(), b'{"predictions": [1.5]}'))  # fmt: skip
    log.close()
    assert not lost
