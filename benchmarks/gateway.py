"""The gateway: how soon a rollback is in effect, what a shift loses, and what going through Envoy costs.

`gateway.py sockets` compares servers at Unix sockets with servers at ports, by `wrk` (apt-get install wrk).
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from load import Load, run
from servers import one_row
from servers import run as wrk

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))

from support.models import Models
from support.stack import start_gateway

from deploy_targets.local import LocalTarget
from deploy_targets.server_address import ServerAddress
from headgate.records import ModelVersion, Revision, Traffic
from images import build_image, fetch_artifact

if TYPE_CHECKING:
    from headgate.home import Home

BODY = {"dataframe_split": {"columns": [], "data": [[]]}}
SWITCHES, SHIFTS = 60, 200
PAIRS, SECONDS = 12, 2
ENDPOINT = "bench"


class AtPorts(LocalTarget):
    """The local target as it was before it had sockets."""

    def _choose_address(self, endpoint: str, revision: Revision) -> ServerAddress:  # noqa: ARG002 - any port will do
        return self._free_port(endpoint)


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
        if sys.argv[1:] == ["sockets"]:
            ports_and_sockets(home, stable, one_row(model), Path(folder))
            return
        for revision in (stable, canary):
            target.deploy(ENDPOINT, revision)
        target.route(ENDPOINT, Traffic.all_to(stable.name))
        state = target.observe(ENDPOINT)
        body = json.loads((model / "serving_input_example.json").read_text())
        overhead(state.url, ServerAddress.of(state.revisions[stable.name].address), body)
        shifts(target, state.url, body, stable.name, canary.name)
        switches(target, state.url, body, stable.name, canary.name)


def overhead(through: str, server: ServerAddress, body: object) -> None:
    """The same revision, asked directly and through Envoy, in turn."""
    direct = f"{server.url}/invocations"
    rounds = [(run(direct, body, 1, 2.0, server.socket), run(through, body, 1, 2.0)) for _ in range(3)]
    print("\nGateway overhead, one connection")
    print(f"  {'':16}{'req/s':>9}{'p50 ms':>9}{'p99 ms':>9}")
    for name, results in zip(("direct", "through Envoy"), zip(*rounds, strict=True), strict=True):
        figures = [statistics.median(f(r) for r in results) for f in (
            lambda r: r.rate, lambda r: r.milliseconds(0.5), lambda r: r.milliseconds(0.99))]  # fmt: skip
        print(f"  {name:16}{figures[0]:>9.0f}{figures[1]:>9.3f}{figures[2]:>9.3f}")


def ports_and_sockets(home: Home, revision: Revision, body: object, folder: Path) -> None:
    """The same version at a port and at a Unix socket, each through Envoy, in turn."""
    urls = {}
    for name, kind in (("port", AtPorts), ("socket", LocalTarget)):
        target = kind(home)
        target.deploy(name, revision)
        target.route(name, Traffic.all_to(revision.name))
        urls[name] = target.observe(name).url
        wrk(urls[name], body, 8, SECONDS, folder)
    print(f"\nThrough Envoy to a server at a port and at a Unix socket, {PAIRS} pairs of {SECONDS} s, medians")
    print(f"  {'':8}{'c':>3}{'req/s':>9}{'p50 ms':>9}{'p99 ms':>9}")
    for connections in (1, 8, 64):
        pairs = [
            {name: wrk(urls[name], body, connections, SECONDS, folder)
             for name in (list(urls) if number % 2 else reversed(urls))}
            for number in range(PAIRS)
        ]  # fmt: skip
        for name in urls:
            rate, p50, p99 = map(statistics.median, zip(*(pair[name] for pair in pairs), strict=True))
            print(f"  {name:8}{connections:>3}{rate:>9.0f}{p50:>9.2f}{p99:>9.2f}")
        ratios = [statistics.median(pair["socket"][at] / pair["port"][at] for pair in pairs) for at in (0, 2)]
        print(f"  socket/port: {ratios[0]:.2f} of the requests/s, {ratios[1]:.2f} of the p99 (medians of the pairs)")


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
