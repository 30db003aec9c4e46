"""Reading release.yaml: parse, validate, complete; every mistake at once, each at its line and column."""

from __future__ import annotations

import difflib
import typing
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from headgate.errors import SpecError
from headgate.findings import Problem
from headgate.spec import PLANNED, PLANNED_VALUES, ReleaseSpec
from headgate.target_settings import Target, known_targets, settings_of

if typing.TYPE_CHECKING:
    from pathlib import Path

Location = tuple[str | int, ...]
Positions = dict[Location, tuple[int, int]]

SCHEMA_ID = "release.schema.json"


def load_release(path: Path) -> ReleaseSpec:
    """Read a release file; a relative artifact, example or reference path is taken from the file's folder.

    Raises:
        SpecError: the file cannot be read, is not YAML, or has problems; it names every one of them.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SpecError(
            f"cannot read {path}: {reason}", fix="name an existing release file, or write one: headgate init"
        ) from error
    return parse_release(text, name=str(path), folder=path.resolve().parent)


def parse_release(text: str, *, name: str = "release.yaml", folder: Path | None = None) -> ReleaseSpec:
    """Parse the text of a release file. See `load_release`."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        raise SpecError(f"{name} is not YAML", problems=[_yaml_problem(error)]) from error
    if not isinstance(root, MappingNode):
        raise SpecError(f"{name} holds no entries", fix="write `model:`, `artifact:` and `target:`, or: headgate init")
    positions: Positions = {(): (1, 1)}
    problems: list[Problem] = []
    data = _read(root, (), positions, problems)
    try:
        spec = ReleaseSpec.model_validate(data)
    except ValidationError as error:
        kind = str(data["target"].get("kind")) if isinstance(data.get("target"), dict) else ""
        # What stands beside a kind that is not known cannot be judged.
        problems += [
            _problem(dict(detail), positions, kind) for detail in error.errors(include_url=False)
            if kind in known_targets() or detail["loc"][:1] != ("target",) or detail["type"] != "extra_forbidden"
        ]  # fmt: skip
    if problems:
        problems.sort(key=lambda problem: (problem.line, problem.column))
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise SpecError(f"{name} has {count}", problems=problems)
    return _resolve_paths(spec, folder) if folder else spec


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


def _resolve_paths(spec: ReleaseSpec, folder: Path) -> ReleaseSpec:
    changes: dict[str, Any] = {}
    if ":/" not in spec.artifact:
        changes["artifact"] = str((folder / spec.artifact).resolve())
    if spec.gates.smoke.examples != "input_example":
        smoke = spec.gates.smoke.model_copy(update={"examples": str((folder / spec.gates.smoke.examples).resolve())})
        changes["gates"] = spec.gates.model_copy(update={"smoke": smoke})
    if spec.monitor and spec.monitor.reference not in {"training", "champion"}:
        reference = str((folder / spec.monitor.reference).resolve())
        changes["monitor"] = spec.monitor.model_copy(update={"reference": reference})
    return spec.model_copy(update=changes)


def _read(node: Node, location: Location, positions: Positions, problems: list[Problem]) -> Any:  # noqa: ANN401
    """Turn a YAML node into data, noting where each key and item stands and every key given twice."""
    positions.setdefault(location, (node.start_mark.line + 1, node.start_mark.column + 1))
    if isinstance(node, MappingNode):
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            line, column = key_node.start_mark.line + 1, key_node.start_mark.column + 1
            if key in data:
                problems.append(
                    Problem(line=line, column=column, field=_dotted((*location, key)), message="is given twice")
                )
            positions[(*location, key)] = (line, column)
            data[key] = _read(value_node, (*location, key), positions, problems)
        return data
    if isinstance(node, SequenceNode):
        return [_read(item, (*location, index), positions, problems) for index, item in enumerate(node.value)]
    if isinstance(node, ScalarNode) and node.tag == "tag:yaml.org,2002:float":
        return node.value if "_" in node.value or ":" in node.value else _number(node.value)
    return yaml.SafeLoader("").construct_object(node, deep=True)


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _problem(detail: dict[str, Any], positions: Positions, target: str) -> Problem:
    location: Location = tuple(detail["loc"])
    known = location
    while known not in positions:
        known = known[:-1]
    line, column = positions[known]
    field = _dotted(location)
    message, hint = _explain(detail, location, target)
    missing = detail["type"] == "missing"
    found = detail.get("input")
    value = (
        "" if missing or isinstance(found, dict | list | tuple) or detail["type"] == "extra_forbidden" else repr(found)
    )
    return Problem(line=line, column=column, field=field or "the file", message=message, value=value, hint=hint)


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
    if isinstance(found, str) and found in PLANNED_VALUES.get(named, ()):
        return f"{found} is not built yet", f"built today: {_allowed(detail)}"
    message = str(detail["msg"]).removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if detail["type"] in {"float_type", "int_type", "int_parsing", "float_parsing"}:
        message = "is a number"
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


def _yaml_problem(error: yaml.MarkedYAMLError) -> Problem:
    mark = error.problem_mark
    return Problem(
        line=mark.line + 1 if mark else 1,
        column=mark.column + 1 if mark else 1,
        field="the file",
        message=str(error.problem or error.context or "cannot be parsed"),
    )
