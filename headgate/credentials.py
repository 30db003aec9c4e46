"""Keeping credentials out of what is written: addresses are shown, and printed by libraries, everywhere."""

from __future__ import annotations

import os
import re
from urllib.parse import unquote, urlsplit, urlunsplit

_CONTAINER_FIRST = frozenset({"wasb", "wasbs", "abfs", "abfss"})
_USERINFO = re.compile(r"(?<=://)[^/\s'\"]+@")


NO_USERINFO = (
    "addresses have no user and no password, as they are written down with the release; give these to the "
    "worker by the variables of the library that reads the address, such as AWS_PROFILE"
)

_SECRETS = {
    kind: re.compile(pattern)
    for kind, pattern in {
        "a private key": r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----",
        "an address with a password": r"[a-zA-Z][a-zA-Z0-9+.-]*://[^/\s:@'\"]*:[^/\s@'\"]+@",
        "an AWS access key": r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
        "an Azure storage key": r"\b(?:AccountKey|SharedAccessKey)=[A-Za-z0-9+/]{40,}={0,2}",
        "a Google API key": r"\bAIza[\w-]{35}(?![\w-])",
        "a GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_\w{50,})",
        "a GitLab token": r"\bglpat-[\w-]{20,}",
        "a Hugging Face token": r"\bhf_[A-Za-z0-9]{30,}",
        "a Slack token": r"\bxox[abeoprs]-[\w-]{10,}",
        "a Stripe key": r"\b[rs]k_live_[A-Za-z0-9]{20,}",
        "an API key of OpenAI's or Anthropic's form": r"\bsk-(?:ant-|proj-)?[\w-]{32,}",
        "a Databricks token": r"\bdapi[0-9a-f]{32}",
        "a PyPI token": r"\bpypi-[\w-]{50,}",
        "an npm token": r"\bnpm_[A-Za-z0-9]{36}",
        "a signed token (JWT)": r"\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{16,}",
    }.items()
}
"""Formats of secrets that are no accident of ordinary settings."""


def redact(text: str) -> str:
    """A text without the user and password of the addresses in it."""
    return _USERINFO.sub("", text)


def with_userinfo(address: str) -> bool:
    """Whether a text is an address with a user or a password; the name before the @ of `abfss://…` is none."""
    scheme, is_address, rest = address.partition("://")
    user, has_user, _ = re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")
    return bool(is_address and has_user and (":" in user or scheme.lower() not in _CONTAINER_FIRST))


def without_userinfo(address: str) -> str:
    """Return an address unchanged where it holds no user and no password.

    Raises:
        ValueError: one has a user or a password; the message does not repeat them. What stands before the @ in
            `abfss://container@account` is none.
    """
    if with_userinfo(address):
        raise ValueError(NO_USERINFO)
    return address


def secret_kind(text: str) -> str:
    """Name the kind of secret that a text holds, such as `a GitHub token`; empty where it is of no known format.

    The formats are those that their makers publish, so that a text that is no secret is hardly ever taken for one. A
    password of no format is not known.
    """
    return next((kind for kind, pattern in _SECRETS.items() if pattern.search(text)), "")


def separate_credentials() -> None:
    """Move a user and password from MLflow's address to the variables that its client reads them from.

    The client prints its address in messages and tracebacks, which Prefect keeps.
    """
    parts = urlsplit(os.environ.get("MLFLOW_TRACKING_URI", ""))
    if parts.username is None or parts.hostname is None:
        return
    os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(parts.username)
    os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(parts.password or "")
    os.environ["MLFLOW_TRACKING_URI"] = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
