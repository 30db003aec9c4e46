"""What hostile clients cost the others, and what hostile input does: `make hostile`.

Words after it choose the attacks whose names have one of them: `make hostile ARGS="gzip connections"`. `input`
is the first table.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

FOLDER = Path(__file__).parent
sys.path[:0] = [str(FOLDER), *(str(FOLDER.parents[1] / name) for name in ("tests", "tests/support"))]

import inputs
from attacks import UNFINISHED, Clients, Place, allow_many_connections, attacks, under
from crowd import CONNECTIONS, KINDS, OTHER_ADDRESS, crowd
from support.models import Models
from support.stack import http, start_gateway

from deploy_targets.local import LocalTarget
from deploy_targets.processes import usage_of
from headgate.records import ModelVersion, Revision, Traffic
from headgate.stack import Ports, Supervisor
from headgate_server.bodies import MAX_UNFINISHED
from headgate_server.prediction_log import MAX_PENDING_BYTES
from images import build_image, fetch_artifact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from attacks import Attacker

    from headgate.home import Home

ENDPOINT, SECONDS, CROWD_SECONDS = "bench", 10.0, 12.0
P99_RATIO = 3


def main() -> None:
    """Print the tables; the exit code is 1 where a figure is missed."""
    allow_many_connections()
    chosen = sys.argv[1:]

    def is_chosen(name: str) -> bool:
        return not chosen or any(word in name for word in chosen)

    missed = inputs.run() if not chosen or "input" in chosen else []
    if chosen != ["input"]:
        missed += beside(is_chosen)
    if missed:
        sys.exit("missed: " + ", ".join(missed))


def beside(is_chosen: Callable[[str], bool]) -> list[str]:
    """Print the tables of the attacks that are chosen; the names of the figures that are missed."""
    missed: list[str] = []
    with endpoint() as asked:
        by_name = attacks(asked.columns)
        if names := [name for name in by_name if is_chosen(name)]:
            missed += beside_attacks({name: by_name[name] for name in names}, asked)
        if kinds := [kind for kind in KINDS if is_chosen(of_crowd(kind))]:
            missed += beside_crowds(kinds, asked)
    return missed


class Asked(NamedTuple):
    """The endpoint: its stack, its only revision, and a good request."""

    home: Home
    target: LocalTarget
    revision: Revision
    place: Place
    columns: list[str]
    body: bytes


@contextmanager
def endpoint() -> Iterator[Asked]:
    """Serve a model on a local stack of its own."""
    with tempfile.TemporaryDirectory() as folder, start_gateway(Path(folder) / "home") as home:
        target = LocalTarget(home)
        model = Models(Path(folder))("wine")
        image = build_image(home, fetch_artifact(str(model), Path(folder)))
        version = ModelVersion(name=ENDPOINT, version=1, digest=image.digest)
        revision = Revision.of(version, image, env={}, workers=1, ready_timeout=120)
        target.deploy(ENDPOINT, revision)
        target.route(ENDPOINT, Traffic.all_to(revision.name))
        place = Place.of(target.observe(ENDPOINT).url)
        example = json.loads((model / "serving_input_example.json").read_text())["dataframe_split"]
        body = json.dumps({"dataframe_split": {**example, "data": example["data"][:1]}}).encode()
        Clients(place, body).run(2)
        yield Asked(home, target, revision, place, example["columns"], body)


def beside_attacks(chosen: dict[str, list[Attacker]], asked: Asked) -> list[str]:
    """Attack the endpoint; returns the attacks that cost others more than is wanted."""
    missed = []
    idle = memory(asked.target, asked.revision)
    print(f"\nOther clients beside an attack of {SECONDS:g} s; the server's memory idle: {idle / 2**20:.0f} MiB")
    print(f"  {'':32}{'answered':>9}{'lost':>6}{'p99 ms':>8}{'ratio':>7}{'memory':>8}")
    for name, attackers in chosen.items():
        # What comes in one part is read however much others have sent.
        body = asked.body + b" " * 2**20 if name == UNFINISHED else asked.body
        quiet, beside = Clients(asked.place, body), Clients(asked.place, body)
        quiet.run(SECONDS / 2)
        peak = Peak(asked.target, asked.revision)
        with peak, under(attackers, asked.place):
            beside.run(SECONDS)
        ratio = beside.p99() / quiet.p99()
        answered, lost = len(beside.seconds), len(beside.lost)
        times = peak.most / idle
        print(f"  {name:32}{answered:>9}{lost:>6}{beside.p99():>8.1f}{ratio:>6.1f}x{times:>7.1f}x", flush=True)
        if beside.lost:
            print(f"    {sorted(set(beside.lost))}")
        if lost or ratio > P99_RATIO or peak.most > 2 * idle + MAX_UNFINISHED + MAX_PENDING_BYTES:
            missed.append(name)
    return missed


def of_crowd(kind: str) -> str:
    """Return the name of an attack with many connections."""
    return f"{CONNECTIONS} connections, {kind}"


def beside_crowds(kinds: list[str], asked: Asked) -> list[str]:
    """Open many connections from one address; returns the attacks that cost others more than is wanted.

    The clients that stay are connected before the attacker comes.
    """
    missed, metrics = [], Ports.remembered(asked.home).metrics_url
    print(f"\nOther clients beside {CONNECTIONS} connections from one address, {CROWD_SECONDS:g} s")
    print(f"  {'':22}{'':>7}{'clients that stay':^20}{'new, of another address':^26}{'connections':^17}{'Envoy':>8}")
    print(
        f"  {'':22}{'held':>7}{'lost':>6}{'p99 ms':>8}{'ratio':>6}{'served':>10}{'p99 ms':>9}{'ratio':>7}"
        f"{'refused':>9}{'late':>8}{'MiB':>8}"
    )
    for kind in kinds:
        clients = Pair(asked.place, asked.body)
        clients.run(CROWD_SECONDS / 2)
        quiet_stay, quiet_new = clients.stay.p99(), clients.new.p99()
        before = connections_ended(metrics)
        with crowd(kind, asked.place, asked.body) as held:
            clients.run(CROWD_SECONDS)
            used = usage_of(Supervisor(asked.home).states()["gateway"].pid)
        refused, late = (now - then for now, then in zip(connections_ended(metrics), before, strict=True))
        stay, new = clients.stay, clients.new
        ratios = stay.p99() / quiet_stay, new.p99() / quiet_new
        served = len(new.seconds) / (len(new.seconds) + len(new.lost))
        mebibytes = (used.memory or 0) / 2**20 if used else 0
        print(
            f"  {kind:22}{held:>7}{len(stay.lost):>6}{stay.p99():>8.1f}{ratios[0]:>5.1f}x"
            f"{served:>10.1%}{new.p99():>9.1f}{ratios[1]:>6.1f}x{refused:>9}{late:>8}{mebibytes:>8.0f}", flush=True,
        )  # fmt: skip
        if stay.lost or new.lost or max(ratios) > P99_RATIO:
            missed.append(of_crowd(kind))
    return missed


class Pair:
    """Four clients that keep their connections, and two of another address that connect anew for each request."""

    def __init__(self, place: Place, body: bytes) -> None:
        self.stay = Clients(place, body, (True,) * 4)
        self.new = Clients(place, body, (False,) * 2, OTHER_ADDRESS)

    def run(self, seconds: float) -> None:
        """Ask at the same time."""
        threads = [threading.Thread(target=clients.run, args=(seconds,)) for clients in (self.stay, self.new)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def connections_ended(metrics_url: str) -> tuple[int, int]:
    """Return how many connections the gateway has refused, and how many it ended as they were late, by its counters."""
    refused = ("envoy_listener_downstream_global_cx_overflow{", "envoy_listener_downstream_cx_overload_reject{")
    late = ("envoy_listener_downstream_pre_cx_timeout{", "envoy_headgate_refused{")
    lines = http.get(metrics_url).text.splitlines()
    return tuple(
        sum(int(line.rpartition(" ")[2]) for line in lines if line.startswith(names)) for names in (refused, late)
    )


class Peak:
    """The most memory that a revision's server has meanwhile."""

    def __init__(self, target: LocalTarget, revision: Revision) -> None:
        self._target, self._revision = target, revision
        self._over, self.most = threading.Event(), 0
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.5):
            self.most = max(self.most, memory(self._target, self._revision))


def memory(target: LocalTarget, revision: Revision) -> int:
    """The bytes that a revision's server has; 0 where it is being started again."""
    used = target.usage(ENDPOINT).get(revision.name)
    return used.memory or 0 if used is not None else 0


if __name__ == "__main__":
    began = time.monotonic()
    main()
    print(f"\n{time.monotonic() - began:.0f} s")
