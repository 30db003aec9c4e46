"""Which release file a run means: its content, a path, or the one that `headgate watch` was given."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from headgate.errors import BadInputError
from headgate.home import Home
from headgate.release_file import load_release
from registry.journal import open_journal
from registry.watches import watched

if TYPE_CHECKING:
    from headgate.spec import ReleaseSpec

PREFIX = "watched:"


def resolve(spec: ReleaseSpec | str, artifact: str = "") -> ReleaseSpec:
    """The release file that a run's parameter names.

    Args:
        spec: its content, the path of one, or `watched:<endpoint>`.
        artifact: what is released instead of the file's artifact.

    Raises:
        BadInputError: there is no such file.
    """
    if isinstance(spec, str):
        spec = _watched(spec.removeprefix(PREFIX)) if spec.startswith(PREFIX) else load_release(Path(spec))
    return spec.model_copy(update={"artifact": artifact}) if artifact else spec


def _watched(endpoint: str) -> ReleaseSpec:
    with open_journal(Home.from_env().ensure().journal_url) as journal:
        found = watched(journal).get(endpoint)
    if found is None:
        raise BadInputError(f"{endpoint} is not watched", fix="headgate watch release.yaml")
    return found
