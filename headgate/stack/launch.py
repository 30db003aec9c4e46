"""Become a program: `python launch.py program.json`.

supervisord's own syntax cannot hold every environment value, and a command line would show them to everyone
on the machine. So a program's command, folder and environment are a JSON file that only its owner can read.

Secrets of a model's server are in that file as references (headgate/references.py), which are read here, at each start.
Their values go from here into the program and are in no file.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from fnmatch import fnmatchcase
from pathlib import Path

from headgate.safe_path import clean

LOAD_FAILED = 3
"""supervisord starts a program that ends with it no more (headgate/stack/supervisor.py)."""
SUPERVISED_BY = "HEADGATE_SUPERVISED_BY"


def main() -> None:
    """Read the file and replace this process."""
    program = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    os.chdir(program["folder"])
    if program.get("most_files"):
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    # A program that was described by an earlier version inherits everything.
    inherits = program.get("inherits", ["*"])
    kept = {name: value for name, value in clean().items() if any(fnmatchcase(name, one) for one in inherits)}
    given = {**kept, **program["env"], **_secrets(program.get("secrets", {}))}
    os.execve(program["command"][0], program["command"], given)  # noqa: S606 - no shell


def _secrets(wanted: dict[str, str]) -> dict[str, str]:
    """Return the values of a program's secrets; the process ends where one cannot be had."""
    if not wanted:
        return {}
    from headgate.references import UnavailableError, UnresolvedError, resolve  # noqa: PLC0415 - few programs have any

    try:
        return resolve(wanted, os.environ, Path(os.environ[SUPERVISED_BY]))
    except UnresolvedError as error:
        sys.stderr.write(f"{error}\n")
        # Starting it again helps where Prefect was away, and not where a variable or a file is missing.
        sys.exit(1 if isinstance(error, UnavailableError) else LOAD_FAILED)


if __name__ == "__main__":
    main()
