"""This installation: the distribution's name, what it requires, and how to install what is missing.

The distribution is `headgate-ml`, as the name `headgate` on the public package index belongs to another project. The
command and the imports are `headgate`. Commands that are shown to users name the missing packages themselves, so they
are right however Headgate was installed.
"""

from __future__ import annotations

import shlex
from importlib.metadata import requires

from packaging.requirements import Requirement

DISTRIBUTION = "headgate-ml"


def requirements(extra: str = "") -> list[Requirement]:
    """Return what pyproject.toml requires for an extra; without one, what every installation needs.

    Raises:
        PackageNotFoundError: Headgate runs from a folder without having been installed.
    """
    found = (Requirement(text) for text in requires(DISTRIBUTION) or [])
    return [one for one in found if _applies(one, extra)]


def install_command(extra: str, *, missing: str | None = None) -> str:
    """Return the command that installs what an extra needs: `pip install 'boto3>=1.35'`.

    Args:
        extra: of pyproject.toml; that of a target of another distribution is not known here.
        missing: the module that could not be imported, which is named where the extra is not known.
    """
    return f"pip install {shlex.join([_plain(one) for one in requirements(extra)] or [missing or extra])}"


def _plain(requirement: Requirement) -> str:
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    return f"{requirement.name}{extras}{requirement.specifier}"


def _applies(requirement: Requirement, extra: str) -> bool:
    """Whether a requirement is of this extra, or, without one, of none."""
    marker = requirement.marker
    if marker is None:
        return not extra
    return marker.evaluate({"extra": extra}) and (not extra or not marker.evaluate({"extra": ""}))
