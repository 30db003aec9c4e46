"""The gateway: how soon a rollback is in effect, what a shift loses, and what going through Envoy costs."""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from load import Load, run

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))

from support.models import Models
from support.stack import start_gateway

from deploy_targets.local import LocalTarget
from headgate.records import ModelVersion, Revision, Traffic
from images import build_image, fetch_artifact

BODY = {"dataframe_split": {"columns": [], "data": [[]]}}
SWITCHES, SHIFTS = 60, 200
ENDPOINT = "bench"


def main() -> None:
    """Print all three."""
    with tempfile.TemporaryDirectory() as folder, start_gateway(Path(folder) / "home") as home:
        target = LocalTarget(home)
        model = Models(Path(folder))("onnx", table=True)
        image = build_image(home, fetch_artifact(str(model), Path(folder)))
        stable, canary = (
            Revision.of(ModelVersion(name="bench", version=number, digest=image.digest), image,
                        env={"OMP_NUM_THREADS": "1"}, workers=1, ready_timeout=60)
            for number in (1, 2)
        )  # fmt: skip
        for revision in (stable, canary):
            target.deploy(ENDPOINT, revision)
        target.route(ENDPOINT, Traffic.all_to(stable.name))
        state = target.observe(ENDPOINT)
        body = json.loads((model / "serving_input_example.json").read_text())
        overhead(state.url, f"{state.revisions[stable.name].address}/invocations", body)
        shifts(target, state.url, body, stable.name, canary.name)
        switches(target, state.url, body, stable.name, canary.name)


def overhead(through: str, direct: str, body: object) -> None:
    """The same revision, asked directly and through Envoy, in turn."""
    rounds = [(run(direct, body, 1, 2.0), run(through, body, 1, 2.0)) for _ in range(3)]
    print("\nGateway overhead, one connection")
    print(f"  {'':16}{'req/s':>9}{'p50 ms':>9}{'p99 ms':>9}")
    for name, results in zip(("direct", "through Envoy"), zip(*rounds, strict=True), strict=True):
        figures = [statistics.median(f(r) for r in results) for f in (
            lambda r: r.rate, lambda r: r.milliseconds(0.5), lambda r: r.milliseconds(0.99))]  # fmt: skip
        print(f"  {name:16}{figures[0]:>9.0f}{figures[1]:>9.3f}{figures[2]:>9.3f}")


def shifts(target: LocalTarget, url: str, body: object, stable: str, canary: str) -> None:
    """Many changes of weight under load; nothing may be lost."""
    shares = [0, 100, 500, 2500, 5000, 7500, 10_000, 3000]
    with Load(url, body, connections=6, rate=1500) as load:
        for number in range(SHIFTS):
            target.route(ENDPOINT, Traffic.split(stable, canary, shares[number % len(shares)]))
            time.sleep(0.03)
    lost = len(load.errors) + sum(answer.status != 200 for answer in load.answers)
    seen = sum(answer.revision == canary for answer in load.answers) / len(load.answers)
    print(f"\n{SHIFTS} shifts at {load.rate:.0f} requests/s: {lost} of {len(load.answers)} requests lost "
          f"({seen * 100:.0f}% went to the canary)")  # fmt: skip
    if lost:
        sys.exit("requests were lost")


def switches(target: LocalTarget, url: str, body: object, stable: str, canary: str) -> None:
    """From the decision to roll back to the last answer that a canary gave to any client."""
    last, returned = [], []
    for _ in range(SWITCHES):
        target.route(ENDPOINT, Traffic.split(stable, canary, 5000))
        with Load(url, body, connections=4, rate=1200) as load:
            time.sleep(0.25)
            decided = time.perf_counter()
            target.route(ENDPOINT, Traffic.all_to(stable))
            returned.append(time.perf_counter() - decided)
            time.sleep(0.15)
        last.append(max(0.0, *(a.received - decided for a in load.answers if a.revision == canary)))
    for name, times in (("decision to last canary answer", last), ("decision to route() read back", returned)):
        ordered = sorted(time * 1000 for time in times)
        p95 = ordered[int(len(ordered) * 0.95)]
        print(f"{name}: median {statistics.median(ordered):.1f} ms, p95 {p95:.1f} ms, max {ordered[-1]:.1f} ms "
              f"({SWITCHES} switches)")  # fmt: skip


if __name__ == "__main__":
    main()
