"""Reading release.yaml: parse, validate, complete; every mistake at once, each at its line and column."""

from __future__ import annotations

import difflib
import re
import typing
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from headgate import sealed
from headgate.credentials import NO_USERINFO, redact, secret_kind
from headgate.errors import SpecError
from headgate.feasible import Unmet, unmet
from headgate.findings import Problem
from headgate.spec import PLANNED, PLANNED_VALUES, WITH_USERINFO, ReleaseSpec, addresses_with_userinfo
from headgate.target_settings import Target, known_targets, settings_of
from headgate.yaml_nodes import compose, is_text, read_text, value_of

Location = tuple[str | int, ...]
Positions = dict[Location, tuple[int, int]]

SCHEMA_ID = "release.schema.json"
_USER = re.compile(r"[^\s/:@'\"]+:[^\s/@'\"]+@")
"""A user and a password where no scheme stands before them, as in the name of an image."""
_REFERENCES = {
    "runtime.secrets": "is a reference: env:NAME, file:/path, block:secret/NAME of Prefect, or secret:NAME/KEY of "
    "Kubernetes",
    "notify": "is a reference: env:NAME, or block:TYPE/NAME of Prefect",
}
_SHOWN = 120
"""Letters of a wrong value that are repeated to who wrote it."""


def load_release(path: Path) -> ReleaseSpec:
    """Read a release file; a relative artifact, example or reference path is taken from the file's folder.

    Raises:
        SpecError: the file cannot be read, is not YAML, or has problems; it names every one of them.
    """
    return check_release(path)[0]


def check_release(path: Path) -> tuple[ReleaseSpec, list[Problem]]:
    """Read a release file, and what in it is never used or hardly ever met. See `load_release`."""
    return _checked(read_text(path), str(path), path.resolve().parent)


def parse_release(text: str, *, name: str = "release.yaml", folder: Path | None = None) -> ReleaseSpec:
    """Parse the text of a release file. See `load_release`."""
    return _checked(text, name, folder)[0]


def _checked(text: str, name: str, folder: Path | None) -> tuple[ReleaseSpec, list[Problem]]:
    root = compose(text, name)
    if not isinstance(root, MappingNode):
        raise SpecError(f"{name} holds no entries", fix="write `model:`, `artifact:` and `target:`, or: headgate init")
    positions: Positions = {(): (1, 1)}
    problems: list[Problem] = []
    data = _read(root, (), positions, problems)
    problems += _secret_problems(data, positions)
    try:
        spec = ReleaseSpec.model_validate(data)
    except ValidationError as error:
        kind = str(data["target"].get("kind")) if isinstance(data.get("target"), dict) else ""
        # What stands beside a kind that is not known cannot be judged.
        problems += [
            _problem(dict(detail), positions, kind) for detail in error.errors(include_url=False)
            if (kind in known_targets() or detail["loc"][:1] != ("target",) or detail["type"] != "extra_forbidden")
            # These are told already, at their places.
            and detail["type"] != WITH_USERINFO and not str(detail["msg"]).endswith(NO_USERINFO)
        ]  # fmt: skip
    warnings: list[Problem] = []
    if not problems:
        for one in unmet(spec):
            (problems if one.severity == "error" else warnings).append(_unmet(one, positions))
    if problems:
        problems.sort(key=lambda problem: (problem.line, problem.column))
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise SpecError(f"{name} has {count}", problems=problems)
    return _resolve_paths(spec, folder) if folder else spec, warnings


def _secret_problems(data: dict[str, Any], positions: Positions) -> list[Problem]:
    """What stands in the file that no file may hold; no value is repeated."""
    found = [(location, NO_USERINFO, "") for location in addresses_with_userinfo(data)]
    runtime = data.get("runtime")
    env = runtime.get("env") if isinstance(runtime, dict) else None
    for name, value in env.items() if isinstance(env, dict) else ():
        location = ("runtime", "env", name)
        if isinstance(value, str) and sealed.is_sealed(value):
            found.append((location, "is a sealed value of a history, and no value", "write the value"))
        elif isinstance(value, str) and (kind := secret_kind(value)):
            hint = f"runtime: {{secrets: {{{name}: file:/path}}}}, or env:NAME, block:secret/NAME, secret:NAME/KEY"
            found.append((location, f"holds {kind}: a secret is given by reference", hint))
    return [
        Problem(line=line, column=column, field=_dotted(location), message=message, hint=hint)
        for location, message, hint in found
        for line, column in (_position(location, positions),)
    ]


