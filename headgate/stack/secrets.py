"""What the programs of the local stack know each other by: made once, in a file that only its owner can read."""

from __future__ import annotations

import base64
import secrets
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from headgate.errors import HomeError
from headgate.home import write_atomically

if TYPE_CHECKING:
    from headgate.home import Home


class Secrets(BaseModel):
    """The local stack's secrets.

    Attributes:
        webhook: MLflow signs its deliveries with it.
        alerts: the bearer token that Alertmanager shows.
        mlflow_key: MLflow encrypts the first one with it; a Fernet key, which is 32 bytes in URL-safe base64.
    """

    model_config = ConfigDict(frozen=True)

    webhook: str
    alerts: str
    mlflow_key: str

    @classmethod
    def of(cls, home: Home) -> Secrets:
        """Those that were made before, or new ones.

        Raises:
            HomeError: the file does not hold them.
        """
        try:
            return cls.model_validate_json(home.secrets_file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            made = cls(
                webhook=secrets.token_urlsafe(32), alerts=secrets.token_urlsafe(32),
                mlflow_key=base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
            )  # fmt: skip
        except (OSError, ValueError) as error:
            raise HomeError(
                f"{home.secrets_file} does not hold the stack's secrets", fix="remove it and run: headgate up"
            ) from error
        write_atomically(home.secrets_file, made.model_dump_json(indent=1) + "\n", mode=0o600)
        return made
