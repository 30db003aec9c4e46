"""Run every benchmark, or those named: `make bench ARGS="gateway servers"`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent

ALL = (
    "overhead",
    "operation",
    "commands",
    "gateway",
    "servers",
    "workers",
    "prediction_log",
    "judge",
    "judge_worlds",
    "resume",
    "shadow",
    "drift",
    "drift_peers",
    "predictions",
    "many_endpoints",
    "weights",
    "cold_images",
    "clouds",
)


def main() -> None:
    """Run each in a process of its own: some change the environment of theirs, as doubles of clouds do."""
    failed = []
    for name in sys.argv[1:] or ALL:
        print(f"\n== {name} ==", flush=True)
        code = f"import sys, {name}; sys.argv[1:] = []; {name}.main()"
        if subprocess.run([sys.executable, "-c", code], cwd=FOLDER, check=False).returncode:
            failed.append(name)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
