"""What the server reads from its environment."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """The server's settings; the environment variable of each stands beside it."""

    model: Path
    """HEADGATE_MODEL: the folder with `MLmodel`; default `model` in the working folder."""
    host: str
    """HEADGATE_HOST: default 0.0.0.0, as containers need."""
    port: int
    """AIP_HTTP_PORT (Vertex AI), PORT (Cloud Run and others), or 8080."""
    workers: int
    """HEADGATE_WORKERS: processes."""
    scratch: Path | None
    """HEADGATE_SCRATCH: the one folder that is written to; without it there is no prediction log."""
    endpoint: str
    """HEADGATE_ENDPOINT: for labels."""
    revision: str
    """HEADGATE_REVISION: for labels."""
    log_predictions: bool
    """HEADGATE_PREDICTION_LOG: `off` switches it off."""

    @classmethod
    def from_env(cls) -> Settings:
        """Read the environment."""
        env = os.environ
        scratch = env.get("HEADGATE_SCRATCH")
        return cls(
            model=Path(env.get("HEADGATE_MODEL", "model")).absolute(),
            host=env.get("HEADGATE_HOST", "0.0.0.0"),  # noqa: S104 - containers are reached from outside
            port=int(env.get("AIP_HTTP_PORT") or env.get("PORT") or 8080),
            workers=int(env.get("HEADGATE_WORKERS", "1")),
            scratch=Path(scratch) if scratch else None,
            endpoint=env.get("HEADGATE_ENDPOINT", ""),
            revision=env.get("HEADGATE_REVISION", ""),
            log_predictions=bool(scratch) and env.get("HEADGATE_PREDICTION_LOG", "on") != "off",
        )
