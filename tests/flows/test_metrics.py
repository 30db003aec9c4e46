"""A real Prometheus scrapes a stack that is at work; every query of every dashboard has an answer there."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import QUICK
from support import nvml
from support.stack import http, wait_for

from headgate.release_file import parse_release
from headgate.stack.ports import free_port

OPS = Path(__file__).parents[2] / "ops"
DASHBOARDS = sorted((OPS / "grafana" / "dashboards").glob("*.json"))

pytestmark = pytest.mark.skipif(shutil.which("prometheus") is None, reason="Prometheus is not installed")


def test_the_rules_do_what_they_say():
    done = subprocess.run(
        ["promtool", "test", "rules", "rules_test.yml"], cwd=OPS / "prometheus", capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def prometheus(folder: Path, receiver: str):
    """One with our configuration, which asks every second."""
    config = yaml.safe_load((OPS / "prometheus" / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["scrape_configs"][0]["http_sd_configs"][0] = {"url": f"{receiver}/targets", "refresh_interval": "2s"}
    shutil.copy(OPS / "prometheus" / "rules.yml", folder)
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port(for_what="Prometheus")
    command = [
        "prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}", "--log.level=error",
    ]  # fmt: skip
    with (
        subprocess.Popen(command) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=20) as client,
    ):
        try:
            yield client
        finally:
            process.terminate()


def queries() -> list[str]:
    return [
        target["expr"]
        for file in DASHBOARDS
        for panel in json.loads(file.read_text())["panels"]
        for target in panel["targets"]
    ]


@pytest.mark.real_server
def test_every_query_of_every_dashboard_has_an_answer(world, models, tmp_path):
    from flows.monitor import monitor

    rng = np.random.default_rng(0)
    pd.DataFrame({"x": rng.uniform(1, 21, 500)}).to_parquet(tmp_path / "reference.parquet")
    gpus = json.dumps(nvml.library(tmp_path / "nvml"))
    text = QUICK + f"runtime: {{price_per_hour: 1.5, env: {{LD_LIBRARY_PATH: {gpus}}}}}\n"
    text += f"monitor: {{reference: {json.dumps(str(tmp_path / 'reference.parquet'))}, min_rows: 20}}\n"
    (tmp_path / "prometheus").mkdir()
    world.release(models("pyfunc", does="double"), text)
    began = time.time()
    with prometheus(tmp_path / "prometheus", world.stack.ports.receiver_url) as client, world.traffic():
        world.release(models("pyfunc", does="negative"), text)
        # One right answer is enough for the rate of wrong ones.
        asked = http.post(world.state.url, json={"dataframe_records": [{"x": 2}]}, timeout=20)
        labels = tmp_path / "labels.csv"
        labels.write_text(f"request_id,label\n{asked.headers['x-request-id']},4\n")
        world.stack.headgate("labels", world.endpoint, str(labels))
        asyncio.run(monitor(parse_release(world.text("unused", text))))

        def unanswered() -> list[str]:
            span = {"start": began, "end": time.time(), "step": 1}
            asked = {query: query.replace("$endpoint", world.endpoint) for query in queries()}
            replies = {
                query: client.get("/query_range", params={"query": expression, **span}).json()
                for query, expression in asked.items()
            }
            refused = [reply["error"] for reply in replies.values() if reply["status"] != "success"]
            assert not refused, refused
            return [query for query, reply in replies.items() if not reply["data"]["result"]]

        wait_for(lambda: not unanswered() or time.time() - began > 200, 240)
        assert unanswered() == []
        active = client.get("/targets", params={"state": "active"}).json()["data"]["activeTargets"]
        ours = {
            (target["labels"]["job"], target["labels"].get("revision", "")[:2]): target["health"] for target in active
        }
    assert {name for name, health in ours.items() if health == "up"} >= {
        ("headgate", ""), ("headgate-gateway", ""), ("headgate-server", "v1"), ("headgate-server", "v2"),
    }  # fmt: skip
