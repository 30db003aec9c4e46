"""YAML of a release file as nodes: of bounded size, and every error of the parser as a problem at its line.

A file comes from whoever may write to a repository, and is read by servers, too. PyYAML itself follows aliases (a file
of 400 bytes then has billions of nodes) and nests as deeply as Python's stack allows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml
from yaml.composer import ComposerError
from yaml.reader import ReaderError

from headgate.errors import SpecError
from headgate.findings import Problem

if TYPE_CHECKING:
    from pathlib import Path

    from yaml.nodes import Node, ScalarNode

MAX_BYTES = 1_000_000
MAX_NODES = 10_000
MAX_DEPTH = 20
MAX_INTEGER = 2**63 - 1

_SMALLER = "a release file of everything there is has some 400 entries; remove what is not one"


def read_text(path: Path) -> str:
    """Read a release file, and no more than one may have.

    Raises:
        SpecError: it cannot be read, is not UTF-8, or is larger than MAX_BYTES.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        return _bounded(content, str(path)).decode("utf-8")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SpecError(
            f"cannot read {path}: {reason}", fix="name an existing release file, or write one: headgate init"
        ) from error


def compose(text: str, name: str) -> Node | None:
    """Parse a text; None where it holds nothing.

    Raises:
        SpecError: it is no YAML, has aliases, or is larger or deeper than a release file is.
    """
    _bounded(text.encode("utf-8", "surrogatepass"), name)
    try:
        # `yaml.compose` would import no other loader; this one counts.
        loader = _Bounded(text)
        found: Node | None = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        raise SpecError(f"{name} is not YAML", problems=[_at_mark(error)]) from error
    except ReaderError as error:
        raise SpecError(f"{name} is not YAML", problems=[_at_position(error, text)]) from error
    return found


def value_of(node: ScalarNode) -> Any:  # noqa: ANN401 - whatever the file holds
    """A scalar as Python has it.

    Raises:
        ValueError: there is no such value, such as the 99th month; the message says what is wrong.
    """
    if node.tag == "tag:yaml.org,2002:float":
        return node.value if "_" in node.value or ":" in node.value else _number(node.value)
    try:
        value = yaml.SafeLoader("").construct_object(node, deep=True)
    except yaml.MarkedYAMLError as error:
        raise ValueError(str(error.problem or error.context)) from error
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:
        raise ValueError(f"cannot be read as {node.tag.rpartition(':')[2]}: {error}") from error
    if isinstance(value, int) and abs(value) > MAX_INTEGER:
        raise ValueError(f"numbers are at most {MAX_INTEGER}")
    if isinstance(value, str) and not is_text(value):
        raise ValueError("a text has neither a NUL nor half of a surrogate pair")
    return value


def is_text(value: str) -> bool:
    """Whether a text can be written down and handed on: it has neither a NUL nor half of a surrogate pair."""
    return not any(letter == "\0" or "\ud800" <= letter <= "\udfff" for letter in value)


class _Bounded(yaml.SafeLoader):
    """Composes nodes as the safe loader does, and counts them."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._nodes = self._depth = 0

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        """One node with what is in it."""
        self._nodes += 1
        if self.check_event(yaml.AliasEvent):
            self._refuse("aliases are not read; write the value where it belongs")
        if self._nodes > MAX_NODES:
            self._refuse(f"has more than {MAX_NODES} values; {_SMALLER}")
        if self._depth >= MAX_DEPTH:
            self._refuse(f"is nested more than {MAX_DEPTH} deep; {_SMALLER}")
        self._depth += 1
        node: Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def _refuse(self, why: str) -> None:
        raise ComposerError(None, None, why, self.peek_event().start_mark)  # type: ignore[no-untyped-call]


def _bounded(content: bytes, name: str) -> bytes:
    if len(content) > MAX_BYTES:
        raise SpecError(f"{name} has more than {MAX_BYTES} bytes, and a release file has at most so many", fix=_SMALLER)
    return content


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _at_mark(error: yaml.MarkedYAMLError) -> Problem:
    mark = error.problem_mark or error.context_mark
    return _problem(mark.line if mark else 0, mark.column if mark else 0, str(error.problem or error.context))


def _at_position(error: ReaderError, text: str) -> Problem:
    before = text[: error.position]
    line, column = before.count("\n"), len(before) - (before.rfind("\n") + 1)
    return _problem(line, column, f"has a character that YAML does not allow: {text[error.position]!r}")


def _problem(line: int, column: int, message: str) -> Problem:
    return Problem(line=line + 1, column=column + 1, field="the file", message=message)
