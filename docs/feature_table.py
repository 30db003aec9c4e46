"""Write the table of docs/targets.md from the targets' own code; with --check, say whether it is that of the code."""

from __future__ import annotations

import sys
from pathlib import Path

from deploy_targets import DeployTarget, Feature
from headgate.target_settings import TARGETS_GROUP, installed

PAGE = Path(__file__).parent / "targets.md"
BEGIN, END = "<!-- from the code: make docs -->\n", "<!-- end -->\n"
NAMES = {
    Feature.SPLIT: "two versions sharing live traffic",
    Feature.SHADOW: "shadow comparison",
    Feature.MIRROR: "blue-green, compared on copies",
    Feature.AUTOSCALING: "replicas that follow the load",
    Feature.SCALE_TO_ZERO: "none while nobody asks",
    Feature.CPU_LIMIT: "limit of CPU",
    Feature.MEMORY_LIMIT: "limit of memory",
    Feature.GPU: "GPUs by number",
    Feature.IMAGE: "a base image, and a repository",
    Feature.LIMITS: "limits of requests, by endpoint",
    Feature.TIMEOUTS: "how long requests may take, by endpoint",
    Feature.REDACT: "fields left out before anything is written",
    Feature.SECRETS: "secrets of the server, by reference",
    Feature.ALARMS: "alarms of the platform that take a version back",
}


def main() -> None:
    """Replace the table, or compare it."""
    targets: dict[str, type[DeployTarget]] = {
        point.name: point.load() for point in sorted(installed(TARGETS_GROUP), key=lambda point: point.name)
    }
    page = PAGE.read_text(encoding="utf-8")
    head, _, rest = page.partition(BEGIN)
    wanted = head + BEGIN + table(targets) + END + rest.partition(END)[2]
    if "--check" in sys.argv:
        sys.exit("docs/targets.md is not that of the code; run: make docs" if wanted != page else 0)
    PAGE.write_text(wanted, encoding="utf-8")


def table(targets: dict[str, type[DeployTarget]]) -> str:
    """The table, and beneath it why something is not so."""
    lines = [f"| | {' | '.join(targets)} |", f"|---|{'---|' * len(targets)}"]
    notes: list[str] = []
    for feature, name in NAMES.items():
        cells = [_cell(target, feature, notes) for target in targets.values()]
        lines.append(f"| {name} (`{feature.value}`) | {' | '.join(cells)} |")
    most_copied = [f"{one.MIRROR_LIMIT / 100:g} %" for one in targets.values()]
    lines += [
        f"| latency buckets for the judge | {' | '.join(str(len(one.LATENCY_BOUNDS)) for one in targets.values())} |",
        f"| weights are multiples of | {' | '.join(f'{one.WEIGHT_STEP / 100:g} %' for one in targets.values())} |",
        f"| of live requests copied at most | {' | '.join(most_copied)} |",
        f"| a look of the judge every | {' | '.join(f'{one.LOOK_SECONDS:g} s' for one in targets.values())} |",
        f"| requests are in the log within | {' | '.join(f'{one.LOG_DELAY:g} s' for one in targets.values())} |",
        "",
    ]
    return "\n".join([*lines, *(f"{number}. {note}" for number, note in enumerate(notes, start=1)), ""])


def _cell(target: type[DeployTarget], feature: Feature, notes: list[str]) -> str:
    reason = target.UNSUPPORTED.get(feature) or target.SUBSTITUTED.get(feature)
    if not reason:
        return "yes"
    if reason not in notes:
        notes.append(reason)
    word = "by us" if feature in target.SUBSTITUTED else "no"
    return f"{word} ({notes.index(reason) + 1})"


if __name__ == "__main__":
    main()
