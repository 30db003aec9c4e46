"""What a release file says about its target: `kind`, and what that kind has beside it.

A target's package makes itself known by two entry points of its kind's name: its class, and, where it has settings, a
subclass of `Target`. Neither loads an SDK.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoints, entry_points

from pydantic import Field, field_validator

from headgate.operating import Strict

TARGETS_GROUP = "headgate.targets"
"""The entry-point group by which targets, ours and others', make themselves known."""

SETTINGS_GROUP = "headgate.target_settings"
"""The entry-point group of their settings."""


class Target(Strict):
    """Where the model is served."""

    kind: str = Field(description="The kind of target; `headgate doctor` lists the installed ones.")

    @field_validator("kind")
    @classmethod
    def _is_known(cls, kind: str) -> str:
        if kind not in known_targets():
            raise ValueError(f"no such target; installed: {', '.join(known_targets())}")
        return kind


def known_targets() -> list[str]:
    """The kinds of target that are installed, sorted."""
    return sorted({point.name for point in installed(TARGETS_GROUP)})


def settings_of(kind: str) -> type[Target]:
    """What a release file may say about a kind of target."""
    for point in installed(SETTINGS_GROUP).select(name=kind):
        found: type[Target] = point.load()
        return found
    return Target


def of_its_kind(data: object) -> object:
    """A target as the settings of its kind have it, where that kind is known."""
    if isinstance(data, dict) and data.get("kind") in known_targets():
        return settings_of(data["kind"]).model_validate(data)
    return data


@cache
def installed(group: str) -> EntryPoints:
    """Every package's metadata is read for these, which is worth doing once."""
    return entry_points(group=group)
