"""A traffic step on a real cluster: how long until it is in effect in every Envoy, and what it asks of the API server.

Beside it, what a mounted ConfigMap takes, which is how a gateway without a process of its own would hear of it.
Run with a context of your kubeconfig: `python benchmarks/kube.py --context kind-kind`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))

from support.base_image import find_base
from support.models import Models

from deploy_targets.kubernetes.target import KubernetesTarget
from headgate.home import Home
from headgate.records import ModelVersion, Revision, Traffic
from headgate.spec import ImageSettings
from images import build_container, fetch_artifact

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

STEPS = (500, 2500, 5000, 0)


class Watch:
    """Counts calls by name."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    @contextmanager
    def around(self, name: str) -> Iterator[None]:
        """What a call is made in."""
        self.calls[name] += 1
        yield


def main() -> None:
    """Make a namespace, measure in it, remove it."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--context", required=True)
    arguments.add_argument("--rounds", type=int, default=10)
    given = arguments.parse_args()
    os.environ["HEADGATE_TEST_KUBERNETES"] = given.context
    from support import cluster  # noqa: PLC0415 - it reads the variable when it is imported

    base, why_not = find_base()
    if base is None:
        sys.exit(why_not)
    with tempfile.TemporaryDirectory(prefix="hg-") as folder:
        root = Path(folder)
        home = Home(root).ensure()
        with cluster.namespace(home, base, root / "captures") as settings:
            target = KubernetesTarget(settings)
            models = Models(root / "models")
            first, second = (
                revision(home, base, models("pyfunc", does=does), number)
                for number, does in enumerate(("double", "negative"), start=1)
            )
            for one in (first, second):
                began = time.perf_counter()
                target.deploy("bench", one)
                print(f"deploy, until ready and known to both Envoys: {time.perf_counter() - began:5.1f} s")
            steps(target, first.name, second.name, given.rounds)
            mounted(cluster, target, settings.namespace)
            began = time.perf_counter()
            target.route("bench", Traffic.all_to(first.name))
            target.retire("bench", second.name)
            print(f"retire, until its pods are gone:              {time.perf_counter() - began:5.1f} s")
            target.delete("bench")


def revision(home: Home, base: str, model: Path, number: int) -> Revision:
    """A small model, as one revision."""
    image = build_container(home, fetch_artifact(str(model), home.root), "bench", ImageSettings(base=base))
    version = ModelVersion(name="bench", version=number, digest=image.digest)
    return Revision.of(version, image, env={}, workers=1, ready_timeout=60.0)


def steps(target: KubernetesTarget, stable: str, canary: str, rounds: int) -> None:
    """The time and the calls of a traffic step."""
    target.route("bench", Traffic.all_to(stable))
    watch = Watch()
    target._api.around = watch.around  # noqa: SLF001
    taken = []
    for _ in range(rounds):
        for share in STEPS:
            began = time.perf_counter()
            target.route("bench", Traffic.split(stable, canary, share) if share else Traffic.all_to(stable))
            taken.append(time.perf_counter() - began)
    taken.sort()
    print(
        f"a traffic step, in effect in both Envoys: median {statistics.median(taken) * 1e3:.0f} ms, "
        f"of {len(taken)} the longest {taken[-1] * 1e3:.0f} ms"
    )
    each = {name: count / len(taken) for name, count in sorted(watch.calls.items())}
    print(f"calls of a step: {', '.join(f'{count:.1f} {name}' for name, count in each.items())}; "
          f"changes among them: {each.get('PUT configmaps', 0):.1f}")  # fmt: skip


def mounted(cluster: ModuleType, target: KubernetesTarget, namespace: str) -> None:
    """How long the kubelet takes to bring a ConfigMap's change into a pod that mounts it."""
    api = target._api  # noqa: SLF001
    name = "headgate-gateway"
    pod = api.list("pods", {"app.kubernetes.io/name": name})[0]["metadata"]["name"]
    mark = f"{time.time_ns()}"
    began = time.perf_counter()
    api.merge("configmaps", name, {"data": {"mark": mark}})
    while time.perf_counter() - began < 180:
        shown = cluster.kubectl("exec", "-n", namespace, pod, "-c", "envoy", "--", "sh", "-c",
                                "cat /etc/gateway/mark 2>/dev/null || true")  # fmt: skip
        if mark in shown:
            break
        time.sleep(0.5)
    print(f"a mounted ConfigMap's change, in one pod: {time.perf_counter() - began:.1f} s")


if __name__ == "__main__":
    main()
