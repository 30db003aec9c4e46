"""Endpoints that a target serves and the history does not know: reported, and never touched."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploy_targets import open_target
from headgate.errors import HeadgateError
from headgate.spec import ReleaseSpec
from registry import history
from tasks.disorder import Case, Disorder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from registry import Journal


def cases_of_strangers(journal: Journal) -> Iterator[Case]:
    """Endpoints on the targets that releases went to, besides those that the history knows."""
    known = set(journal.endpoints())
    specs = [ReleaseSpec.model_validate(spec) for name in known if (spec := history.spec_of(journal, name))]
    targets = {spec.target.model_dump_json(): spec.target for spec in specs}
    # Two kinds may share a gateway, and then serve the same endpoints.
    kinds: dict[str, list[str]] = {}
    for _, settings in sorted(targets.items()):
        try:
            served = open_target(settings).endpoints()
        except HeadgateError as error:
            yield Case(Disorder(endpoint="", problem=f"{settings.kind} was not looked at: {error.message}"))
            continue
        for name in set(served) - known:
            kinds.setdefault(name, []).append(settings.kind)
    for name, serve in sorted(kinds.items()):
        problem = f"is served on {' and '.join(serve)}, and the history does not know it"
        yield Case(Disorder(endpoint=name, problem=problem))
