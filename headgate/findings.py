"""What is wrong with a release file or with a place to release to, and what to do about it."""

from __future__ import annotations

from typing import Literal

from headgate.records import Record


class Problem(Record):
    """One mistake in a release file; lines and columns count from 1."""

    line: int
    column: int
    field: str
    message: str
    value: str = ""
    hint: str = ""

    def __str__(self) -> str:
        shown = f" (found {self.value})" if self.value else ""
        hint = f"; {self.hint}" if self.hint else ""
        return f"{self.line}:{self.column}: {self.field}: {self.message}{shown}{hint}"

    def as_warning(self) -> Finding:
        """The same in a plan."""
        shown = f" (found {self.value})" if self.value else ""
        return Finding(severity="warning", subject=self.field, problem=self.message + shown, fix=self.hint)


class Finding(Record):
    """One thing that `doctor`, `plan` or a target's preflight found, with what to do about it."""

    severity: Literal["ok", "warning", "error"]
    subject: str
    problem: str
    fix: str = ""
