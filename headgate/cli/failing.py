"""What of a status should serve and does not, by which `headgate status` ends with 1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from headgate.findings import Finding

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_GOOD = {"RUNNING", "STARTING", "YOURS"}
"""States of programs; who is called during `headgate up` sees some of them start."""

Row = Mapping[str, Any]


def failing(stack: Iterable[Row], endpoints: Iterable[Row], *, should_run: bool) -> list[Finding]:
    """Return what does not serve, as errors.

    Args:
        stack: each program's `program` and `state`.
        endpoints: as `headgate status --json` has them.
        should_run: whether the stack was started and not taken down.
    """
    programs = _of_stack(stack) if should_run else ()
    return [*programs, *(found for row in endpoints if row["champion"] for found in _of_endpoint(row))]


def _of_stack(stack: Iterable[Row]) -> Iterator[Finding]:
    for row in stack:
        if row["state"] not in _GOOD:
            yield Finding(
                severity="error", subject=row["program"], problem=f"should run and is {row['state']}",
                fix=f"read logs/{row['program']}.log under HEADGATE_HOME; headgate up starts it again",
            )  # fmt: skip


def _of_endpoint(row: Row) -> Iterator[Finding]:
    """Whether who has an endpoint's traffic can answer it."""
    endpoint, fix = row["endpoint"], "headgate doctor says what is missing; headgate reconcile puts traffic in order"
    if row["problem"]:
        yield _error(endpoint, f"cannot be looked at: {row['problem']}", fix)
        return
    serving = [revision for revision in row["revisions"] if revision["weight"]]
    if not serving:
        yield _error(endpoint, f"is not served: {row['champion']['version']} is live, and no revision has traffic", fix)
    for revision in serving:
        if not revision["ready"]:
            share, why = f"{revision['weight'] / 100:g} %", revision["detail"] or "it is not ready"
            yield _error(endpoint, f"{revision['name']} gets {share} of the requests and cannot answer: {why}", fix)


def _error(subject: str, problem: str, fix: str) -> Finding:
    return Finding(severity="error", subject=subject, problem=problem, fix=fix)
