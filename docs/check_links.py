"""Every relative link in the Markdown files leads to a file, and every heading that a link names exists."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"```.*?```", re.DOTALL)


def headings(text: str) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    found = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def broken(page: Path) -> list[str]:
    """The links of a page that lead nowhere."""
    problems = []
    for link in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if "://" in link or link.startswith("mailto:"):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists():
            problems.append(f"{page.relative_to(ROOT)}: {link}: no such file")
        elif anchor and target.suffix == ".md" and anchor not in headings(target.read_text(encoding="utf-8")):
            problems.append(f"{page.relative_to(ROOT)}: {link}: no such heading")
    return problems


if __name__ == "__main__":
    pages = [page for page in ROOT.rglob("*.md") if not {".venv", ".git"} & set(page.parts)]
    found = [problem for page in pages for problem in broken(page)]
    sys.exit("\n".join(found) or 0)