def _unmet(one: Unmet, positions: Positions) -> Problem:
    shown = next((place for place in (one.location, *one.others) if place in positions), one.location)
    line, column = _position(shown, positions)
    field = _dotted(one.location)
    return Problem(line=line, column=column, field=field, message=one.message, value=one.value, hint=one.fix)


def _position(location: Location, positions: Positions) -> tuple[int, int]:
    """Where an entry stands, or else the nearest that it belongs to."""
    while location not in positions:
        location = location[:-1]
    return positions[location]


def json_schema() -> dict[str, Any]:
    """The JSON Schema of release.yaml, for editors and CI."""
    schema = ReleaseSpec.model_json_schema(mode="validation")
    schema["properties"]["target"] = {
        "description": "Where the model is served.",
        "oneOf": [_schema_of_target(kind) for kind in known_targets()],
    }
    # `off` and `false` are read before validation, where pydantic cannot see them.
    schema["$defs"]["Gates"]["properties"]["shadow"]["anyOf"].append({"enum": [False, "off"]})
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SCHEMA_ID, **schema}


def _schema_of_target(kind: str) -> dict[str, Any]:
    schema = settings_of(kind).model_json_schema(mode="validation")
    schema["properties"]["kind"] = {"const": kind, "description": "The kind of target."}
    return {**schema, "title": kind}


def relative_paths(spec: ReleaseSpec) -> dict[str, str]:
    """The paths that a release file's folder has to complete, each with the field that has it."""
    return {field: path for field, path in _paths(spec).items() if not Path(path).is_absolute()}


def _paths(spec: ReleaseSpec) -> dict[str, str]:
    """The paths of files, by field; what is a URI, or names no file, is none."""
    found = {}
    if ":/" not in spec.artifact:
        found["artifact"] = spec.artifact
    if spec.gates.smoke is not None and spec.gates.smoke.examples != "input_example":
        found["gates.smoke.examples"] = spec.gates.smoke.examples
    if spec.monitor and spec.monitor.reference not in {"training", "champion"}:
        found["monitor.reference"] = spec.monitor.reference
    return found


def _resolve_paths(spec: ReleaseSpec, folder: Path) -> ReleaseSpec:
    found = {field: str((folder / path).resolve()) for field, path in _paths(spec).items()}
    changes: dict[str, Any] = {}
    if path := found.get("artifact"):
        changes["artifact"] = path
    if spec.gates.smoke is not None and (path := found.get("gates.smoke.examples")):
        smoke = spec.gates.smoke.model_copy(update={"examples": path})
        changes["gates"] = spec.gates.model_copy(update={"smoke": smoke})
    if spec.monitor and (path := found.get("monitor.reference")):
        changes["monitor"] = spec.monitor.model_copy(update={"reference": path})
    return spec.model_copy(update=changes)


def _read(node: Node, location: Location, positions: Positions, problems: list[Problem]) -> Any:  # noqa: ANN401
    """Turn a YAML node into data, noting where each key and item stands and every key given twice."""
    positions.setdefault(location, (node.start_mark.line + 1, node.start_mark.column + 1))
    if isinstance(node, MappingNode):
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line, column = key_node.start_mark.line + 1, key_node.start_mark.column + 1
            if not isinstance(key_node, ScalarNode) or not is_text(key_node.value):
                said = "the name of an entry is a word"
                problems.append(Problem(line=line, column=column, field=_dotted(location) or "the file", message=said))
                continue
            key = str(key_node.value)
            if key in data:
                problems.append(
                    Problem(line=line, column=column, field=_dotted((*location, key)), message="is given twice")
                )
            positions[(*location, key)] = (line, column)
            data[key] = _read(value_node, (*location, key), positions, problems)
        return data
    if isinstance(node, SequenceNode):
        return [_read(item, (*location, index), positions, problems) for index, item in enumerate(node.value)]
    assert isinstance(node, ScalarNode)  # noqa: S101 - there are no other nodes
    try:
        return value_of(node)
    except ValueError as error:
        line, column = _position(location, positions)
        problems.append(
            Problem(line=line, column=column, field=_dotted(location), message=str(error), value=_shortened(node.value))
        )
        return node.value


