"""Sealing the values of `runtime.env`, so that what is written down shows that a value changed and not the value.

A release writes its file and its revisions into the history, into Prefect's parameters and into MLflow's run.
Resuming, rolling back and a watched release read the values from there again. So a value is encrypted with the
installation's key, by AES-SIV (RFC 5297): the same name and value give the same text, which is therefore a keyed hash
too.

The key is HEADGATE_SEALING_KEY or, without that, the file `sealing.key` in HEADGATE_HOME, made when it is first needed.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
from typing import TYPE_CHECKING

from headgate.errors import BadInputError, HomeError
from headgate.home import Home, unfinished

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cryptography.hazmat.primitives.ciphers.aead import AESSIV

VARIABLE = "HEADGATE_SEALING_KEY"
"""The environment variable with the key, for installations of several machines; URL-safe base64 of 64 bytes."""
PREFIX = "sealed:1:"
NOT_SEALED = frozenset({"HEADGATE_LOG_SAMPLE", "HEADGATE_LOG_HIDDEN", "HEADGATE_LOG_KEEP"})
"""What `capture` says, which the release file's other entries show too."""

_KEY_BYTES = 64
_BLOCK_BITS = 256
"""Values are padded to a multiple of this: the text shows their length to 32 bytes."""
_SHOWN = 12


def seal(env: Mapping[str, str]) -> dict[str, str]:
    """Return the variables with sealed values; those of `capture`, and what is sealed already, stay as they are.

    Raises:
        BadInputError: HEADGATE_SEALING_KEY is no key.
        HomeError: the key cannot be read or made.
    """
    return {
        name: value if name in NOT_SEALED or is_sealed(value) else _seal(_cipher(make=True), name, value)
        for name, value in env.items()
    }


def unseal(env: Mapping[str, str]) -> dict[str, str]:
    """Return the variables with their values; one that was sealed with another key stays sealed.

    Reading a history must not fail for a key that this machine lacks: `require_unsealed` fails, where the value is
    needed.

    Raises:
        BadInputError: HEADGATE_SEALING_KEY is no key.
        HomeError: the key cannot be read.
    """
    return {
        name: _unseal(_cipher(make=False), name, value) if is_sealed(value) else value for name, value in env.items()
    }


def new_key() -> str:
    """Make a key, as HEADGATE_SEALING_KEY takes it."""
    return base64.urlsafe_b64encode(os.urandom(_KEY_BYTES)).decode()


def is_sealed(value: str) -> bool:
    """Whether this is the text of a sealed value."""
    return value.startswith(PREFIX)


def shown(value: str) -> str:
    """Return a sealed value as it is shown to people: its keyed hash, by which a change is seen."""
    try:
        return f"hash:{base64.urlsafe_b64decode(value.removeprefix(PREFIX)).hex()[:_SHOWN]}"
    except (binascii.Error, ValueError):
        return "hash:unreadable"


def require_unsealed(env: Mapping[str, str], what: str) -> None:
    """Refuse to start a server with values that are still sealed.

    Args:
        env: of the server, as it was read.
        what: the release or the revision, for the message.

    Raises:
        BadInputError: this machine's key did not open one.
    """
    if names := sorted(name for name, value in env.items() if is_sealed(value)):
        raise BadInputError(
            f"{what} needs the values of runtime.env {', '.join(names)}, which were sealed with another key than this "
            "machine's",
            fix=f"set {VARIABLE} to the key of the machine that wrote them ({_file()} there), or release again here",
        )


def _seal(cipher: AESSIV | None, name: str, value: str) -> str:
    from cryptography.hazmat.primitives.padding import PKCS7  # noqa: PLC0415 - only for files with runtime.env

    assert cipher is not None  # noqa: S101 - it was made
    padder = PKCS7(_BLOCK_BITS).padder()
    padded = padder.update(value.encode("utf-8", "surrogatepass")) + padder.finalize()
    return PREFIX + base64.urlsafe_b64encode(cipher.encrypt(padded, [name.encode()])).decode()


def _unseal(cipher: AESSIV | None, name: str, text: str) -> str:
    from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - only for files with runtime.env
    from cryptography.hazmat.primitives.padding import PKCS7  # noqa: PLC0415

    if cipher is None:
        return text
    try:
        padded = cipher.decrypt(base64.urlsafe_b64decode(text.removeprefix(PREFIX)), [name.encode()])
    except (InvalidTag, ValueError):
        return text
    unpadder = PKCS7(_BLOCK_BITS).unpadder()
    return (unpadder.update(padded) + unpadder.finalize()).decode("utf-8", "surrogatepass")


def _cipher(*, make: bool) -> AESSIV | None:
    from cryptography.hazmat.primitives.ciphers.aead import AESSIV  # noqa: PLC0415 - only for files with runtime.env

    if given := os.environ.get(VARIABLE):
        return AESSIV(_decoded(given, VARIABLE))
    path = _file()
    try:
        return AESSIV(_decoded(path.read_text(encoding="utf-8"), str(path)))
    except FileNotFoundError:
        return AESSIV(_made()) if make else None
    except (OSError, UnicodeDecodeError) as error:
        raise HomeError(
            f"{path} cannot be read: {error}", fix="see who owns it, or restore it from a backup"
        ) from error


def _decoded(text: str, where: str) -> bytes:
    try:
        key = base64.b64decode(text.strip(), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != _KEY_BYTES:
        raise BadInputError(
            f"{where} is no sealing key: it takes {_KEY_BYTES} bytes in URL-safe base64, and has {len(key)} bytes",
            fix="restore the key; or make one: "
            "python3 -c 'import base64, os; print(base64.urlsafe_b64encode(os.urandom(64)).decode())'",
        )
    return key


def _made() -> bytes:
    """Make the key, unless another process was first; only its owner can read it."""
    path = _file()
    own = unfinished(path)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(os.open(own, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:  # noqa: PTH123 - Path.open takes no mode
            file.write(new_key() + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            # Where another process was first, its key is the one.
            with contextlib.suppress(FileExistsError):
                os.link(own, path)
        finally:
            own.unlink()
        return _decoded(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise HomeError(f"{path} cannot be made: {error}", fix=f"set {VARIABLE}") from error


def _file() -> Path:
    return Home.from_env().sealing_key
