"""The proxies and certificates that the environment names; requests to this machine go past the proxies."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from headgate.credentials import redact
from headgate.errors import BadInputError
from headgate.findings import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_VARIABLES = ("NO_PROXY", "no_proxy")
_FILE, _FOLDERS = "SSL_CERT_FILE", "SSL_CERT_DIR"
CERTIFICATES = (_FILE, _FOLDERS, "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""What httpx and requests read certificates from in place of their own; the last two may name a folder too."""


def named(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the proxies that an environment names, by their variables."""
    return {name: environ[name] for upper in PROXIES for name in (upper, upper.lower()) if environ.get(name)}


def past_proxies(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what an environment lacks, so that loopback is asked directly; nothing where it names no proxy."""
    if not named(environ):
        return {}
    # Libraries read one of the two; curl and requests prefer the lower-case one.
    hosts = [host.strip() for name in _VARIABLES for host in environ.get(name, "").split(",") if host.strip()]
    if "*" in hosts:
        return {}
    return dict.fromkeys(_VARIABLES, ",".join(dict.fromkeys([*hosts, *_LOOPBACK])))


def ask_loopback_directly() -> None:
    """Have this process, and what it starts, ask loopback directly."""
    os.environ.update(past_proxies(os.environ))


def unusable(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Yield the proxies and certificates of an environment that cannot be used."""
    yield from _unusable_proxies(environ)
    for name in CERTIFICATES:
        yield from _unreadable(name, environ)


def require_usable(environ: Mapping[str, str]) -> None:
    """Refuse an environment with which httpx makes no request at all, not even to this machine.

    Raises:
        BadInputError: with the first variable that is wrong.
    """
    # Loading a file of certificates takes 20 ms, so only that of httpx is loaded.
    for found in (*_unusable_proxies(environ), *_unreadable(_FILE, environ)):
        raise BadInputError(f"{found.subject}: {found.problem}", fix=found.fix)


def _unusable_proxies(environ: Mapping[str, str]) -> Iterator[Finding]:
    proxies = named(environ)
    if not proxies:
        return
    # A tenth of a second, which a command pays only where there is a proxy.
    import httpx  # noqa: PLC0415

    for name, url in proxies.items():
        try:
            # As it completes them itself.
            httpx.Proxy(url if "://" in url else f"http://{url}")
        except (ValueError, httpx.InvalidURL) as error:
            # Both messages may repeat the address, with its password.
            why = "is no address" if isinstance(error, httpx.InvalidURL) else "names a scheme that is not known"
            fix = f"set {name} to such as http://proxy.example:3128 or socks5://proxy.example:1080, or unset it"
            yield Finding(severity="error", subject=name, problem=f"{redact(url)} {why}", fix=fix)


def _unreadable(name: str, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Yield why the certificates that a variable names cannot be read."""
    path = environ.get(name)
    if not path:
        return
    problem, what = "", "a file of certificates (PEM)"
    if name == _FOLDERS:
        what = "a folder of certificates"
        if not any(Path(folder).is_dir() for folder in path.split(os.pathsep)):
            problem = f"{path} is no folder"
    elif name == _FILE or not Path(path).is_dir():
        # It is not imported otherwise by a command that asks the engine.
        import ssl  # noqa: PLC0415

        try:
            ssl.create_default_context(cafile=path)
        except FileNotFoundError:
            problem = f"{path} does not exist"
        except OSError as error:
            # An SSLError is one.
            problem = f"{path} has no certificates that can be read: {error.strerror or error}"
    if problem:
        yield Finding(severity="error", subject=name, problem=problem, fix=f"set {name} to {what}, or unset it")
