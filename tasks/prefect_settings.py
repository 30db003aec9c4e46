"""Prefect's settings: it reads them when it is imported, and the environment may be another one by now."""

from __future__ import annotations

import prefect.context
from prefect.logging.configuration import setup_logging


def read_again() -> None:
    """Have Prefect read them from the environment, those of its logging too."""
    prefect.context.refresh_global_settings_context()
    setup_logging()
