"""What the server reads from its environment."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

WORKERS = "HEADGATE_SERVER_WORKERS"
WORKER_CHOICES = ("auto", "1", "2")
KEEP_BYTES = 2**30
"""What a prediction log may have on disk, where nothing else is set."""


class SettingError(ValueError):
    """A variable has a value that the server cannot use."""


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
    """HEADGATE_WORKERS: processes, where several were asked for (`runtime.replicas`)."""
    scratch: Path | None
    """HEADGATE_SCRATCH: the one folder that is written to; without it there is no prediction log."""
    endpoint: str
    """HEADGATE_ENDPOINT: for labels."""
    revision: str
    """HEADGATE_REVISION: for labels."""
    log_predictions: bool
    """HEADGATE_PREDICTION_LOG: `off` switches it off."""
    log_sample: float = 1.0
    """HEADGATE_LOG_SAMPLE: the share of requests that are kept."""
    log_hidden: tuple[str, ...] = ()
    """HEADGATE_LOG_HIDDEN: a JSON list of fields whose values are not kept."""
    log_keep: int = KEEP_BYTES
    """HEADGATE_LOG_KEEP: bytes that the log may have on disk; the oldest rows go."""

    socket: Path | None = None
    """HEADGATE_SOCKET: a Unix socket to listen on, in place of host and port."""
    deadline: float = 60.0
    """HEADGATE_DEADLINE: seconds within which a body comes, and within which it is answered."""
    workers_ended: int = 0
    """HEADGATE_WORKERS_ENDED: how many workers have ended before this one; it is in the place of the last of them."""
    worker_loads: float = 0.0
    """HEADGATE_WORKER_LOADS: seconds in which the first worker loaded the model."""
    is_spare: bool = False
    """HEADGATE_WORKER_SPARE: whether another worker answers while this one loads; workers.py sets all three."""
    server_workers: str = "auto"
    """HEADGATE_SERVER_WORKERS: 1, 2, or auto: two where there is room (headgate_server/room.py)."""

    @classmethod
    def from_env(cls) -> Settings:
        """Read the environment.

        Raises:
            SettingError: HEADGATE_SERVER_WORKERS has another value than those.
        """
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
            log_sample=float(env.get("HEADGATE_LOG_SAMPLE", "1")),
            log_hidden=tuple(json.loads(env.get("HEADGATE_LOG_HIDDEN", "[]"))),
            log_keep=int(env.get("HEADGATE_LOG_KEEP", KEEP_BYTES)),
            socket=Path(env["HEADGATE_SOCKET"]) if env.get("HEADGATE_SOCKET") else None,
            deadline=float(env.get("HEADGATE_DEADLINE", "60")),
            workers_ended=int(env.get("HEADGATE_WORKERS_ENDED", "0")),
            worker_loads=float(env.get("HEADGATE_WORKER_LOADS", "0")),
            is_spare=env.get("HEADGATE_WORKER_SPARE") == "1",
            server_workers=_server_workers(env.get(WORKERS) or "auto"),
        )


def _server_workers(given: str) -> str:
    if given not in WORKER_CHOICES:
        raise SettingError(f"{WORKERS} is {given!r}, and not one of {', '.join(WORKER_CHOICES)}")
    return given
