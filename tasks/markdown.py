"""Text of clients in Markdown that people read in Prefect's UI."""

from __future__ import annotations

import re


def as_code(text: object) -> str:
    """Write a text as code that it cannot end: within more backticks than it has, and on one line.

    Source: CommonMark 0.31, 6.1 (code spans).
    """
    line = " ".join(str(text).split())
    fence = "`" * (max(map(len, re.findall("`+", line)), default=0) + 1)
    return f"{fence} {line} {fence}" if "`" in line else f"{fence}{line or ' '}{fence}"
