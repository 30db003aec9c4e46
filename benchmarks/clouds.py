"""What a release asks of a cloud: calls beside the fewest possible, and the time that our code adds between two."""

from __future__ import annotations

import os
import re
import statistics
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "contract"))

from cloud_harness import AzureMlHarness, ComponentsHarness, SageMakerHarness, VertexHarness
from support.azure_server import azure_ml
from support.base_image import find_base
from support.models import Models
from support.moto_server import sagemaker
from support.vertex_server import vertex

from headgate import clock
from headgate.home import Home
from headgate.limits import SETTLE
from headgate.records import Mirror, Traffic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

# The doubles show all series of a minute together.
os.environ[SETTLE] = "0"

READS = re.compile(r"^(describe|list|get)_|\.(get|list)$|^timeSeries|^jobs\.|^rawPredict$|^score$|^blobs\.")


class Cloud(NamedTuple):
    """A cloud's double, and the fewest calls by which it can be had to do a step, and which these are."""

    name: str
    open: Callable[[Path, str], AbstractContextManager[tuple[Any, Any]]]
    caller: Callable[[Any], Any]
    fewest: dict[str, tuple[int, str]]


@contextmanager
def on_sagemaker(root: Path, base: str) -> Iterator[tuple[Any, Any]]:
    """A harness, and its double."""
    with sagemaker("bench") as double:
        os.environ |= double.environment
        yield SageMakerHarness(root, base, double), double


@contextmanager
def on_components(root: Path, base: str) -> Iterator[tuple[Any, Any]]:
    """A harness, and its double."""
    with sagemaker("bench") as double:
        os.environ |= double.environment
        yield ComponentsHarness(root, base, double), double


@contextmanager
def on_vertex(root: Path, base: str) -> Iterator[tuple[Any, Any]]:
    """A harness, and its double."""
    with vertex("bench", root) as (double, environment):
        os.environ |= environment
        yield VertexHarness(root, base, double, environment["CLOUDSDK_API_ENDPOINT_OVERRIDES_AIPLATFORM"]), double


@contextmanager
def on_azure_ml(root: Path, base: str) -> Iterator[tuple[Any, Any]]:
    """A harness, and its double."""
    with azure_ml("bench", root) as (double, environment):
        os.environ |= environment
        yield AzureMlHarness(root, base, double, environment["REQUESTS_CA_BUNDLE"]), double


CLOUDS = (
    Cloud("SageMaker", on_sagemaker, lambda target: target._aws, {  # noqa: SLF001
        "deploy": (4, "a model, a configuration, an update; the configuration before goes"),
        "shadow": (6, "a configuration, an update and a removal, twice"),
        "shift, three steps": (3, "a change of weights each"),
        "promote": (1, "a change of weights"),
        "retire": (4, "a configuration, an update and a removal; the model goes"),
    }),
    Cloud("SageMaker, inference components", on_components, lambda target: target._aws, {  # noqa: SLF001
        "deploy": (2, "a model and a component"),
        "promote": (1, "an update of the component that clients name"),
        "retire": (2, "a component and a model go"),
    }),
    Cloud("Vertex AI", on_vertex, lambda target: target._google, {  # noqa: SLF001
        "deploy": (4, "a model, an endpoint of its own, two deployments"),
        "shift, three steps": (3, "a change of the split each"),
        "promote": (1, "a change of the split"),
        "retire": (5, "two removals, one of them from a split; an endpoint and a model go"),
    }),
    Cloud("Azure ML", on_azure_ml, lambda target: target._arm, {  # noqa: SLF001
        "deploy": (2, "an environment, which is the image, and a deployment"),
        "shadow": (2, "a change of the endpoint, twice"),
        "shift, three steps": (3, "a change of the endpoint each"),
        "promote": (1, "a change of the endpoint"),
        "retire": (2, "a deployment and an environment go"),
    }),
)  # fmt: skip