def _problem(detail: dict[str, Any], positions: Positions, target: str) -> Problem:
    location: Location = tuple(detail["loc"])
    line, column = _position(location, positions)
    field = _dotted(location)
    message, hint = _explain(detail, location, target)
    missing = detail["type"] == "missing"
    found = detail.get("input")
    value = (
        ""
        if missing
        or isinstance(found, dict | list | tuple)
        or detail["type"] == "extra_forbidden"
        # Whoever wrote the value where a reference or a text belongs may have meant a secret.
        or location[:2] in {("runtime", "env"), ("runtime", "secrets")}
        or location[:1] == ("notify",)
        else _shortened(repr(found))
    )
    return Problem(line=line, column=column, field=field or "the file", message=message, value=value, hint=hint)


def _shortened(text: str) -> str:
    writable = _USER.sub("", redact(text)).encode("utf-8", "backslashreplace").decode()
    return writable if len(writable) <= _SHOWN else f"{writable[:_SHOWN]}…"


def _explain(detail: dict[str, Any], location: Location, target: str) -> tuple[str, str]:
    """The message and the hint for one of pydantic's errors."""
    field = _dotted(location)
    if detail["type"] == "missing":
        return "is required", ""
    if detail["type"] == "extra_forbidden":
        if field in PLANNED:
            return f"{PLANNED[field]} are not built yet" if PLANNED[field].endswith("s") else (
                f"{PLANNED[field]} is not built yet"
            ), "remove the entry"
        return "no such entry", _suggest(str(location[-1]), _fields_at(location[:-1], target))
    found = detail.get("input")
    named = ".".join(str(part) for part in location if isinstance(part, str))
    named = "runtime.secrets" if location[:2] == ("runtime", "secrets") else named
    if isinstance(found, str) and found in PLANNED_VALUES.get(named, ()):
        return f"{found} is not built yet", f"built today: {_allowed(detail)}"
    message = redact(str(detail["msg"]).removeprefix("Value error, "))
    if not message.partition(" ")[0].isupper():
        # Not the name of a variable.
        message = message[0].lower() + message[1:]
    if detail["type"] in {"float_type", "int_type", "int_parsing", "float_parsing"}:
        message = "is a number"
    if detail["type"] == "string_pattern_mismatch" and named in _REFERENCES:
        message = _REFERENCES[named]
    hint = ""
    if detail["type"] == "literal_error" or named == "target.kind":
        hint = _suggest(str(found), _allowed(detail).split(", "))
    return message, hint


def _allowed(detail: dict[str, Any]) -> str:
    expected = (detail.get("ctx") or {}).get("expected")
    return str(expected).replace(" or ", ", ").replace("'", "") if expected else ", ".join(known_targets())


def _suggest(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean `{close[0]}`?" if close else f"known: {', '.join(known)}"


def _fields_at(location: Location, target: str) -> list[str]:
    """The names that may stand at a place of the file, which has this kind of target."""
    model: type[BaseModel] = ReleaseSpec
    for part in location:
        if isinstance(part, int) or part not in model.model_fields:
            continue
        annotation = model.model_fields[part].annotation
        candidates = [annotation, *typing.get_args(annotation)]
        model = next((item for item in candidates if isinstance(item, type) and issubclass(item, BaseModel)), model)
        model = settings_of(target) if model is Target else model
    return sorted(model.model_fields)


def _dotted(location: Location) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")
