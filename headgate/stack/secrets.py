"""What the programs of the local stack know each other by: made once, in a file that only its owner can read."""

from __future__ import annotations

import base64
import json
import secrets
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from headgate.errors import HomeError
from headgate.home import write_atomically

if TYPE_CHECKING:
    from collections.abc import Callable

    from headgate.home import Home

USER = "headgate"
"""The name that signs in to the stack's Prefect and MLflow servers; MLflow's administrator."""


class Secrets(BaseModel):
    """The local stack's secrets.

    Attributes:
        webhook: MLflow signs its deliveries with it.
        alerts: the bearer token that Alertmanager shows.
        mlflow_key: MLflow encrypts the first one with it; a Fernet key, which is 32 bytes in URL-safe base64.
        prefect_password: of the Prefect server.
        mlflow_password: of MLflow's administrator.
        mlflow_forms: MLflow signs the tokens of its forms with it.
    """

    model_config = ConfigDict(frozen=True)

    webhook: str
    alerts: str
    mlflow_key: str
    prefect_password: str
    mlflow_password: str
    mlflow_forms: str

    @property
    def prefect_sign_in(self) -> str:
        """The user and password of the Prefect server, as PREFECT_API_AUTH_STRING and its page want them."""
        return f"{USER}:{self.prefect_password}"

    @classmethod
    def of(cls, home: Home) -> Secrets:
        """Those that were made before, and new ones for what an earlier version had none of.

        Raises:
            HomeError: the file does not hold them.
        """
        known = _read(home)
        made = {name: make() for name, make in _MAKE.items() if name not in known}
        found = _checked(home, {**known, **made})
        if made:
            write_atomically(home.secrets_file, found.model_dump_json(indent=1) + "\n", mode=0o600)
        return found

    @classmethod
    def remembered(cls, home: Home) -> Secrets | None:
        """Those that `headgate up` has made; None where it has not yet.

        Raises:
            HomeError: the file does not hold them.
        """
        known = _read(home)
        return _checked(home, known) if _MAKE.keys() <= known.keys() else None


def _fernet_key() -> str:
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()


_MAKE: dict[str, Callable[[], str]] = {
    name: _fernet_key if name == "mlflow_key" else lambda: secrets.token_urlsafe(32) for name in Secrets.model_fields
}


def _read(home: Home) -> dict[str, object]:
    try:
        known = json.loads(home.secrets_file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise _unusable(home) from error
    if not isinstance(known, dict):
        raise _unusable(home)
    return known


def _checked(home: Home, content: dict[str, object]) -> Secrets:
    try:
        return Secrets.model_validate(content)
    except ValueError as error:
        # pydantic's own message repeats the values.
        raise _unusable(home) from error


def _unusable(home: Home) -> HomeError:
    return HomeError(f"{home.secrets_file} does not hold the stack's secrets", fix="remove it and run: headgate up")
