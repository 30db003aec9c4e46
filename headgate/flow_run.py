"""Carries out one of Prefect's flow runs: what a worker starts, as `python -P -m headgate.flow_run`.

It is what `python -m prefect.engine` does; sooner where the local stack's engine is up.
"""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

from headgate.safe_path import enter


def main() -> int:
    """Carry out the flow run that PREFECT__FLOW_RUN_ID names; the exit code of `prefect.engine`."""
    enter("headgate.flow_run")
    from headgate.engine import carry_out  # noqa: PLC0415 - once the caller's folders are not searched

    home = os.environ.get("HEADGATE_HOME")
    code = carry_out(Path(home), "prefect.engine") if home else None
    if code is None:
        sys.argv = [sys.argv[0]]
        runpy.run_module("prefect.engine", run_name="__main__", alter_sys=True)
    return code or 0


if __name__ == "__main__":
    sys.exit(main())
