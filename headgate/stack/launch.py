"""Become a program: `python launch.py program.json`.

supervisord's own syntax cannot hold every environment value, and a command line would show them to everyone
on the machine. So a program's command, folder and environment are a JSON file that only its owner can read.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def main() -> None:
    """Read the file and replace this process."""
    program = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    os.chdir(program["folder"])
    os.execve(program["command"][0], program["command"], {**os.environ, **program["env"]})  # noqa: S606 - no shell


if __name__ == "__main__":
    main()
