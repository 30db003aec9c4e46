"""Which release file a run means: its content, its text, a path, or the one that `headgate watch` was given."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import WithJsonSchema
from yaml.nodes import MappingNode

from headgate.errors import BadInputError, SpecError
from headgate.home import Home
from headgate.release_file import load_release, parse_release, relative_paths
from headgate.spec import ReleaseSpec, check_artifact
from headgate.yaml_nodes import compose
from registry.journal import open_journal
from registry.watches import watched

PREFIX = "watched:"
_TEXT = "the text of the release file"

Described = Annotated[
    ReleaseSpec | str,
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "title": "Path, watched:NAME or text", "minLength": 1},
                {"type": "object", "title": "Content as JSON"},
            ]
        }
    ),
]
"""A flow's parameter that says what a release file says.

Prefect's server stores the JSON Schema of a flow's parameters, makes a form of it, and refuses what does not conform.
That of `ReleaseSpec` makes a form of more than 8,000 px, so a short one is stored: text first, which is what the form
asks for, or an object, which is what programs give. `ReleaseSpec` validates the object when the flow is called.
"""


def resolve(spec: ReleaseSpec | str, artifact: str = "") -> ReleaseSpec:
    """Read the release file that a run's parameter names.

    Args:
        spec: its content, its text, the path of one, or `watched:<endpoint>`. What has several lines is a text; so is
            one line that is a YAML mapping and not the path of a file.
        artifact: what is released instead of the file's artifact.

    Raises:
        BadInputError: it names no release file, or the text has relative paths, which have no folder to start from.
        SpecError: the file cannot be read, or what it says has problems.
    """
    if not isinstance(spec, str):
        return _with(spec, artifact)
    named = spec.strip()
    if named.startswith(PREFIX) and "\n" not in named:
        return _with(_watched(named.removeprefix(PREFIX).strip()), artifact)
    if _is_text(named):
        # As it was given: problems are told with their line and column.
        return _absolute(_with(parse_release(spec, name=_TEXT), artifact))
    if not _is_file(named):
        raise BadInputError(
            f"spec: {_shortened(named)} is not a file on this worker, not {PREFIX}NAME, and not a release file's text",
            fix=f"give a file's full path, {PREFIX}NAME of an endpoint that is watched, or the text of a release file",
        )
    return _with(load_release(Path(named)), artifact)


def endpoint_of(spec: object) -> str:
    """Say which endpoint a run's parameter means, without reading a file.

    Args:
        spec: the parameter, as Prefect keeps it or as the flow gets it.

    Returns:
        The endpoint; the path where it is one, and empty where a text has problems.
    """
    if isinstance(spec, ReleaseSpec):
        return spec.endpoint
    if isinstance(spec, dict):
        return str(spec.get("endpoint", ""))
    named = str(spec).strip()
    if not _is_text(named):
        return named.removeprefix(PREFIX).strip()
    try:
        return parse_release(named).endpoint
    except SpecError:
        return ""


def _is_text(named: str) -> bool:
    """Whether it is a release file's text, and no name of one."""
    if "\n" in named:
        return True
    if named.startswith(PREFIX) or _is_file(named):
        return False
    try:
        return isinstance(compose(named, _TEXT), MappingNode)
    except SpecError:
        # Such as a path that begins with a sign of YAML's.
        return False


def _is_file(named: str) -> bool:
    return os.path.isfile(named)  # noqa: PTH113 - Path.is_file raises where the name is too long for one


def _with(spec: ReleaseSpec, artifact: str) -> ReleaseSpec:
    """The same with another artifact, where one is given.

    Raises:
        BadInputError: models do not come from there, or the address has a user or a password.
    """
    if not artifact:
        return spec
    try:
        return spec.model_copy(update={"artifact": check_artifact(artifact)})
    except ValueError as error:
        raise BadInputError(f"artifact: {error}", fix="give the run another artifact") from error


def _absolute(spec: ReleaseSpec) -> ReleaseSpec:
    """The same, whose paths do not start from a file's folder: a text has none."""
    if found := relative_paths(spec):
        said = ", ".join(f"{field}: {path}" for field, path in found.items())
        raise BadInputError(
            f"{_TEXT} has relative paths, which start from the file's folder, and a text has none: {said}",
            fix="write full paths or URIs there, or give the path of the file instead of its text",
        )
    return spec


def _shortened(named: str) -> str:
    most = 100
    return repr(named if len(named) <= most else f"{named[:most]}…")


def _watched(endpoint: str) -> ReleaseSpec:
    with open_journal(Home.from_env().ensure().journal_url) as journal:
        found = watched(journal).get(endpoint)
    if found is None:
        raise BadInputError(f"{endpoint} is not watched", fix="headgate watch release.yaml")
    return found
