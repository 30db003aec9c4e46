"""References to secrets in release files: where a value is, and never the value.

    env:NAME            a variable of the environment that `headgate up` started the stack with
    file:/path          a file of the machine that the server runs on, without the line break at its end
    block:secret/NAME   a Secret block of Prefect
    secret:NAME/KEY     an entry of a Kubernetes Secret in the target's namespace

`stack/launch.py` imports this before every server that has secrets, so nothing heavy is imported until it is needed.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from headgate.safe_path import clean, python

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ENV, FILE, BLOCK, CLUSTER = "env", "file", "block", "secret"
_VARIABLE = r"[A-Za-z_][A-Za-z0-9_]*"
PATTERN = (
    rf"^({ENV}:{_VARIABLE}|{FILE}:/[^\x00-\x1f\x7f]+|{BLOCK}:secret/[a-zA-Z0-9_.-]+"
    rf"|{CLUSTER}:[a-z0-9]([a-z0-9.-]{{0,251}}[a-z0-9])?/[a-zA-Z0-9_.-]+)$"
)
"""The four forms. `notify` has the first and, of any type, the third (`headgate.operating.REFERENCE`)."""
OF_THIS_MACHINE = (ENV, FILE, BLOCK)
"""What a server of this machine can be given."""

MOST_BYTES = 65_536
"""Of a value: Linux takes 128 KiB for a variable."""
BLOCK_READER = "tasks.secret_block"
"""The module that prints a block's value."""
NO_BLOCK = 3
"""Its exit code where there is none; any other but 0 says that Prefect did not answer."""


class UnresolvedError(Exception):
    """A reference that leads to no value; the text has the reference and no value."""


class UnavailableError(UnresolvedError):
    """The same, where it may lead to one later: Prefect does not answer."""


def kind_of(reference: str) -> str:
    """Return the form of a reference: `env`, `file`, `block` or `secret`."""
    return reference.partition(":")[0]


def resolve(references: Mapping[str, str], environ: Mapping[str, str], home: Path) -> dict[str, str]:
    """Return the values, by the names of the server's variables.

    Args:
        references: by name, each of a form of OF_THIS_MACHINE.
        environ: where `env:` looks.
        home: HEADGATE_HOME, whose Prefect server is asked for blocks unless PREFECT_API_URL names another.

    Raises:
        UnresolvedError: one leads to no value, or to one that no variable can hold.
        UnavailableError: Prefect did not answer for two minutes.
    """
    return {name: _checked(name, reference, environ, home) for name, reference in references.items()}


def problem_of(reference: str, environ: Mapping[str, str] | None) -> str:
    """Say why a reference cannot be resolved on this machine; empty where it can, or where Prefect would be asked.

    Args:
        reference: of a form of OF_THIS_MACHINE.
        environ: where `env:` looks; None where that is not known.
    """
    if kind_of(reference) == BLOCK or (kind_of(reference) == ENV and environ is None):
        return ""
    try:
        _checked("", reference, environ or {}, Path())
    except UnresolvedError as error:
        return str(error)
    return ""


def _checked(name: str, reference: str, environ: Mapping[str, str], home: Path) -> str:
    kind, _, where = reference.partition(":")
    readers: dict[str, Callable[[str], str]] = {
        ENV: lambda variable: _variable(variable, environ), FILE: _file, BLOCK: lambda block: _block(block, home),
    }  # fmt: skip
    told = f"runtime.secrets.{name}: {reference}" if name else reference
    if kind not in readers:
        raise UnresolvedError(f"{told} is no reference that a server of this machine can be given")
    try:
        value = readers[kind](where)
    except UnavailableError as error:
        raise UnavailableError(f"{told} {error}") from error
    except UnresolvedError as error:
        raise UnresolvedError(f"{told} {error}") from error
    size = len(value.encode("utf-8", "surrogateescape"))
    if not value or "\0" in value or size > MOST_BYTES:
        too_large = f"has more than the {MOST_BYTES} bytes that fit" if size > MOST_BYTES else ""
        raise UnresolvedError(f"{told} {too_large or ('has a NUL in it' if value else 'is empty')}")
    return value


def _variable(name: str, environ: Mapping[str, str]) -> str:
    if name not in environ:
        raise UnresolvedError(
            f"is not set in the environment that `headgate up` started the stack with; use file:/path, or: "
            f"headgate down, then headgate up where {name} is set"
        )
    return environ[name]


def _file(path: str) -> str:
    try:
        # A larger one is not read whole.
        with Path(path).open("rb") as file:
            content = file.read(MOST_BYTES + 2)
    except OSError as error:
        raise UnresolvedError(f"cannot be read: {error.strerror or error}") from error
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise UnresolvedError("is no text in UTF-8") from error
    return text.removesuffix("\n").removesuffix("\r")


def _block(name: str, home: Path) -> str:
    """Have a process that knows Prefect read a block; it finds no code of the model's, beside which this may run."""
    from headgate.home import Home  # noqa: PLC0415 - only for blocks
    from headgate.stack.ports import Ports  # noqa: PLC0415
    from headgate.stack.programs import client_env  # noqa: PLC0415

    ports = Ports.remembered(Home(home))
    env = {**(client_env(Home(home), ports) if ports else {}), **os.environ}
    done = subprocess.run(python(BLOCK_READER, name), env=clean(env), capture_output=True, check=False)
    if done.returncode == 0:
        return str(done.stdout, "utf-8", "surrogateescape")
    if done.returncode == NO_BLOCK:
        raise UnresolvedError("is no Secret block that Prefect has, or its value is no text")
    raise UnavailableError("cannot be asked for: Prefect does not answer")
