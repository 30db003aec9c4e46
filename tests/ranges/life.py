"""A short life of an endpoint on the local stack: two releases, a check by its schedule, a rollback by an event.

Run by the Python of an environment that has Headgate and nothing of its tests: `python life.py FOLDER`, with tests,
tests/support and examples on PYTHONPATH.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import httpx
import pandas as pd
from client import Client
from support.models import Models
from support.stack import start_stack, wait_for

from headgate.stack.secrets import Secrets
from registry import Kind
from registry.journal import open_journal

FILE = """\
model: life
artifact: {artifact}
target: {{kind: local}}
gates: {{shadow: {{min_requests: 40, max_disagreement: 20%}}}}
strategy: {{steps: [50%], min_requests: 60, min_duration: 2s}}
judge: {{error_rate: {{margin_points: 20%}}, latency: {{quantiles: [0.5], floor: 1s}}}}
monitor: {{schedule: '* * * * *', min_rows: 20, reference: {reference}}}
"""


def main(folder: Path) -> None:
    """Live it; an AssertionError says what was not as it should be."""
    reference, file = folder / "reference.parquet", folder / "release.yaml"
    (folder / "models").mkdir()
    models = Models(folder / "models")
    rows = pd.DataFrame({"x": [float(number) for number in range(1, 21)]})
    pd.concat([rows] * 20).to_parquet(reference)

    with start_stack(folder / "home") as stack, open_journal(stack.home.journal_url) as journal:

        def release(does: str) -> dict[str, str]:
            file.write_text(FILE.format(artifact=models("pyfunc", does=does), reference=json.dumps(str(reference))))
            result: dict[str, str] = stack.json("release", str(file), expect=0)
            assert result["outcome"] == "promoted", result
            return result

        def live() -> list[int]:
            return [row.evidence["revision"]["version"]["version"] for row in journal.read("life", kinds=(Kind.LIVE,))]

        url = release("double")["url"]
        with Client(url, rows, rows["x"].map(lambda x: {"x": x * 2}), 50) as client:
            release("negative")
            stack.headgate("watch", str(file))
            wait_for(lambda: journal.read("life", kinds=(Kind.CHECK,)), 180)
            alert = {"status": "firing", "labels": {"alertname": "Life", "endpoint": "life"}, "fingerprint": "1"}
            taken = httpx.post(
                f"{stack.ports.receiver_url}/alertmanager", json={"alerts": [alert]}, timeout=10,
                headers={"authorization": f"Bearer {Secrets.of(stack.home).alerts}"},
            )  # fmt: skip
            assert taken.status_code == 202, taken.text
            wait_for(lambda: live() == [1, 2, 1], 180)
        assert client.lost == 0, client.lost
        problems = [one for one in stack.json("doctor") if one["severity"] == "error"]
        assert problems == [], problems


if __name__ == "__main__":
    main(Path(sys.argv[1]))