class Watch:
    """When calls began and ended, and how long was slept between them."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, float, float]] = []
        self.slept: list[tuple[float, float]] = []

    @contextmanager
    def around(self, operation: str) -> Iterator[None]:
        """One call."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.calls.append((operation, began, time.perf_counter()))

    @staticmethod
    def monotonic() -> float:
        """As `headgate.clock.Clock`."""
        return time.monotonic()

    @staticmethod
    def time() -> float:
        """As `headgate.clock.Clock`."""
        return time.time()

    def sleep(self, seconds: float) -> None:
        """Wait, and note it."""
        began = time.perf_counter()
        time.sleep(seconds)
        self.slept.append((began, time.perf_counter()))

    def between(self) -> list[tuple[float, str]]:
        """Seconds from the end of each call to the beginning of the next, less what was slept; and that one's name."""
        gaps = []
        for (_, _, ended), (name, began, _) in zip(self.calls, self.calls[1:], strict=False):
            slept = sum(until - since for since, until in self.slept if ended <= since and until <= began)
            gaps.append((began - ended - slept, name))
        return sorted(gaps)


def main() -> None:
    """Print both, for each cloud."""
    base, why_not = find_base()
    if base is None:
        sys.exit(why_not)
    for cloud in CLOUDS:
        with tempfile.TemporaryDirectory() as folder:
            home, models = Home(Path(folder)).ensure(), Path(folder) / "models"
            models.mkdir()
            with cloud.open(home.root, base) as (harness, double):
                watch = Watch()
                with clock.using(watch):
                    measure(cloud, harness, double, Models(models), watch)


def measure(
    cloud: Cloud,
    harness: Any,  # noqa: ANN401 - each cloud's own
    double: Any,  # noqa: ANN401 - each cloud's own
    models: Models,
    watch: Watch,
) -> None:
    """One cloud's table, and what lies between its calls."""
    old = harness.revision(models("pyfunc", does="double"), 1)
    new = harness.revision(models("pyfunc", does="negative"), 2)
    target = harness.target
    target.deploy("bench", old)
    target.route("bench", Traffic.all_to(old.name), fence=1)
    cloud.caller(target).around = watch.around
    steps: dict[str, Callable[[], None]] = {
        "deploy": lambda: target.deploy("bench", new),
        "shadow": lambda: [
            target.route("bench", Traffic.all_to(old.name, mirror), fence=1)
            for mirror in (Mirror(revision=new.name, share=target.MIRROR_LIMIT), None)
        ] and None,
        "shift, three steps": lambda: [
            target.route("bench", Traffic.split(old.name, new.name, share), fence=1) for share in (500, 2500, 5000)
        ] and None,
        "promote": lambda: target.route("bench", Traffic.all_to(new.name), fence=1),
        "retire": lambda: target.retire("bench", old.name, fence=1),
    }  # fmt: skip
    print(f"{cloud.name}: calls that change something, beside the fewest; and reads (what lasts is polled)\n")
    totals = [0, 0]
    for name, (fewest, what) in cloud.fewest.items():
        double.faults.calls.clear()
        steps[name]()
        counted = double.faults.counted()
        changes = Counter({call: times for call, times in counted.items() if not READS.search(call)})
        reads = counted.total() - changes.total()
        totals = [totals[0] + changes.total(), totals[1] + fewest]
        tags = changes["add_tags"]
        print(f"  {name:<20} {changes.total():>3} of {fewest} ({what})" + (f", {tags} of ours" if tags else "")
              + f"; {reads} reads")  # fmt: skip
    print(f"  {'whole':<20} {totals[0]:>3} of {totals[1]}")
    gaps = watch.between()
    milliseconds = [1000 * gap for gap, _ in gaps]
    print(
        f"\nbetween two of {len(watch.calls)} calls: median {statistics.median(milliseconds):.2f} ms, "
        f"95 % {milliseconds[int(0.95 * len(gaps))]:.2f} ms, "
        f"most {milliseconds[-1]:.0f} ms (before {gaps[-1][1]}), then {milliseconds[-2]:.0f} ms\n"
    )
    target.delete("bench")


if __name__ == "__main__":
    main()
