"""No text installs the package `headgate` of the public index, which is another project's; ours is `headgate-ml`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
OTHER = re.compile(
    r"\binstall\b[^|;&#]*?[\s'\"]headgate(?=[\s'\"\[=<>~!@,)]|$)"  # pip, uv and pipx: `install … headgate`
    r"|(?<![\w./-])headgate\[[a-z]"  # an extra of it, wherever it stands
    r"|^\s*headgate\s*(==|>=|~=|@)",  # a line of a requirements file
)
HELM = "helm install headgate"
"""The name of a release of the chart."""


def wrong(name: str) -> list[str]:
    """Return the lines of a file that name the other package, with what is wrong."""
    try:
        text = (ROOT / name).read_text(encoding="utf-8")
    except (UnicodeDecodeError, FileNotFoundError):
        return []
    return [
        f"{name}:{number}: names the package of another project; ours is headgate-ml (docs/install.md): {line.strip()}"
        for number, line in enumerate(text.splitlines(), 1)
        if OTHER.search(line) and HELM not in line
    ]


if __name__ == "__main__":
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    sys.exit("\n".join(problem for file in files for problem in wrong(file)) or 0)
