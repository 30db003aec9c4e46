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
    for settings in {spec.target.model_dump_json(): spec.target for spec in specs}.values():
        try:
            served = open_target(settings).endpoints()
        except HeadgateError as error:
            yield Case(Disorder(endpoint="", problem=f"{settings.kind} was not looked at: {error.message}"))
            continue
        strangers = sorted(set(served) - known)
        # Two kinds may share a gateway.
        known.update(strangers)
        for name in strangers:
            problem = f"is served on {settings.kind}, and the history does not know it"
            yield Case(Disorder(endpoint=name, problem=problem))
