"""What is asked of a kubeconfig before the Kubernetes client reads it.

The client reads a file with PyYAML's slow loader (a mebibyte takes some ten seconds) and looks at no types. It runs the
command of a user's `exec` entry, as kubectl does, and waits for its end. It also runs `cmd-path` of an `auth-provider`,
which kubectl has not done since 1.26, so such a user is refused here.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

_MOST_BYTES = 2**20
_MOST_ALIASES = 100
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class BadKubeconfigError(ValueError):
    """A kubeconfig that is not used; the text says why."""


def require_sane(paths: str, context: str) -> None:
    """Refuse files that are too large, or of another form, and a user that kubectl would not sign in.

    Args:
        paths: as the variable KUBECONFIG has them.
        context: of the file; empty for its current one.

    Raises:
        BadKubeconfigError: one is no kubeconfig.
        OSError: one cannot be read.
        ValueError: one is no UTF-8, or a path has a NUL.
        yaml.YAMLError: one is no YAML.
    """
    found = [_read(Path(path).expanduser()) for path in paths.split(os.pathsep) if path]
    files = [file for file in found if file is not None]
    wanted = context or next((str(file["current-context"]) for file in files if file.get("current-context")), "")
    chosen = _named(files, "contexts", "context", wanted)
    user = _named(files, "users", "user", str(chosen.get("user")))
    cluster = _named(files, "clusters", "cluster", str(chosen.get("cluster")))
    for name in ("server", "proxy-url", "tls-server-name", "certificate-authority", "certificate-authority-data"):
        _require_text(cluster, "cluster", name)
    for name in ("token", "username", "password", "client-certificate-data", "client-key-data", "tokenFile"):
        _require_text(user, "user", name)
    provider = user.get("auth-provider")
    settings = provider.get("config") if isinstance(provider, dict) else None
    if isinstance(settings, dict) and "cmd-path" in settings:
        raise BadKubeconfigError(
            f"user {chosen.get('user')} signs in by cmd-path of an auth-provider, which kubectl has not run "
            "since 1.26; use an exec entry"
        )


def _read(path: Path) -> dict[str, Any] | None:
    """A file's content; None where there is none, as the client passes it over."""
    if not path.exists():
        return None
    if not path.is_file():
        raise BadKubeconfigError(f"{path} is no file")
    if (size := path.stat().st_size) > _MOST_BYTES:
        raise BadKubeconfigError(f"{path} has {size} bytes, and at most {_MOST_BYTES} are read")
    text = path.read_text(encoding="utf-8")
    aliases = sum(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=_LOADER))
    if aliases > _MOST_ALIASES:
        raise BadKubeconfigError(f"{path} has {aliases} aliases, and at most {_MOST_ALIASES} are read")
    content = yaml.load(text, Loader=_LOADER)  # noqa: S506 - it is the safe loader, written in C where there is one
    if not isinstance(content, dict):
        raise BadKubeconfigError(f"{path} is {type(content).__name__}, and no mapping")
    return content


def _named(files: list[dict[str, Any]], entries: str, kind: str, name: str) -> dict[str, Any]:
    """The first entry of that name; empty where there is none, of which the client says so."""
    for file in files:
        listed = file.get(entries)
        if listed is not None and not isinstance(listed, list):
            raise BadKubeconfigError(f"its {entries} are {type(listed).__name__}, and no list")
        for entry in listed or []:
            if not isinstance(entry, dict):
                raise BadKubeconfigError(f"one of its {entries} is {type(entry).__name__}, and no mapping")
            if entry.get("name") == name:
                content = entry.get(kind)
                if not isinstance(content, dict):
                    raise BadKubeconfigError(f"{kind} {name!r} is {type(content).__name__}, and no mapping")
                return content
    return {}


def _require_text(content: dict[str, Any], kind: str, name: str) -> None:
    value = content.get(name)
    if value is not None and not isinstance(value, str):
        raise BadKubeconfigError(f"{name} of its {kind} is {type(value).__name__}, and no text")
